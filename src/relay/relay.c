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
#include "relay/outbox_source.h"
#include "relay/relay_process.h"
#include "relay/settling.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"
#include "stats/stats.h"
#include "wire/connection.h"

PGDLLEXPORT void np_relay_main(Datum argument);

/* After an error that is not a row's: grows from the first to the last, which is a shorter one while NATS is away. */
#define FIRST_PAUSE			NP_MILLISECONDS(250)
#define LAST_PAUSE			NP_MILLISECONDS(30000)
#define LAST_PAUSE_OFFLINE	NP_MILLISECONDS(4000)

/* Between looks for an extension that is not there. */
#define ABSENT_PAUSE		NP_MILLISECONDS(5000)

/* A lock that others hold for longer is not waited for. */
#define LOCK_TIMEOUT		"200ms"

/* The longest time that what has ended is not written down while more is expected. */
#define SETTLE_DELAY		NP_MILLISECONDS(10)

/* Rows behind one that is not answered for so long give up their place. */
#define SLOW				NP_MILLISECONDS(250)

/* A relay is a process, and this is its state. */
static int	slot;
static NpRelayState shown_state;	/* in its slot */
static NpRelayOrder shown_order = -1;	/* likewise; -1: nothing yet */
static char shown_shared[NP_MAX_CHAIN_TEXT + 1];
static NpSession *session;		/* on which rows go out; NULL: none yet */
static NpSession *wanted;		/* on which they are to, when nothing is on its way any more */
static bool is_failing;			/* that was logged, and not yet that it is over */
static NpTime pause_after_error;	/* 0: all is well */
static bool must_settle;		/* before anything is read */
static bool must_look;			/* as soon as there is room */
static uint32 wakes_seen;		/* when it was looked last */
static NpTime next_look;		/* unasked */
static NpTime next_unlock;		/* when rows that were locked are written again; NP_FOREVER: there are none */
static NpTime first_ended;		/* since when rows have ended that are not written down; 0: none have */
static NpRelayState stopped_as; /* while nothing is sent; NP_RELAY_PUBLISHING: it is */

static MemoryContext round_context; /* of what a round needs */

static bool
is_connected(void)
{
	return session != NULL && np_connection_is_open(session->connection);
}

/* ---- One round ------------------------------------------------------------------------ */

/* A lost connection is in the log already, and will be when it is there again. */
static bool
problem_is_known(void)
{
	return is_failing || (session != NULL && np_connection_was_lost(session->connection));
}

static void
show_state(NpRelayState state)
{
	if (state != shown_state)
		np_relay_slot_set(slot, state);
	shown_state = state;
}

/* Nothing is on its way any more, and what is not known to be stored is read again. */
static void
begin_again(void)
{
	int64		lowest = np_flight_abort();

	if (lowest != 0)
		np_source_go_back(lowest);
	must_settle = must_look = true;
}

static void
report_problem(const char *problem)
{
	np_relay_slot_set_error(slot, problem);
	show_state(NP_RELAY_WAITING);
	if (!is_connected())
		np_relay_slot_set_url(slot, "");
	if (!problem_is_known())
	{
		is_failing = true;
		ereport(LOG,
				(errmsg("nats_publish relay cannot publish: %s", problem),
				 errdetail("It tries again until it can.")));
	}
	pause_after_error = Min(Max(pause_after_error * 2, FIRST_PAUSE), is_connected() ? LAST_PAUSE : LAST_PAUSE_OFFLINE);
	begin_again();
}

static void
report_success(void)
{
	if (is_failing)
		ereport(LOG, (errmsg("nats_publish relay publishes again")));
	is_failing = false;
	pause_after_error = 0;
	np_relay_slot_set_url(slot, np_connection_identity(session->connection).url);
}

/* In which order messages are stored, and who else writes. */
static void
show_order(void)
{
	const char *shared = "";
	NpRelayOrder order = np_relay_ordering == NP_RELAY_RELAXED ? NP_ORDER_RELAXED : np_streams_order(&shared);

	if (order == shown_order && strcmp(shared, shown_shared) == 0)
		return;
	np_relay_slot_set_order(slot, order, shared);
	shown_order = order;
	strlcpy(shown_shared, shared, sizeof(shown_shared));
}

/* Nothing is sent for now; what is on its way comes to its end. */
static void
stop(NpRelayState state)
{
	int64		lowest = np_flight_clear();

	if (lowest != 0)
		np_source_go_back(lowest);
	stopped_as = state;
}

/* ---- Writing down ------------------------------------------------------------------- */

/* Write down what has become of rows. */
static void
settle(void)
{
	NpSettled	settled;
	bool		locked_too = must_settle || np_now() >= next_unlock;

	np_settle(&settled, locked_too);
	must_settle = false;
	first_ended = 0;
	np_relay_slot_count(slot, settled.published, settled.failed, settled.dead);
	if (settled.error != NULL)
		np_relay_slot_set_error(slot, settled.error);
	if (settled.is_changed)
		np_source_look_again();
	must_look |= settled.is_changed;
	if (settled.is_locked || locked_too)
		next_unlock = settled.is_locked ? np_now() + NP_MILLISECONDS(np_relay_poll_interval) : NP_FOREVER;
	/* not before it is written down: what fails each time is to be tried less and less often */
	if (settled.published + settled.failed + settled.dead > 0 && is_connected())
		report_success();
	pgstat_report_stat(false);
}

static bool
is_time_to_settle(void)
{
	if (must_settle || np_now() >= next_unlock)
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
	return must_look || np_source_has_released() || np_chains_free() != 0 || np_relay_slot_was_woken(slot, wakes_seen) || np_now() >= next_look;
}

/* Most of what was read has been sent: there is room for more. */
static bool
may_look(void)
{
	return np_lanes_unsent() <= np_relay_batch_size / 2;
}

static NpOutboxLook
look_into_outbox(void)
{
	NpOutboxLook look = {
		.room = np_relay_batch_size - np_lanes_unsent(),
		.largest = is_connected() ? np_connection_max_payload(session->connection) : NP_MAX_PAYLOAD_LENGTH,
		.ordered = np_relay_ordering != NP_RELAY_RELAXED
	};

	/* before it looks: what comes meanwhile is another time's */
	wakes_seen = np_relay_slot_listen(slot);
	must_look = true;
	np_source_read(&look);
	must_look = look.has_more;
	next_look = Min(np_now() + NP_MILLISECONDS(np_relay_poll_interval), look.next_due);
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
			stop(NP_RELAY_NO_EXTENSION);
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

/* ---- Publishing ---------------------------------------------------------------------- */

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
	if (shown_state != NP_RELAY_PUBLISHING)
		pgstat_report_activity(STATE_RUNNING, "publishing the outbox");
	show_state(NP_RELAY_PUBLISHING);
	if (np_flight_send(&problem))
		return true;
	report_problem(problem);
	return false;
}

static bool
can_go_on(NpSession *of_flight, void *unused)
{
	return np_flight_count() == 0 || np_settle_waiting() >= np_relay_batch_size || np_flight_has_culprit() ||
		(np_settle_waiting() > 0 && first_ended == 0) ||
		(wanted == session && np_flight_has_room()) || (may_look() && is_asked_to_look());
}

/* What is on its way is answered, or something else is to be done. */
static void
wait_for_answers(void)
{
	NpTime		limit = np_flight_oldest() + NP_MILLISECONDS(np_ack_timeout);

	/* a connection is not made in less */
	if (is_connected())
	{
		/* there may be no wait */
		np_connection_receive(session->connection);
		if (may_look())
			limit = Min(limit, next_look);
		else if (np_lanes_first() == NULL)
			limit = Min(limit, np_now() + SLOW);
		if (first_ended > 0)
			limit = Min(limit, first_ended + SETTLE_DELAY);
		limit = Min(limit, next_unlock);
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
	if (!may_look() && np_lanes_first() == NULL)
		np_lanes_pass_slow(np_now() - SLOW);
	if (!np_flight_give_up_unanswered(&problem))
	{
		report_problem(problem);
		return false;
	}
	return true;
}

/*
 * Answer the server's PINGs while there is nothing to publish, and see whether
 * it is still there.  False: it is not, and can't be reached.
 */
static bool
keep_connection(void)
{
	const char *problem;

	if (session == NULL || !(is_connected() || np_connection_was_lost(session->connection)))
		return true;
	if (np_flight_connect(session, &problem))
	{
		np_connection_send(session->connection);
		np_relay_slot_set_url(slot, np_connection_identity(session->connection).url);
		return true;
	}
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

/* Do what there is to do; returns until when there is nothing else. */
static NpTime
run_round(void)
{
	show_order();
	if (is_time_to_settle())
		settle();
	if (np_publishing != NP_PUBLISHING_ON)
	{
		stop(NP_RELAY_OFF);
		next_look = np_now() + NP_MILLISECONDS(np_relay_poll_interval);
		wakes_seen = np_relay_slot_listen(slot);
		must_look = false;
	}
	else if (may_look() && is_asked_to_look())
		read_more();
	if (session != NULL && np_relay_ordering != NP_RELAY_RELAXED)
		np_flight_ask();
	if (stopped_as == NP_RELAY_PUBLISHING && !send_rows())
		return 0;
	if (np_flight_count() > 0 && !receive_answers())
		return 0;
	/* what has come back meanwhile is not sent either */
	if (stopped_as != NP_RELAY_PUBLISHING && np_flight_count() == 0 && np_lanes_unsent() > 0)
		stop(stopped_as);
	if (!is_idle())
		return 0;
	if (stopped_as != NP_RELAY_PUBLISHING)
	{
		show_state(stopped_as);
		return next_look;
	}
	if (!keep_connection())
		return 0;
	pause_after_error = 0;
	show_state(NP_RELAY_IDLE);
	return Min(next_look, next_unlock);
}

/* The same; an error ends the round, and so does pg_cancel_backend(), and the worker goes on. */
static NpTime
try_round(void)
{
	MemoryContext context = CurrentMemoryContext;
	NpTime		until = 0;

	/* what has come between two rounds has nothing to cancel */
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
	PG_TRY();
	{
		until = run_round();
		HOLD_CANCEL_INTERRUPTS();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_CANCEL_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		np_source_look_again();
		report_problem(error->message);
		if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
			show_state(NP_RELAY_NO_RIGHTS);
	}
	PG_END_TRY();
	return until;
}

/* ---- The process ------------------------------------------------------------------------- */

static void
reload_settings(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	np_streams_doubt(true);
	must_look = true;
}

/*
 * Until there may be something to do.  After an error, nothing but a reload
 * comes before the time.  The latch alone does not tell what has happened
 * since the round began, for whatever has waited meanwhile has reset it.
 */
static void
rest(NpTime until)
{
	if (pause_after_error > 0 || shown_state == NP_RELAY_PAUSED || shown_state == NP_RELAY_OFF)
		np_relay_slot_ignore_messages(slot);
	if (pause_after_error > 0)
	{
		until = np_now() + np_jittered(pause_after_error);
		pgstat_report_activity(STATE_IDLE, "waiting for NATS");
		while (np_now() < until && !ConfigReloadPending)
			np_sleep(NP_WAIT_RELAY, until);
	}
	else if (np_now() < until && !np_relay_slot_was_woken(slot, wakes_seen))
	{
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		np_sleep(NP_WAIT_RELAY, until);
	}
}

static void
leave_slot(int code, Datum argument)
{
	np_shared_stats_flush();
	np_relay_slot_leave(slot);
}

static void
start(const char *database)
{
	np_relay_process_start(database);
	if (!np_relay_slot_claim(slot, database, MyDatabaseId))
		proc_exit(0);
	before_shmem_exit(leave_slot, (Datum) 0);
	StartTransactionCommand();
	(void) np_shared_stats_attach();
	(void) np_activity_attach();
	/* outside of a transaction, text can be converted to and from this one only (mbutils.c) */
	SetConfigOption("client_encoding", "UTF8", PGC_USERSET, PGC_S_OVERRIDE);
	CommitTransactionCommand();
	np_stats_mode = NP_STATS_OUTBOX;
	np_connection_log_to(LOG);
	SetConfigOption("role", "none", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_OVERRIDE);
	/* what is locked is left for later, while others go on */
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	np_compat_no_transaction_timeout();
	/* the statistics of a queue are never right: always by the index, in its order */
	SetConfigOption("enable_seqscan", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_bitmapscan", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_sort", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_hashjoin", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_mergejoin", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_OVERRIDE);
	/* its messages have been admitted by those who wrote them */
	SetConfigOption("nats_publish.allowed_subjects", "", PGC_SUSET, PGC_S_OVERRIDE);
	/* a full window is no reason to put off a message */
	SetConfigOption("nats_publish.on_full", "wait", PGC_USERSET, PGC_S_OVERRIDE);
}

/* The worker of the slot `argument`; its database is in bgw_extra. */
void
np_relay_main(Datum argument)
{
	slot = DatumGetInt32(argument);
	start(MyBgworkerEntry->bgw_extra);
	round_context = AllocSetContextCreate(TopMemoryContext, "nats_publish relay", ALLOCSET_DEFAULT_SIZES);
	shown_state = NP_RELAY_STARTING;
	stopped_as = NP_RELAY_PUBLISHING;
	next_unlock = NP_FOREVER;
	must_look = true;
	HOLD_CANCEL_INTERRUPTS();
	for (;;)
	{
		NpTime		until;

		CHECK_FOR_INTERRUPTS();
		reload_settings();
		MemoryContextSwitchTo(round_context);
		until = try_round();
		MemoryContextReset(round_context);
		if (session != NULL)
			np_outbound_trim(np_session_outbound(session));
		np_session_show_rest();
		np_shared_stats_flush();
		rest(until);
	}
}
