/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  The messages that a transaction holds until it commits.
 *
 * The messages are written one after the other into a log.  What a
 * subtransaction that is rolled back has added is the end of it (levels.c), so
 * the log is cut off where it was before, whatever was behind that.
 *
 * All is allocated in the transaction's context; nothing that is called at
 * the transaction's end throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "ledger/log.h"
#include "ledger/queue.h"
#include "message/packed.h"

/* Of the current transaction; a backend has one. */
static NpQueueSummary summary;
static NpLog messages = {.what = "held messages",.file = -1};
static uint64 reading;			/* where np_queue_next does */

/* ---- Adding ---------------------------------------------------------------- */

/*
 * Hold a copy of the message, to go out on the session of this number; the
 * subtransaction has a level.  ERROR when out of memory or of disk.
 */
void
np_queue_add(const NpMessage *message, int session)
{
	NpMessage	held = *message;

	held.session = session;
	np_packed_write(&held, np_log_append(&messages, np_packed_size(&held)));
	summary.count++;
	summary.largest = Max(summary.largest, message->headers.length + message->payload.length);
	summary.needs = Max(summary.needs, message->needs);
	summary.sessions |= UINT64CONST(1) << session;
}

NpQueueSummary
np_queue_summary(void)
{
	return summary;
}

bool
np_queue_holds_for(const NpQueueSummary *held, int session)
{
	return (held->sessions >> session & 1) != 0;
}

/* Do all messages that are held go out on one session? */
bool
np_queue_only_session(const NpQueueSummary *held, int *session)
{
	if (pg_popcount64(held->sessions) != 1)
		return false;
	*session = pg_rightmost_one_pos64(held->sessions);
	return true;
}

/* ---- Reading ---------------------------------------------------------------- */

/* Start over with the first message. */
void
np_queue_rewind(void)
{
	reading = 0;
}

/*
 * The next message in the order of the calls; false at the end.  It points
 * into the queue's memory, until the next call.
 */
bool
np_queue_next(NpMessage *message)
{
	NpPackedHead head;

	if (reading >= np_log_length(&messages))
		return false;
	memcpy(&head, np_log_read(&messages, reading, sizeof(head)), sizeof(head));
	np_packed_read(message, np_log_read(&messages, reading, np_packed_length(&head)));
	reading += np_packed_length(&head);
	return true;
}

/* ---- Ends -------------------------------------------------------------------- */

/* What is held now, for np_queue_cut. */
NpQueueMark
np_queue_mark(void)
{
	NpQueueMark mark = {.length = np_log_length(&messages),.summary = summary};

	return mark;
}

/* What was added since is gone. */
void
np_queue_cut(const NpQueueMark *mark)
{
	np_log_cut(&messages, mark->length);
	summary = mark->summary;
}

/* Free what a successful transaction must not leave to its resource owner. */
void
np_queue_close(void)
{
	np_log_close(&messages);
	memset(&summary, 0, sizeof(summary));
}

/* The transaction has ended; its context takes the memory, its owner the file. */
void
np_queue_reset(void)
{
	memset(&summary, 0, sizeof(summary));
	np_log_reset(&messages);
	reading = 0;
}
