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

/* Before the bytes of each message in the log: subject, headers, payload. */
typedef struct Record
{
	uint32		subject_length;
	uint32		headers_length;
	uint32		payload_length;
	uint32		id_offset;		/* in the headers */
	uint32		id_length;		/* 0: none */
	uint32		stream_offset;	/* likewise, the expected stream */
	uint32		stream_length;
	uint8		session;
	bool		has_headers;
	bool		has_automatic_id;
	uint8		needs;			/* NpFeature */
} Record;

/* Of the current transaction; a backend has one. */
static NpQueueSummary summary;
static NpLog messages = {.what = "held messages",.file = -1};
static uint64 reading;			/* where np_queue_next does */

/* ---- Adding ---------------------------------------------------------------- */

static char *
put(char *to, NpSpan span)
{
	if (span.length > 0)
		memcpy(to, span.data, span.length);
	return to + span.length;
}

/*
 * Hold a copy of the message, to go out on the session of this number; the
 * subtransaction has a level.  ERROR when out of memory or of disk.
 */
void
np_queue_add(const NpMessage *message, int session)
{
	Record		record = {
		.subject_length = message->subject.length,
		.headers_length = message->headers.length,
		.payload_length = message->payload.length,
		.id_length = message->id.length,
		.stream_length = message->expect_stream.length,
		.session = session,
		.has_headers = message->headers.data != NULL,
		.has_automatic_id = message->has_automatic_id,
		.needs = message->needs
	};
	size_t		content = message->headers.length + message->payload.length;
	char	   *to;

	if (message->id.data != NULL)
		record.id_offset = message->id.data - message->headers.data;
	if (message->expect_stream.data != NULL)
		record.stream_offset = message->expect_stream.data - message->headers.data;

	to = np_log_append(&messages, sizeof(record) + message->subject.length + content);
	memcpy(to, &record, sizeof(record));
	to = put(to + sizeof(record), message->subject);
	to = put(to, message->headers);
	put(to, message->payload);
	summary.count++;
	summary.largest = Max(summary.largest, content);
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

static size_t
body_length(const Record *record)
{
	return (size_t) record->subject_length + record->headers_length + record->payload_length;
}

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
	Record		record;
	const char *body;

	if (reading >= np_log_length(&messages))
		return false;
	memcpy(&record, np_log_read(&messages, reading, sizeof(record)), sizeof(record));
	body = np_log_read(&messages, reading, sizeof(record) + body_length(&record)) + sizeof(record);
	reading += sizeof(record) + body_length(&record);

	memset(message, 0, sizeof(*message));
	message->subject = (NpSpan) {body, record.subject_length};
	body += record.subject_length;
	if (record.has_headers)
		message->headers = (NpSpan) {body, record.headers_length};
	if (record.id_length > 0)
		message->id = (NpSpan) {body + record.id_offset, record.id_length};
	if (record.stream_length > 0)
		message->expect_stream = (NpSpan) {body + record.stream_offset, record.stream_length};
	body += record.headers_length;
	message->payload = (NpSpan) {body, record.payload_length};
	message->session = record.session;
	message->has_automatic_id = record.has_automatic_id;
	message->needs = record.needs;
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
