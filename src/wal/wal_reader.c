/*-------------------------------------------------------------------------
 *
 * wal_reader.c
 *	  The slot of a database, read into the queue.
 *
 * What is decoded waits in the queue (wal_queue.c), and the slot is confirmed
 * up to where all of that has come to its end (wal_position.c).  Decoding that
 * was ended by an error begins again at the slot, and what is in the queue
 * already, or has been, is left out.
 *
 * Behind too many transactions that have ended the process (wal_trouble.c), it
 * waits until they are confirmed.
 *
 * It asks to be woken only when it has read all, and not at once: so it reads
 * in batches when there is much.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/pg_lsn.h"

#include "base/catch.h"
#include "base/settings.h"
#include "base/wal_end.h"
#include "outbox/wal_annotations.h"
#include "outbox/wal_slot.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"
#include "wal/decoder.h"
#include "wal/wal_attempt.h"
#include "wal/wal_divert.h"
#include "wal/wal_diverting.h"
#include "wal/wal_queue.h"
#include "wal/wal_reader.h"
#include "wal/wal_standby.h"
#include "wal/wal_trouble.h"

/* So often it is shown how much of a large transaction is decoded. */
#define SHOWN_MESSAGES		1024

/* While a large transaction is decoded: after so many messages it is looked what has been answered. */
#define PUMP_MESSAGES		64

/* Likewise, when it makes no messages: after so many changes it is looked whether it is time to, for what was committed before it. */
#define PUMP_CHANGES		256
#define PUMP_INTERVAL		NP_MILLISECONDS(20)

/* So often the position is written down. */
#define SAVE_INTERVAL		NP_MILLISECONDS(1000)

/*
 * For so long after it has read WAL, it does not ask to be woken, so that transactions gather: longer and longer while more
 * than one does.  Each batch costs the processor time here and in the server, however small it is.
 */
#define SHORTEST_QUIET		NP_MILLISECONDS(1)
#define LONGEST_QUIET		NP_MILLISECONDS(4)

/* When there is WAL that is not flushed yet (synchronous_commit = off). */
#define UNFLUSHED_INTERVAL	NP_MILLISECONDS(10)

/* Reading goes on for so long before something else is done. */
#define READ_TIME			NP_MILLISECONDS(5)

static const NpReaderOwner *owner;
static bool may_have_more;		/* there may be WAL that was not read */
static NpTime quiet_until;		/* it does not ask to be woken before */
static NpTime quiet = SHORTEST_QUIET;	/* so long that was */
static int	gathered;			/* transactions with messages that were read since then */
static uint32 wakes_seen;
static bool is_listening;
static XLogRecPtr confirmed;
static XLogRecPtr saved;
static XLogRecPtr next_position;	/* to be confirmed; 0: none ... */
static XLogRecPtr needed;		/* ... once standbys have this ... */
static NpTime needed_since;		/* ... which is waited for since then */
static NpTime next_save;
static bool slot_is_missed;		/* that was logged */
static TransactionId decoding;	/* the transaction that is being decoded; 0: none */
static int64 decoded;			/* its messages so far */
static int64 changes;			/* of any transactions, and messages in the WAL */
static NpTime next_pump;		/* if it makes no messages */
static XLogRecPtr others_in;	/* the transaction that is being decoded, if others' code was called in it;
								 * 0: it was not */
static bool may_be_late;		/* what was read may have taken long */
static int64 forged;			/* messages with our prefix that are not ours */

/* It and all messages before it, by commit, number and place, are in the queue, or have been. */
static XLogRecPtr queued_commit;
static uint64 queued_number;
static int	queued_place;

/* Nothing is read until this is confirmed: what comes next may end the process, too, and the next one is not to meet all of these again. */
static XLogRecPtr held_until;

/* Reading was ended by an error, which it may meet again: what is in the queue comes first, so that it does not wait for that. */
static bool is_reading;
static bool has_failed;

/* ---- What is decoded ---------------------------------------------------------------------- */

/*
 * Was this message queued before?  By its commit, the number of its change, and
 * its place in that.  Counting them would not do: a change that had two messages
 * may have one error when it is decoded again.
 */
static bool
is_known(const NpDecodedTransaction *transaction, int place)
{
	if (transaction->commit_lsn != queued_commit)
		return transaction->commit_lsn < queued_commit;
	if (transaction->number != queued_number)
		return transaction->number < queued_number;
	return place <= queued_place;
}

/* What it meets is no affair of what is decoded. */
static void
pump(void)
{
	XLogRecPtr	previous = others_in;

	others_in = InvalidXLogRecPtr;
	owner->pump();
	others_in = previous;
}

/* A message that was decoded.  Decoded again, those that are known are left out. */
static void
take(void *argument, int place, const NpMessage *message, const NpWalError *error)
{
	NpDecodedTransaction *transaction = argument;
	int64		number = transaction->messages++;

	decoding = (TransactionId) transaction->xid;
	decoded = transaction->messages;
	if (number % SHOWN_MESSAGES == SHOWN_MESSAGES - 1)
		owner->show();
	if (is_known(transaction, place))
		return;
	np_wal_queue_add(np_position_begin(decoding, transaction->commit_lsn, transaction->end_lsn), message, error);
	queued_commit = transaction->commit_lsn;
	queued_number = transaction->number;
	queued_place = place;
	if (np_wal_queue_is_full() && number % PUMP_MESSAGES == 0)
		pump();
}

/* Many changes, and others' messages, can make few of ours, or none, and those of earlier transactions are not to wait for them. */
static void
pump_in_time(void)
{
	if (np_now() < next_pump)
		return;
	if (np_wal_queue_count() > 0)
		pump();
	/* also without any: that nothing was to be published is progress */
	owner->show();
	next_pump = np_now() + PUMP_INTERVAL;
}

static void
pump_sometimes(void)
{
	if (++changes % PUMP_CHANGES == 0)
		pump_in_time();
}

/* Does the next message wait until others see what its transaction has written?  That is a matter of moments. */
static bool
is_not_seen_yet(void)
{
	const NpWalRecord *record = np_wal_queue_peek();
	const NpWalTransaction *transaction = record == NULL ? NULL : np_wal_record_transaction(record);

	return transaction != NULL && transaction->was_awaited && !transaction->is_seen;
}

/* What is in the queue is sent now, as far as it can be. */
static void
pump_all(void)
{
	NpTime		limit = np_now() + PUMP_INTERVAL;

	pump();
	while (is_not_seen_yet() && np_now() < limit)
	{
		np_sleep_briefly(1000);
		pump();
	}
}

/* A few changes can take long then: what was committed before does not wait for the first of them. */
static void
before_others(XLogRecPtr commit)
{
	if (others_in != commit && np_wal_queue_count() > 0)
		pump_all();
	else
		pump_in_time();
	others_in = commit;
	may_be_late = true;
}

static void
on_change(NpDecodedTransaction *transaction, Relation relation, ReorderBufferChange *change)
{
	np_wal_change(transaction, relation, change, take, transaction);
	pump_sometimes();
}

static void
on_truncate(NpDecodedTransaction *transaction, int count, Relation *relations, ReorderBufferChange *change)
{
	np_wal_truncate(transaction, count, relations, change, take, transaction);
	pump_sometimes();
}

static void
read_message(NpDecodedTransaction *transaction, const char *data, size_t length)
{
	NpMessage	message;

	if (np_wal_read(owner->secret, (TransactionId) transaction->xid, data, length, &message))
		take(transaction, 0, &message, NULL);
	else
		forged++;
}

static void
on_message(NpDecodedTransaction *transaction, const char *prefix, const char *data, size_t length)
{
	transaction->number++;
	if (strcmp(prefix, NP_WAL_ANNOTATIONS_PREFIX) == 0)
		np_wal_change_annotate(transaction, data, length);
	else if (strcmp(prefix, NP_WAL_PREFIX) == 0)
		read_message(transaction, data, length);
	pump_sometimes();
}

static void
nothing_is_decoded(void)
{
	decoding = InvalidTransactionId;
	decoded = 0;
}

static void
on_commit(NpDecodedTransaction *transaction)
{
	np_wal_change_end(transaction, take, transaction);
	np_position_complete(transaction->commit_lsn);
	if (np_wal_trouble_was_endless(transaction->commit_lsn) && np_wal_trouble_has_no_room(confirmed))
		held_until = transaction->end_lsn;
	gathered += transaction->messages > 0;
	nothing_is_decoded();
}

static const NpDecoderEvents decoder_events = {
	.change = on_change,
	.truncate = on_truncate,
	.message = on_message,
	.commit = on_commit
};

/* To be called once. */
void
np_reader_of(const NpReaderOwner *whose)
{
	owner = whose;
	np_wal_change_init();
	np_wal_attempts_init(before_others);
}

/* ---- Reading -------------------------------------------------------------------------------- */

/* False: it can't be read. */
static bool
slot_is_usable(const NpWalSlot *slot)
{
	const char *problem;

	if (slot->state == NP_WAL_SLOT_USABLE)
		return true;
	problem = slot->state == NP_WAL_SLOT_MISSING ? "there is no replication slot \"%s\"" :
		slot->state == NP_WAL_SLOT_LOST ? "replication slot \"%s\" has lost WAL that was not published" :
		"replication slot \"%s\" is not one of nats_publish";
	problem = psprintf(problem, slot->name);
	np_relay_slot_set_error(np_worker_slot(), problem);
	np_worker_show_state(NP_RELAY_NO_SLOT);
	if (!slot_is_missed)
		ereport(LOG,
				(errmsg("nats_publish WAL relay has nothing to read: %s", problem),
				 errdetail("What was committed after %X/%X and not published will not be published.", LSN_FORMAT_ARGS(slot->confirmed)),
				 errhint("Call nats_wal_enable() to start over.")));
	slot_is_missed = true;
	return false;
}

/*
 * To be called when a round begins, which may end before anything listens: the
 * process rests until somebody wakes it from now on.
 */
void
np_reader_begin(void)
{
	wakes_seen = np_relay_slot_wakes(np_worker_slot());
}

static NpStatement set_lost =
{
	.text = "UPDATE %s.nats_wal SET lost_from = $2, lost_to = $3, lost_at = pg_catalog.clock_timestamp()"
	" WHERE database OPERATOR(pg_catalog.=) $1",
	.argument_count = 3,
	.types =
	{
		TEXTOID, PG_LSNOID, PG_LSNOID
	}
};

static void
write_loss(XLogRecPtr from, XLogRecPtr to)
{
	MemoryContext caller;
	Datum		values[3];

	np_decoder_leave();
	if (np_outbox_begin(&caller))
	{
		values[0] = np_wal_database();
		values[1] = LSNGetDatum(from);
		values[2] = LSNGetDatum(to);
		np_outbox_execute_on("nats_wal", &set_lost, values, NULL, false);
	}
	np_outbox_commit(caller);
}

/*
 * The slot is where somebody else has moved it, or is another one of its name.
 * nats_wal_enable() tells when it makes another one; and of a slot that this
 * server did not read since it was started, nothing is known.
 */
static void
check_position(const NpWalSlot *slot)
{
	XLogRecPtr	known = np_relay_confirmed(MyDatabaseId);

	if (XLogRecPtrIsInvalid(known) || slot->confirmed <= known)
		return;
	/* who switches it off, and waits for this to be published, has locked the table */
	if (np_relay_ordered(np_worker_slot()) != NP_WAL_FINISH)
		write_loss(known, slot->confirmed);
	np_relay_slot_set_error(np_worker_slot(), psprintf("replication slot \"%s\" was advanced, or made anew, by somebody else", slot->name));
	ereport(WARNING,
			(errmsg("replication slot \"%s\" was advanced, or made anew, by somebody else", slot->name),
			 errdetail("What was committed between %X/%X and %X/%X and not published will not be published.",
					   LSN_FORMAT_ARGS(known), LSN_FORMAT_ARGS(slot->confirmed))));
}

/* Begin where the slot is, if that is not done.  False: there is none that can be read, which is shown. */
bool
np_reader_open(void)
{
	NpWalSlot	slot;

	if (np_decoder_is_open())
		return true;
	slot = np_wal_slot(MyDatabaseId);
	if (!slot_is_usable(&slot))
		return false;
	check_position(&slot);
	np_decoder_open(slot.name, &decoder_events);
	slot_is_missed = false;
	np_relay_set_confirmed(MyDatabaseId, slot.confirmed);
	confirmed = saved = slot.confirmed;
	np_position_begin_at(confirmed);
	next_position = InvalidXLogRecPtr;
	may_have_more = true;
	return true;
}

/*
 * After an error, when the transaction is aborted: it begins again.  True: it
 * was one of what is decoded, which comes to its end without a pause.
 */
bool
np_reader_abort(const ErrorData *error)
{
	bool		is_of_decoded = is_reading && others_in != InvalidXLogRecPtr && !np_is_of_server(error->sqlerrcode) &&
	np_wal_trouble_ended(others_in, error);

	np_decoder_abort();
	nothing_is_decoded();
	held_until = InvalidXLogRecPtr;
	has_failed |= is_reading;
	is_reading = false;
	others_in = InvalidXLogRecPtr;
	return is_of_decoded;
}

/* May there be WAL that was not read, and may it be? */
bool
np_reader_may_read(void)
{
	return may_have_more && confirmed >= held_until && !(has_failed && np_diverting_has_more_to_end()) &&
		!np_wal_queue_is_full() && !np_divert_is_full();
}

/* All is read that there was. */
static void
be_quiet(void)
{
	quiet = gathered > 1 ? Min(quiet * 2, LONGEST_QUIET) : Max(quiet / 2, SHORTEST_QUIET);
	quiet_until = np_now() + quiet;
	gathered = 0;
}

/* Read some of it. */
void
np_reader_read(void)
{
	NpTime		begun = np_now();

	for (int i = 0; np_reader_may_read(); i++)
	{
		is_reading = true;
		may_have_more = np_decoder_step();
		is_reading = has_failed = false;
		others_in = InvalidXLogRecPtr;
		if (!may_have_more && i > 0)
			be_quiet();
		if ((may_be_late || i % 256 == 255) && np_now() - begun > READ_TIME)
			break;
	}
	may_be_late = false;
}

/* ---- The position ----------------------------------------------------------------------- */

/* Write the position down. */
void
np_reader_save(void)
{
	if (!np_decoder_is_open() || saved == confirmed)
		return;
	np_decoder_save();
	saved = confirmed;
}

/*
 * What was moved to nats_outbox is there behind its transaction: a standby with
 * the slot, and the WAL up to its position, is to have that, too.  What comes to
 * its end meanwhile is not waited for: there is always more of it.
 */
static void
confirm(void)
{
	XLogRecPtr	position = np_position_of(np_decoder_position());

	if (next_position == InvalidXLogRecPtr && position > confirmed)
	{
		next_position = position;
		needed = np_divert_moved_until();
		needed_since = np_now();
	}
	if (next_position == InvalidXLogRecPtr || !np_standbys_have(needed))
		return;
	/* before: it is never behind the slot */
	np_relay_set_confirmed(MyDatabaseId, next_position);
	np_decoder_confirm(next_position);
	confirmed = next_position;
	next_position = InvalidXLogRecPtr;
}

/* Have the slot let go what has come to its end, and write that down now and then. */
void
np_reader_confirm(void)
{
	confirm();
	if (np_now() < next_save)
		return;
	np_reader_save();
	next_save = np_now() + SAVE_INTERVAL;
}

/* Up to where standbys are to have the WAL, and since when that is waited for, so that a position can be confirmed; 0: none waits. */
XLogRecPtr
np_reader_awaited(NpTime *since)
{
	*since = needed_since;
	return next_position == InvalidXLogRecPtr ? InvalidXLogRecPtr : needed;
}

/* When it is to be written down next. */
NpTime
np_reader_next_save(void)
{
	return next_save;
}

/* ---- Waiting for WAL ---------------------------------------------------------------------- */

/* Has somebody committed, or is it time to look whether somebody has? */
bool
np_reader_is_asked(void)
{
	if (!may_have_more && is_listening && np_relay_slot_was_woken(np_worker_slot(), wakes_seen))
		may_have_more = true;
	return np_reader_may_read();
}

/* To be called before it waits: when is it to look unasked? */
NpTime
np_reader_listen(void)
{
	is_listening = false;
	wakes_seen = np_relay_slot_wakes(np_worker_slot());
	/* there is no room for it: who has committed before can't wake it again and again */
	if (may_have_more)
		return NP_FOREVER;
	if (np_now() < quiet_until)
		return quiet_until;
	wakes_seen = np_relay_slot_listen(np_worker_slot());
	is_listening = true;
	may_have_more = np_decoder_has_more();
	if (may_have_more)
		return 0;
	return np_now() + (np_wal_end() > np_decoder_position() ? UNFLUSHED_INTERVAL : NP_MILLISECONDS(np_relay_poll_interval));
}

/* Until then it does not ask to be woken. */
NpTime
np_reader_quiet_until(void)
{
	return quiet_until;
}

/* Somebody has waited, and it may be time to look. */
void
np_reader_look(void)
{
	may_have_more = true;
}

/* How often somebody had committed when it listened last. */
uint32
np_reader_wakes(void)
{
	return wakes_seen;
}

/* Where it is. */
void
np_reader_show(NpWalProgress *progress)
{
	progress->read = np_decoder_is_open() ? np_decoder_position() : InvalidXLogRecPtr;
	progress->confirmed = confirmed;
	progress->queued = np_wal_queue_count();
	progress->queued_bytes = np_wal_queue_bytes();
	progress->decoding = decoding;
	progress->decoded = decoded;
	progress->forged = forged;
}
