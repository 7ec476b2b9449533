/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The background worker that publishes the outbox of its database.
 *
 *	  read what is new or due (a short transaction)
 *	  ──► publish it (no transaction: NATS may take its time)
 *	  ──► delete what is stored, put off or dead-letter what failed (a transaction)
 *
 * The three go on side by side: what is read next is sent while earlier rows
 * are still on their way, and what has ended is written down in bulk.
 *
 * What is between the second step and the third when the worker dies is
 * published again, under the same id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/settings.h"
#include "base/wait.h"
#include "message/protocol.h"
#include "outbox/relay_state.h"
#include "publish/delivery.h"
#include "publish/session.h"
#include "relay/chains.h"
#include "relay/flight.h"
#include "relay/lanes.h"
#include "relay/outbox_due.h"
#include "relay/outbox_probes.h"
#include "relay/missed_slot.h"
#include "relay/outbox_source.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"
#include "relay/settling.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"
#include "stats/stats.h"
#include "wire/connection.h"

PGDLLEXPORT void np_relay_main(Datum argument);

/* Between looks for an extension that is not there. */
#define ABSENT_PAUSE		NP_MILLISECONDS(5000)

/* The longest time that what has ended is not written down while more is expected. */
#define SETTLE_DELAY		NP_MILLISECONDS(10)

/*
 * Rows behind one that is not answered for so long give up their place, and
 * so do many of one subject when nothing could be read for so long; or for
 * twice as long as reading takes.
 */
#define SLOW				NP_MILLISECONDS(250)

/* Between tries to write down what others have locked, or what met an error. */
#define FIRST_KEPT_DELAY	NP_MILLISECONDS(200)
#define LAST_KEPT_DELAY		NP_MILLISECONDS(5000)

/* So many batches of that are kept in hand before nothing more is read. */
#define MOST_KEPT_BATCHES	4

/* When all has been read, subjects may take more room again, at times. */
#define WIDEN_INTERVAL		NP_MILLISECONDS(1000)

/* A relay is a process, and this is its state. */
static NpSession *session;		/* on which rows go out; NULL: none yet */
static NpSession *wanted;		/* on which they are to, when nothing is on its way any more */
static bool must_settle;		/* before anything is read */
static bool must_look;			/* as soon as there is room */
static uint32 wakes_seen;		/* when it was looked last */
static NpTime next_look;		/* unasked */
static NpTime next_narrowing;	/* when lanes that have all the room are made narrower, ... */
static NpTime next_widening;	/* ... and wider again */
static NpTime next_kept;		/* when rows that could not be written are tried again; NP_FOREVER: there are
								 * none */
static NpTime kept_delay = FIRST_KEPT_DELAY;
static NpRelayState failing_as; /* some of them for an error; NP_RELAY_PUBLISHING: none */
static NpTime first_ended;		/* since when rows have ended that are not written down; 0: none have */
static NpRelayState stopped_as; /* while nothing is sent; NP_RELAY_PUBLISHING: it is */
static bool is_at_table;		/* it is read, or written to, right now */

static MemoryContext round_context; /* of what a round needs */

/* ---- One round ------------------------------------------------------------------------ */

/* Nothing is on its way any more, and what is not known to be stored is read again. */
static void
begin_again(void)
{
	int64		lowest = np_flight_abort();

	if (lowest != 0)
		np_source_go_back(lowest);
	np_due_walk_again();
	np_probes_none();
	must_settle = must_look = true;
}

static void
report_problem(const char *problem)
{
	np_worker_report_problem(session, problem);
	begin_again();
}

/* What was not sent is read again; what is on its way comes to its end. */
static void
clear(void)
{
	int64		lowest = np_flight_clear();

	if (lowest != 0)
		np_source_go_back(lowest);
	np_due_walk_again();
	np_probes_none();
}

/* Nothing is sent for now. */
static void
stop(NpRelayState state)
{
	clear();
	stopped_as = state;
}

/* A row has come to its end. */
static void
end_row(NpRow *row)
{
	if ((row->is_probe || row->has_failed) && row->state != NP_ROW_DOUBTED)
		np_probes_ended(row);

	/*
	 * until it is written down it stays in hand, so that a look would pass it by; and rows behind it would
	 * not find in the table what holds them up
	 */
	must_settle |= row->state == NP_ROW_DOUBTED || np_row_holds_untold(row);
	np_settle_later(row);
}

static bool
admit_row(NpRow *row)
{
	return true;
}

static const NpFlightOwner flight_owner = {.ended = end_row,.admits = admit_row};

/* ---- Writing down ------------------------------------------------------------------- */

/* Others may have locked rows for long: they are tried again less and less often. */
static void
try_kept_later(const NpSettled *settled, bool were_tried)
{
	if (settled->sqlerrcode != 0 && failing_as == NP_RELAY_PUBLISHING)
		ereport(LOG,
				(errmsg("nats_publish relay cannot write down what became of messages: %s", settled->error),
				 errdetail("It keeps these in hand, goes on with others, and keeps trying.")));
	if (settled->sqlerrcode == 0 && failing_as != NP_RELAY_PUBLISHING)
		ereport(LOG, (errmsg("nats_publish relay has written down what became of all messages")));
	failing_as = settled->sqlerrcode == 0 ? NP_RELAY_PUBLISHING :
		settled->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ? NP_RELAY_NO_RIGHTS : NP_RELAY_FAILING;
	if (np_settle_kept() == 0)
	{
		next_kept = NP_FOREVER;
		kept_delay = FIRST_KEPT_DELAY;
	}
	else if (were_tried || next_kept == NP_FOREVER)
	{
		next_kept = np_now() + kept_delay;
		kept_delay = Min(kept_delay * 2, LAST_KEPT_DELAY);
	}
}

/* Write down what has become of rows. */
static void
settle(void)
{
	NpSettled	settled;
	bool		kept_too = np_now() >= next_kept;

	/* what ends meanwhile is another time's */
	must_settle = false;
	first_ended = 0;
	is_at_table = true;
	np_settle(&settled, kept_too);
	is_at_table = false;
	np_relay_slot_count(np_worker_slot(), settled.published, settled.failed, settled.dead);
	if (settled.error != NULL)
		np_relay_slot_set_error(np_worker_slot(), settled.error);
	if (settled.is_changed)
		np_source_look_again();
	must_look |= settled.is_changed || settled.has_let_go;
	if (settled.has_let_go || settled.has_returned)
		np_due_walk_again();
	/* that it is put off wakes nobody */
	np_due_put_off(settled.next_due);
	next_look = Min(next_look, settled.next_due);
	try_kept_later(&settled, kept_too);
	/* not before it is written down: what fails each time is to be tried less and less often */
	if (settled.published + settled.failed + settled.dead > 0)
		np_worker_report_success(session);
	pgstat_report_stat(false);
}

static bool
is_time_to_settle(void)
{
	if (must_settle || np_now() >= next_kept)
		return true;
	if (np_settle_waiting() == 0)
		return false;
	return np_settle_waiting() >= np_relay_batch_size || (np_flight_count() == 0 && np_lanes_first() == NULL) ||
		(first_ended > 0 && np_now() >= first_ended + SETTLE_DELAY);
}

/* ---- Reading ------------------------------------------------------------------------- */

static bool
is_asked_to_look(void)
{
	return must_look || np_probes_have_released() || np_chains_free() != 0 || np_lanes_have_due() ||
		np_relay_slot_was_woken(np_worker_slot(), wakes_seen) || np_now() >= Min(next_look, np_source_next_back());
}

/* What could not be written takes memory, and would be published again if the process ended. */
static bool
has_kept_too_many(void)
{
	return np_settle_kept() >= np_relay_batch_size * MOST_KEPT_BATCHES;
}

/* Most of what was read has been sent: there is room for more. */
static bool
may_look(void)
{
	return !has_kept_too_many() && np_lanes_unsent() <= np_relay_batch_size / 2 && np_rows_bytes() <= np_rows_max_bytes() / 2 &&
		!np_flight_waits_for_first(wanted);
}

/* For how many rows there is room. */
static int
room(void)
{
	return np_flight_knows_streams(wanted) ? np_relay_batch_size - np_lanes_unsent() : 1;
}

static NpOutboxLook
look_into_outbox(void)
{
	NpTime		begun = np_now();
	NpOutboxLook look = {
		.room = room(),
		.largest = np_worker_is_connected(session) ? np_connection_max_payload(session->connection) : NP_MAX_PAYLOAD_LENGTH,
		.ordered = np_relay_ordering != NP_RELAY_RELAXED
	};

	/* before it looks: what comes meanwhile is another time's */
	wakes_seen = np_relay_slot_listen(np_worker_slot());
	must_look = true;
	if (np_lanes_find_due())
		np_due_walk_again();
	is_at_table = true;
	np_source_read(&look);
	is_at_table = false;
	must_look = look.has_more;
	next_look = Min(np_now() + NP_MILLISECONDS(np_relay_poll_interval), look.next_due);
	next_narrowing = np_now() + Max(SLOW, (np_now() - begun) * 2);
	if (!look.has_more && may_look() && np_now() >= next_widening)
	{
		np_lanes_widen();
		next_widening = np_now() + WIDEN_INTERVAL;
	}
	return look;
}

static void
read_more(void)
{
	NpOutboxLook look = look_into_outbox();

	switch (look.state)
	{
		case NP_OUTBOX_ABSENT:
			begin_again();
			must_look = false;
			next_look = np_now() + ABSENT_PAUSE;
			stop(np_outbox_absent_as());
			break;
		case NP_OUTBOX_PAUSED:
			stop(NP_RELAY_PAUSED);
			break;
		case NP_OUTBOX_THERE:
			stopped_as = NP_RELAY_PUBLISHING;
			wanted = look.session;
			break;
	}
}

/*
 * What waits behind others of its subject has all the room, and nothing else
 * can be sent: rows of other subjects are behind it in the table, and get some.
 */
static void
make_room(void)
{
	if (may_look() || has_kept_too_many() || np_lanes_first() != NULL)
		return;
	np_lanes_pass_slow(np_now() - SLOW);
	if (!may_look() && np_now() >= next_narrowing)
	{
		np_lanes_narrow();
		next_widening = np_now() + WIDEN_INTERVAL;
	}
}

/* ---- Publishing ---------------------------------------------------------------------- */

static void
show_publishing(void)
{
	if (np_worker_shown_state() != NP_RELAY_PUBLISHING)
		pgstat_report_activity(STATE_RUNNING, "publishing the outbox");
	np_worker_show_state(NP_RELAY_PUBLISHING);
}

/* False: there is a problem, and it is reported. */
static bool
send_rows(void)
{
	const char *problem;

	if (wanted != session && np_flight_count() > 0)
		return true;
	if (np_lanes_first() == NULL)
		return true;
	np_flight_begin(wanted);
	session = wanted;
	/* it waits for NATS until it is connected again */
	if (np_worker_shown_state() != NP_RELAY_WAITING)
		show_publishing();
	if (np_flight_send(&problem))
	{
		show_publishing();
		return true;
	}
	report_problem(problem);
	return false;
}

static bool
can_go_on(NpSession *of_flight, void *unused)
{
	return np_flight_count() == 0 || np_settle_waiting() >= np_relay_batch_size || np_flight_has_culprit() ||
		(np_settle_waiting() > 0 && first_ended == 0) ||
		(stopped_as == NP_RELAY_PUBLISHING && wanted == session && np_flight_has_room()) || (may_look() && is_asked_to_look());
}

/* What is on its way is answered, or something else is to be done. */
static void
wait_for_answers(void)
{
	NpTime		limit = np_flight_patience_ends();

	/* a connection is not made in less */
	if (np_worker_is_connected(session))
	{
		/* there may be no wait */
		np_connection_receive(session->connection);
		if (may_look())
			limit = Min(limit, Min(next_look, np_source_next_back()));
		else if (np_lanes_first() == NULL)
			limit = Min(limit, np_now() + SLOW);
		if (first_ended > 0)
			limit = Min(limit, first_ended + SETTLE_DELAY);
		limit = Min(limit, next_kept);
	}
	(void) np_session_wait(session, NP_WAIT_ACK, can_go_on, NULL, np_ack_timeout, limit);
}

/* False: there is a problem, and it is reported. */
static bool
receive_answers(void)
{
	const char *problem;

	wait_for_answers();
	if (first_ended == 0 && np_settle_waiting() > 0)
		first_ended = np_now();
	if (np_flight_has_culprit())
		np_flight_convict();
	if (!np_flight_give_up_unanswered(&problem))
	{
		report_problem(problem);
		return false;
	}
	return true;
}

/* False: there is a problem, and it is reported. */
static bool
keep_connection(void)
{
	const char *problem;

	if (np_worker_keep_connection(session, &problem))
		return true;
	report_problem(problem);
	return false;
}

/* ---- One round ------------------------------------------------------------------------ */

/* Is there nothing to do before something comes? */
static bool
is_idle(void)
{
	return np_flight_count() == 0 && np_settle_waiting() == 0 && np_lanes_first() == NULL && !must_settle &&
		!(may_look() && is_asked_to_look());
}

/* When there is something to do, unasked.  When there is no room, rows that wait are slow after a while. */
static NpTime
next_round(void)
{
	NpTime		next = Min(Min(next_look, next_kept), np_source_next_back());

	return may_look() ? next : Min(next, np_now() + SLOW);
}

/* After an error of the table, is something still on its way? */
static bool
pauses_in_flight(void)
{
	return np_worker_has_problem() && np_now() < np_worker_next_try() && np_flight_count() > 0 && np_worker_is_connected(session);
}

static bool
has_landed(NpSession *of_flight, void *unused)
{
	return np_flight_count() == 0;
}

/* Do what there is to do; returns until when there is nothing else. */
static NpTime
run_round(void)
{
	if (pauses_in_flight())
	{
		(void) np_session_wait(session, NP_WAIT_ACK, has_landed, NULL, np_ack_timeout, np_worker_next_try());
		return 0;
	}
	np_worker_show_order();
	/* before more is read: a row whose stream is not known goes by its subject, and so would those behind it */
	np_flight_ask();
	/* that may have received answers which ended rows: their doubts are noted before more is read, too */
	np_flight_note_doubts();
	if (is_time_to_settle())
		settle();
	if (np_publishing != NP_PUBLISHING_ON)
	{
		stop(NP_RELAY_OFF);
		next_look = np_now() + NP_MILLISECONDS(np_relay_poll_interval);
		wakes_seen = np_relay_slot_listen(np_worker_slot());
		must_look = false;
	}
	else if (!must_settle && may_look() && is_asked_to_look())
	{
		read_more();
		np_missed_slot_look();
	}
	if (stopped_as == NP_RELAY_PUBLISHING && !send_rows())
		return 0;
	make_room();
	if (np_flight_count() > 0 && !receive_answers())
		return 0;
	/* what has come back meanwhile is not sent either */
	if (stopped_as != NP_RELAY_PUBLISHING && np_flight_count() == 0 && np_lanes_unsent() > 0)
		stop(stopped_as);
	if (!is_idle())
		return 0;
	if (stopped_as != NP_RELAY_PUBLISHING)
	{
		np_worker_show_state(stopped_as);
		return next_look;
	}
	if (!keep_connection())
		return 0;
	np_worker_end_pause();
	if (failing_as != NP_RELAY_PUBLISHING)
		np_worker_show_state(failing_as);
	else if (has_kept_too_many())
		np_worker_show_state(NP_RELAY_BLOCKED);
	else
	{
		np_worker_report_works();
		np_worker_show_state(NP_RELAY_IDLE);
	}
	return next_round();
}

/*
 * It was ended by an error.  One of the table, which others may have locked for
 * long, says nothing about what is on its way: its answers are waited for, so
 * that none of it is published again when that is over.
 */
static void
fail_round(const ErrorData *error)
{
	np_source_failed();
	if (is_at_table && np_outbox_was_begun())
		np_worker_report_table_error(session, error);
	else
		np_worker_report_error(session, error);
	if (is_at_table)
	{
		clear();
		must_settle = must_look = true;
	}
	else
		begin_again();
	is_at_table = false;
}

/* ---- The process ------------------------------------------------------------------------- */

static void
rest(NpTime until)
{
	NpRelayState shown = np_worker_shown_state();
	bool		pauses = np_worker_has_problem() && np_now() < np_worker_next_try();

	if (pauses_in_flight())
		return;
	/* it looks when that is over; who does not sleep now may sleep later without a look before */
	if (pauses || shown == NP_RELAY_PAUSED || shown == NP_RELAY_OFF)
		np_relay_slot_ignore_messages(np_worker_slot());
	np_worker_rest(until, wakes_seen);
}

/* They may be other ones: where the order counts no more, what was passed by for it may go. */
static void
follow_settings(void)
{
	np_source_look_again();
	must_look = true;
	kept_delay = FIRST_KEPT_DELAY;
	next_kept = Min(next_kept, np_now() + kept_delay);
}

/* The worker of the slot `argument`; its database is in bgw_extra. */
void
np_relay_main(Datum argument)
{
	np_worker_start(DatumGetInt32(argument), MyBgworkerEntry->bgw_extra);
	round_context = AllocSetContextCreate(TopMemoryContext, "nats_publish relay", ALLOCSET_DEFAULT_SIZES);
	stopped_as = NP_RELAY_PUBLISHING;
	np_flight_of(&flight_owner);
	failing_as = NP_RELAY_PUBLISHING;
	next_kept = NP_FOREVER;
	must_look = true;
	HOLD_CANCEL_INTERRUPTS();
	for (;;)
	{
		NpTime		until;

		CHECK_FOR_INTERRUPTS();
		if (np_worker_reload())
			follow_settings();
		MemoryContextSwitchTo(round_context);
		until = np_worker_try_round(run_round, fail_round);
		MemoryContextReset(round_context);
		np_worker_end_round(session);
		rest(until);
	}
}
