/*-------------------------------------------------------------------------
 *
 * wal_relay.c
 *	  The background worker that publishes the WAL of its database.
 *
 *	  read WAL, transaction by transaction (wal_reader.c, decoder.c)
 *	  ──► messages of the outbox, and of changed rows (wal_change.c)
 *	  ──► wait for their turn (wal_queue.c)
 *	  ──► publish them, as the relay of the table does (flight.c, lanes.c)
 *	  ──► or move them to nats_outbox (wal_divert.c, and when, wal_diverting.c)
 *	  ──► confirm, up to where all have come to their end (wal_position.c)
 *
 * In order, messages of a stream are chained as those of the table are
 * (chains.c).  One that has failed does not wait for its next attempt here: it
 * is moved, and those of its subject follow it.  So none is ever passed by.
 *
 * It is a process of its own, beside the relay of the table: what is in the
 * caches while WAL is decoded is of the past, and a large transaction keeps
 * it busy for long.
 *
 * What is between publishing and the position that was saved when the worker
 * dies is published again, under the same ids.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/catch.h"
#include "base/settings.h"
#include "base/wait.h"
#include "outbox/outbox.h"
#include "outbox/relay_pause.h"
#include "outbox/wal_message.h"
#include "outbox/wal_slot.h"
#include "publish/session.h"
#include "relay/flight.h"
#include "relay/lanes.h"
#include "relay/outbox_glance.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"
#include "relay/streams.h"
#include "stats/shared_stats.h"
#include "stats/stats.h"
#include "wal/decoder.h"
#include "wal/wal_divert.h"
#include "wal/wal_diverting.h"
#include "wal/wal_queue.h"
#include "wal/wal_reader.h"
#include "wal/wal_standby.h"
#include "wal/wal_visible.h"

PGDLLEXPORT void np_wal_relay_main(Datum argument);

/* How often the tables are looked into unasked. */
#define LOOK_INTERVAL		NP_MILLISECONDS(5000)
#define DIVERTED_INTERVAL	NP_MILLISECONDS(1000)
#define HELD_INTERVAL		NP_MILLISECONDS(20)

/* How often it is looked whether nats_wal_enable() has been committed. */
#define SECRET_INTERVAL		NP_MILLISECONDS(50)

/* After so long it is looked less often, and a slot of an extension that is gone is dropped, though there is another one by now. */
#define SECRET_PATIENCE		NP_MILLISECONDS(5000)

/* How often it is looked whether a transaction is visible, and on the standbys; who waits for these at COMMIT wakes it, too. */
#define WITHHELD_INTERVAL	NP_MILLISECONDS(5)

/* For so long standbys may be waited for without a word, and then it is looked less often. */
#define STANDBYS_LATE		NP_MILLISECONDS(5000)
#define LATE_INTERVAL		NP_MILLISECONDS(100)

/* While a large transaction is decoded, so long it is waited, so that what comes need not go into a file. */
#define PUMP_WAIT			NP_MILLISECONDS(20)

/* After a problem it is looked so often whether the WAL is kept for too long, or is too much. */
#define PROBLEM_INTERVAL	NP_MILLISECONDS(1000)

/* A relay is a process, and this is its state. */
static NpSession *session;		/* on which messages go out; NULL: none yet */
static NpSession *wanted;		/* on which they are to, when nothing is on its way any more */
static NpWalSecret secret;
static bool has_secret;			/* else nats_wal_enable() is not committed yet ... */
static NpTime secret_missed;	/* ... which is waited for since then; 0: it is not */
static Oid	secret_of;			/* the extension that has it, or had; InvalidOid: none was known */
static NpRelayState stopped_as; /* while nothing is sent; NP_RELAY_PUBLISHING: it is */
static NpTime next_look;		/* into the tables */
static bool must_look;
static bool is_looking;			/* into the tables, right now */
static bool round_failed;		/* the last one, by an error */
static bool is_remembered;		/* what was moved to the table; not while that is out of order */
static NpWalProgress progress;
static bool is_withheld;		/* what comes next is not on all standbys, or not visible to others ... */
static NpTime withheld_since;	/* ... since then at the latest ... */
static XLogRecPtr withheld_end; /* ... and ends there */
static int64 published;			/* since that was last counted */
static NpTime tried_at;			/* when it was published, or tried, last */
static bool has_pumped;			/* while this was read, messages could be sent ... */
static bool may_connect;		/* ... and if not for a lack of a connection, one may be tried to make */
static dlist_head ended = DLIST_STATIC_INIT(ended); /* rows, of which nothing more was done */
static bool has_failed;			/* some of these were not stored */
static MemoryContext round_context; /* of what a round needs */

static bool
may_publish(void)
{
	return stopped_as == NP_RELAY_PUBLISHING;
}

/* After a problem it is not tried before its time; the WAL is read meanwhile, and moved. */
static bool
may_try(void)
{
	return may_publish() && np_now() >= np_worker_next_try();
}

/* ---- What becomes of messages ---------------------------------------------------------- */

/* Not freed here: whoever sends it still looks at it.  A failed one is known to be moved before the next one of its subject may go. */
static void
end_row(NpRow *row)
{
	has_failed |= row->state != NP_ROW_STORED;
	if (row->state == NP_ROW_FAILED || row->state == NP_ROW_DEAD)
		np_divert_later(row);
	else
		dlist_push_tail(&ended, &row->node);
}

static void
settle_row(NpRow *row)
{
	switch (row->state)
	{
		case NP_ROW_STORED:
			published++;
			np_wal_queue_end(row->source);
			np_row_free(row);
			break;
		case NP_ROW_DOUBTED:
			np_wal_record_doubt(row->source);
			np_row_free(row);
			break;
		default:
			/* it is published again */
			np_row_free(row);
			break;
	}
}

/* What has ended is written down, or is to be. */
static void
settle(void)
{
	while (!dlist_is_empty(&ended))
		settle_row(dlist_container(NpRow, node, dlist_pop_head_node(&ended)));
	has_failed = false;
	if (published > 0)
		np_diverting_progressed();
}

static bool
admit_row(NpRow *row)
{
	if (!np_divert_holds(row->message.subject))
		return true;
	row->state = NP_ROW_FAILED;
	return false;
}

static const NpFlightOwner flight_owner = {.ended = end_row,.admits = admit_row,.is_followed = true};

/* Nothing is on its way any more, and what is not known to be stored is published again. */
static void
begin_again(void)
{
	(void) np_flight_abort();
	settle();
	np_wal_queue_return_all();
}

static void
report_problem(const char *problem)
{
	np_worker_report_problem(session, problem);
	begin_again();
}

/* ---- Sending ---------------------------------------------------------------------------- */

static NpRow *
make_row(NpWalRecord *record)
{
	NpMessage	message = np_wal_record_message(record);
	NpRow	   *row = np_row_create(np_wal_record_number(record), NULL, message.subject);
	NpSpan		subject = row->message.subject;
	NpWalError	error;

	row->source = record;
	row->in_doubt = np_wal_record_is_doubted(record);
	row->length = message.headers.length + message.payload.length;
	row->message = message;
	row->message.subject = subject;
	if (np_wal_record_error(record, &error))
	{
		np_row_refuse(row, error.sqlstate, error.text);
		row->state = NP_ROW_DEAD;
	}
	return row;
}

/* In order, what was moved to the table though nothing was wrong with it goes first, as long as that is soon. */
static bool
is_held(void)
{
	return np_relay_ordering != NP_RELAY_RELAXED && np_divert_holds_all();
}

static bool
may_take(void)
{
	return np_lanes_unsent() < np_relay_batch_size && !np_divert_is_full() && !is_held() && !np_flight_waits_for_first(wanted);
}

/* The next message of those that others see the rows of, and a failover does not take back. */
static NpWalRecord *
peek(void)
{
	NpWalRecord *record = np_wal_queue_peek();
	NpWalTransaction *transaction = record == NULL ? NULL : np_wal_record_transaction(record);
	bool		was_withheld = is_withheld;

	is_withheld = record != NULL && !(np_standbys_have(transaction->end_lsn) && np_others_see(transaction));
	if (is_withheld && !was_withheld)
		withheld_since = np_now();
	if (is_withheld)
		withheld_end = transaction->end_lsn;
	return is_withheld ? NULL : record;
}

/* The next message that may go; NULL: there is none now. */
static NpWalRecord *
next_record(void)
{
	return may_take() ? peek() : NULL;
}

static void
enter(NpRow *row)
{
	if (np_lanes_enter(row, np_relay_ordering != NP_RELAY_RELAXED))
		return;
	np_row_free(row);
	elog(ERROR, "a message of the WAL was skipped");
}

static void
take_messages(void)
{
	NpWalRecord *record;

	settle();
	while ((record = next_record()) != NULL)
	{
		np_wal_queue_take();
		enter(make_row(record));
	}
}

/* False: there is a problem, and it is reported. */
static bool
send_messages(void)
{
	const char *problem;

	if (wanted != session && np_flight_count() > 0)
		return true;
	take_messages();
	if (np_lanes_first() == NULL)
		return true;
	np_flight_begin(wanted);
	session = wanted;
	if (np_worker_shown_state() != NP_RELAY_PUBLISHING)
		pgstat_report_activity(STATE_RUNNING, "publishing the WAL");
	np_worker_show_state(NP_RELAY_PUBLISHING);
	if (np_flight_send(&problem))
		return true;
	report_problem(problem);
	return false;
}

/* ---- While a transaction is decoded --------------------------------------------------------------------------- */

static bool
has_room(NpSession *of_flight, void *unused)
{
	return np_flight_has_room() || np_flight_count() == 0;
}

/*
 * Is there a connection for that?  A worker that has just begun makes one; but an
 * attempt can take long, and in vain there is one at most while this is read.
 */
static bool
can_pump(void)
{
	const char *problem;

	if (wanted == session && np_worker_is_connected(session))
		return true;
	if (np_flight_count() > 0 || !may_connect || !may_try())
		return false;
	np_flight_begin(wanted);
	session = wanted;
	may_connect = np_flight_connect(session, &problem);
	return may_connect;
}

/*
 * Send and receive while a large transaction is decoded, without a look into
 * tables, and without a wait for what does not answer, but for a stream that
 * was not asked lately.  What is to be moved is left where it is.
 */
static void
pump(void)
{
	const char *problem;

	if (np_diverting_is_on() || !may_publish() || np_divert_is_full() || !can_pump())
		return;
	has_pumped = true;
	np_flight_ask();
	take_messages();
	if (np_lanes_first() != NULL && !np_flight_send(&problem))
		return;
	if (!np_worker_is_connected(session))
		return;
	np_connection_receive(session->connection);
	if (np_wal_queue_is_full() && np_flight_count() > 0)
		(void) np_session_wait(session, NP_WAIT_ACK, has_room, NULL, np_ack_timeout, np_now() + PUMP_WAIT);
}

static void
show_progress(void)
{
	np_reader_show(&progress);
	np_relay_slot_set_progress(np_worker_slot(), &progress);
	if (published > 0)
	{
		np_relay_slot_count(np_worker_slot(), published, 0, 0);
		np_worker_report_success(session);
	}
	if (np_diverting_is_done() || is_withheld)
		np_diverting_progressed();
	published = 0;
}

static const NpReaderOwner reader_owner = {.secret = &secret,.pump = pump,.show = show_progress};

/* ---- The tables ------------------------------------------------------------------------- */

static bool
is_paused(void)
{
	return np_glance_is_paused() || np_pause_is_marked(np_outbox_extension());
}

static void
look_inside(void)
{
	wanted = np_outbox_session();
	has_secret = np_wal_secret(get_rel_namespace(np_outbox_table()), &secret);
	if (has_secret)
	{
		secret_of = np_outbox_extension();
		secret_missed = 0;
	}
	stopped_as = is_paused() ? NP_RELAY_PAUSED : np_publishing != NP_PUBLISHING_ON ? NP_RELAY_OFF : NP_RELAY_PUBLISHING;
	if (!is_remembered && np_relay_ordering != NP_RELAY_RELAXED)
		np_divert_remember();
	is_remembered = np_relay_ordering != NP_RELAY_RELAXED;
	/* all else is known, also when that raises */
	must_look = false;
	next_look = np_now() + DIVERTED_INTERVAL;
	np_diverting_look();
}

static void
look(void)
{
	MemoryContext caller;

	must_look = is_looking = true;
	np_decoder_leave();
	if (np_outbox_begin(&caller))
		look_inside();
	else
		stopped_as = np_outbox_absent_as();
	np_outbox_commit(caller);
	must_look = is_looking = false;
	next_look = np_now() + (is_held() ? HELD_INTERVAL : np_divert_is_empty() ? LOOK_INTERVAL : DIVERTED_INTERVAL);
}

static void
divert(void)
{
	NpDiverted	diverted;

	np_decoder_leave();
	np_diverting_write(&diverted);
	/* the outbox is gone */
	must_look |= diverted.moved + diverted.kept == 0;
	progress.diverted += diverted.moved;
}

static bool
is_time_to_divert(void)
{
	return !is_withheld && np_diverting_is_time(may_publish());
}

static void
begin_to_divert(void)
{
	begin_again();
	np_diverting_begin();
}

/* Move a batch of all that is there. */
static void
divert_all(void)
{
	NpWalRecord *record;

	/* what was taken to be sent would not be moved, and those behind it would */
	Assert(np_lanes_unsent() == 0 && np_flight_count() == 0);
	while (!np_divert_is_full() && (record = peek()) != NULL)
	{
		NpRow	   *row;

		np_wal_queue_take();
		row = make_row(record);
		if (row->state == NP_ROW_UNSENT)
			row->state = NP_ROW_FAILED;
		np_divert_untried(row);
	}
}

/* All is moved, or the table does not take it: is NATS there again? */
static void
try_to_publish(void)
{
	const char *problem;

	if (!may_try())
		return;
	if (!np_flight_connect(wanted, &problem))
	{
		report_problem(problem);
		return;
	}
	np_diverting_end();
	must_look = true;
}

/* ---- Waiting ---------------------------------------------------------------------------- */

static bool
is_time_to_look(void)
{
	must_look |= np_relay_slot_is_told(np_worker_slot());
	return must_look || np_now() >= next_look;
}

/* What could be sent waits until there is room for some of it: one by one would be dear. */
static bool
can_go_on(NpSession *of_flight, void *unused)
{
	return np_flight_count() == 0 || np_flight_has_culprit() || has_failed || is_time_to_look() ||
		(may_try() && wanted == session && (np_flight_has_room() || (np_lanes_first() == NULL && next_record() != NULL))) || np_reader_is_asked();
}

/* While transactions gather, so do answers on which nothing waits. */
static bool
answers_can_wait(void)
{
	return np_now() < np_reader_quiet_until() && np_lanes_unsent() == 0 && np_wal_queue_peek() == NULL &&
		np_worker_is_connected(session) && np_outbound_unsent(np_session_outbound(session)) == 0;
}

/* When it is looked again for what is withheld since a time. */
static NpTime
next_check(NpTime since)
{
	NpTime		now = np_now();

	return now + (now > since + STANDBYS_LATE ? LATE_INTERVAL : WITHHELD_INTERVAL);
}

/* What is on its way is answered, or something else is to be done. */
static void
wait_for_answers(void)
{
	NpTime		limit = np_flight_patience_ends();
	NpTime		next_read = NP_FOREVER;
	NpTime		next_publish = is_withheld ? next_check(withheld_since) : NP_FOREVER;

	if (answers_can_wait())
		np_sleep(NP_WAIT_ACK, np_reader_quiet_until());
	if (np_worker_is_connected(session))
	{
		/* there may be no wait */
		np_connection_receive(session->connection);
		next_read = np_reader_listen();
	}
	next_read = Min(next_read, next_publish);
	next_read = Min(next_read, np_diverting_next_write());
	(void) np_session_wait(session, NP_WAIT_ACK, can_go_on, NULL, np_ack_timeout, Min(limit, next_read));
	if (np_now() >= next_read)
		np_reader_look();
}

/* False: there is a problem, and it is reported. */
static bool
receive_answers(void)
{
	const char *problem;

	wait_for_answers();
	if (np_flight_has_culprit())
		np_flight_convict();
	if (np_flight_give_up_unanswered(&problem))
		return true;
	report_problem(problem);
	return false;
}

/* ---- One round -------------------------------------------------------------------------- */

/* What is on its way, and what is next. */
static bool
publish(void)
{
	np_flight_ask();
	if (may_try() && !np_diverting_is_on() && !send_messages())
		return false;
	if (np_flight_count() > 0 && !receive_answers())
		return false;
	settle();
	return true;
}

static void
divert_what_must_be(void)
{
	if (!np_diverting_is_on() && is_time_to_divert())
		begin_to_divert();
	if (np_diverting_is_on())
		divert_all();
	np_divert_set_apart();
	if (np_diverting_may_write())
		divert();
}

/* Is there more to be moved than waits for that, and room for it? */
static bool
has_more_to_divert(void)
{
	return np_wal_queue_count() > np_divert_waiting() && !is_withheld && !np_divert_is_full();
}

static bool
has_work(void)
{
	return np_flight_count() > 0 || np_reader_may_read() || np_diverting_may_write() ||
		(np_diverting_is_on() ? has_more_to_divert() :
		 may_try() && (np_lanes_first() != NULL || next_record() != NULL));
}

/* Up to where standbys do not have the WAL that they are waited for for long, to publish or to confirm; 0: there is none. */
static XLogRecPtr
late_on_standbys(void)
{
	NpTime		since;
	XLogRecPtr	awaited = np_reader_awaited(&since);

	if (is_withheld && np_now() > withheld_since + STANDBYS_LATE && !np_standbys_have(withheld_end))
		return withheld_end;
	return awaited != InvalidXLogRecPtr && np_now() > since + STANDBYS_LATE ? awaited : InvalidXLogRecPtr;
}

static void
show_waiting_for_standbys(XLogRecPtr position)
{
	if (np_worker_shown_state() != NP_RELAY_STANDBYS)
		np_standbys_report(position);
	np_worker_show_state(NP_RELAY_STANDBYS);
}

static void
show_rest(void)
{
	const char *problem;

	if (np_diverting_is_on())
		return;
	if (!may_publish())
		np_worker_show_state(stopped_as);
	else if (!may_try())
		np_worker_show_state(NP_RELAY_WAITING);
	else if (!np_worker_keep_connection(session, &problem))
		report_problem(problem);
	else
	{
		XLogRecPtr	late = late_on_standbys();

		np_worker_end_pause();
		if (late != InvalidXLogRecPtr)
			show_waiting_for_standbys(late);
		else if (!np_diverting_is_stuck())
			np_worker_show_state(NP_RELAY_IDLE);
	}
}

/* When there may be something to do, though nobody says so. */
static NpTime
next_round(void)
{
	/* not in Min(), which calls twice */
	NpTime		next_read = np_reader_listen();
	NpTime		next_save = np_reader_next_save();
	NpTime		since;
	NpTime		next_publish = is_withheld ? next_check(withheld_since) : NP_FOREVER;
	NpTime		next_confirm = np_reader_awaited(&since) != InvalidXLogRecPtr ? next_check(since) : NP_FOREVER;
	NpTime		next = Min(Min(next_look, next_read), Min(next_save, Min(next_publish, next_confirm)));

	next = Min(next, np_diverting_next_write());
	if (np_worker_has_problem())
		next = Min(next, Max(np_worker_next_try(), np_now()));
	/* told since the round began, it was woken in vain */
	return is_time_to_look() ? 0 : next;
}

/* The extension was dropped, and with it all that could be published: its slot only keeps WAL. */
static void
drop_slot(void)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);

	np_decoder_close();
	if (slot.state == NP_WAL_SLOT_USABLE || slot.state == NP_WAL_SLOT_LOST)
	{
		ReplicationSlotDrop(slot.name, true);
		ereport(LOG, (errmsg("nats_publish WAL relay has dropped replication slot \"%s\": the extension is gone", slot.name)));
	}
	proc_exit(0);
}

/*
 * Who makes the slot then writes the secret down; until that is committed, a
 * message would be taken for forged.  A rollback leaves the slot alone.
 */
static NpTime
wait_for_secret(void)
{
	bool		is_late;

	if (np_worker_shown_state() != NP_RELAY_NO_SLOT)
		np_relay_slot_set_error(np_worker_slot(), "the replication slot was not made by nats_wal_enable(), or that was rolled back");
	if (secret_missed == 0)
		secret_missed = np_now();
	np_worker_show_state(NP_RELAY_NO_SLOT);
	is_late = np_now() > secret_missed + SECRET_PATIENCE;
	if (is_late && OidIsValid(secret_of) && secret_of != np_outbox_extension())
		drop_slot();
	must_look = true;
	return np_now() + (is_late ? LOOK_INTERVAL : SECRET_INTERVAL);
}

/* What it knows of it may be another one's when it is there again. */
static NpTime
wait_for_table(void)
{
	np_relay_slot_set_error(np_worker_slot(), "nats_outbox has another name or schema than the extension's");
	np_worker_show_state(NP_RELAY_NO_TABLE);
	must_look = true;
	return np_now() + DIVERTED_INTERVAL;
}

/* While a transaction was decoded and nothing could be sent, it is not NATS that was away. */
static void
read_wal(void)
{
	NpTime		begun = np_now();

	has_pumped = false;
	may_connect = true;
	np_reader_read();
	if (may_try() && !(has_pumped && np_worker_is_connected(session)))
		np_diverting_excuse(np_now() - begun);
}

/* Do what there is to do; returns until when there is nothing else. */
static NpTime
run_round(void)
{
	bool		is_well;

	round_failed = false;
	if (!has_secret || !np_decoder_is_open())
		np_reader_begin();
	if (is_time_to_look())
		look();
	if (stopped_as == NP_RELAY_NO_EXTENSION)
		drop_slot();
	if (stopped_as == NP_RELAY_NO_TABLE)
		return wait_for_table();
	if (!has_secret)
		return wait_for_secret();
	if (!np_reader_open())
		return next_look;
	/* what is waited for leaves the table, which is to go on */
	if (np_diverting_is_done() || is_held())
		np_diverting_progressed();
	read_wal();
	/* also when nothing is sent: what is withheld is not moved to the table */
	(void) peek();
	is_well = publish();
	tried_at = np_now();
	np_worker_show_order();
	divert_what_must_be();
	np_reader_confirm();
	if (is_well && np_diverting_may_end(has_work()))
		try_to_publish();
	if (np_diverting_is_on())
		np_worker_show_state(NP_RELAY_DIVERTING);
	if (!is_well || has_work())
		return 0;
	show_rest();
	return next_round();
}

/* A table that is locked is looked into later; what is known of it counts until then. */
static bool
failed_to_look(const ErrorData *error)
{
	bool		failed = is_looking && has_secret && np_is_of_others(error->sqlerrcode);

	is_looking = false;
	if (!failed)
		return false;
	np_relay_slot_set_error(np_worker_slot(), error->message);
	must_look = false;
	next_look = np_now() + DIVERTED_INTERVAL;
	return true;
}

/* It was ended by an error. */
static void
fail_round(const ErrorData *error)
{
	bool		is_over;

	if (np_diverting_failed(error))
	{
		is_looking = false;
		return;
	}
	if (failed_to_look(error))
		return;
	is_over = np_reader_abort(error);
	if (!is_over)
		np_worker_report_error(session, error);
	begin_again();
	/* it did not come to publishing, which says nothing about NATS */
	np_diverting_excuse(np_now() - tried_at);
	tried_at = np_now();
	round_failed = !is_over;
}

/* ---- The process ------------------------------------------------------------------------ */

static void
rest(NpTime until)
{
	if (round_failed || !np_worker_has_problem())
		np_worker_rest(until, np_reader_wakes());
	else
		np_worker_pause(Min(until, np_now() + PROBLEM_INTERVAL));
	if (until > 0)
		np_reader_look();
}

static void
save_at_exit(int code, Datum argument)
{
	np_reader_save();
}

/* The worker of the slot `argument`; its database is in bgw_extra. */
void
np_wal_relay_main(Datum argument)
{
	np_worker_start(DatumGetInt32(argument), MyBgworkerEntry->bgw_extra);
	before_shmem_exit(save_at_exit, (Datum) 0);
	round_context = AllocSetContextCreate(TopMemoryContext, "nats_publish WAL relay", ALLOCSET_DEFAULT_SIZES);
	stopped_as = NP_RELAY_STARTING;
	np_flight_of(&flight_owner);
	np_reader_of(&reader_owner);
	must_look = true;
	tried_at = np_now();
	np_diverting_progressed();
	HOLD_CANCEL_INTERRUPTS();
	for (;;)
	{
		NpTime		until;

		CHECK_FOR_INTERRUPTS();
		if (np_relay_ordered(np_worker_slot()) == NP_WAL_LEAVE)
			proc_exit(0);
		must_look |= np_worker_reload();
		MemoryContextSwitchTo(round_context);
		until = np_worker_try_round(run_round, fail_round);
		show_progress();
		MemoryContextReset(round_context);
		np_worker_end_round(session);
		rest(until);
	}
}
