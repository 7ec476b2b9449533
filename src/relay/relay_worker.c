/*-------------------------------------------------------------------------
 *
 * relay_worker.c
 *	  What the relays of a database, of its table and of its WAL, have in common.
 *
 * Their slots and settings as processes, and what is said, to whom, while they
 * can't publish.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "base/settings.h"
#include "base/wait.h"
#include "publish/session.h"
#include "relay/flight.h"
#include "relay/relay_process.h"
#include "relay/relay_row.h"
#include "relay/relay_worker.h"
#include "relay/streams.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"
#include "stats/stats.h"
#include "wire/connection.h"

/* After an error that is not a row's: grows from the first to the last, which is a shorter one while NATS is away, or for a lock. */
#define FIRST_PAUSE			NP_MILLISECONDS(250)
#define LAST_PAUSE			NP_MILLISECONDS(30000)
#define LAST_PAUSE_OFFLINE	NP_MILLISECONDS(4000)
#define LAST_PAUSE_LOCKED	NP_MILLISECONDS(2000)

/* A lock that others hold for longer is not waited for. */
#define LOCK_TIMEOUT		"200ms"

/* A worker is a process, and this is its state. */
static int	slot;
static NpRelayState shown_state;	/* in its slot */
static NpRelayOrder shown_order = -1;	/* likewise; -1: nothing yet */
static char shown_shared[NP_MAX_CHAIN_TEXT + 1];	/* likewise */
static bool is_failing;			/* that was logged, and not yet that it is over */
static NpTime pause_after_error;	/* 0: all is well */
static NpTime next_try;			/* when it is over */

/* ---- State ----------------------------------------------------------------------------- */

int
np_worker_slot(void)
{
	return slot;
}

void
np_worker_show_state(NpRelayState state)
{
	if (state != shown_state)
		np_relay_slot_set(slot, state);
	shown_state = state;
}

NpRelayState
np_worker_shown_state(void)
{
	return shown_state;
}

/* In which order messages are stored, and who else writes. */
void
np_worker_show_order(void)
{
	const char *shared = "";
	NpRelayOrder order = np_relay_ordering == NP_RELAY_RELAXED ? NP_ORDER_RELAXED : np_streams_order(&shared);

	if (order == shown_order && strcmp(shared, shown_shared) == 0)
		return;
	np_relay_slot_set_order(slot, order, shared);
	shown_order = order;
	strlcpy(shown_shared, shared, sizeof(shown_shared));
}

/* With NULL, it is not. */
bool
np_worker_is_connected(const NpSession *session)
{
	return session != NULL && np_connection_is_open(session->connection);
}

/* What it is called in the log. */
static const char *
name(void)
{
	return np_relay_is_of_wal(slot) ? "nats_publish WAL relay" : "nats_publish relay";
}

/* ---- Problems --------------------------------------------------------------------------- */

/* A lost connection is in the log already, and will be when it is there again. */
static bool
problem_is_known(const NpSession *session)
{
	return is_failing || (session != NULL && np_connection_was_lost(session->connection));
}

static void
report(const NpSession *session, const char *problem, NpRelayState state, NpTime last_pause)
{
	np_relay_slot_set_error(slot, problem);
	np_worker_show_state(state);
	if (!np_worker_is_connected(session))
		np_relay_slot_set_url(slot, "");
	if (!problem_is_known(session))
	{
		is_failing = true;
		ereport(LOG,
				(errmsg("%s cannot publish: %s", name(), problem),
				 errdetail("It keeps trying.")));
	}
	pause_after_error = Min(Max(pause_after_error * 2, FIRST_PAUSE), last_pause);
	next_try = np_now() + np_jittered(pause_after_error);
}

/* Nothing can be published; session can be NULL. */
void
np_worker_report_problem(const NpSession *session, const char *problem)
{
	report(session, problem, NP_RELAY_WAITING, np_worker_is_connected(session) ? LAST_PAUSE : LAST_PAUSE_OFFLINE);
}

/* True: it is reported. */
static bool
report_lock_or_rights(const NpSession *session, const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			report(session, error->message, NP_RELAY_BLOCKED, LAST_PAUSE_LOCKED);
			return true;
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			report(session, error->message, NP_RELAY_NO_RIGHTS, LAST_PAUSE);
			return true;
		default:
			return false;
	}
}

/* An error has ended a round; some are not about NATS. */
void
np_worker_report_error(const NpSession *session, const ErrorData *error)
{
	if (!report_lock_or_rights(session, error))
		np_worker_report_problem(session, error->message);
}

/* An error of the tables has. */
void
np_worker_report_table_error(const NpSession *session, const ErrorData *error)
{
	if (!report_lock_or_rights(session, error))
		report(session, error->message, NP_RELAY_FAILING, LAST_PAUSE);
}

/* What was reported is over, for all that there was to do is done. */
void
np_worker_report_works(void)
{
	if (is_failing)
		ereport(LOG, (errmsg("%s publishes again", name())));
	is_failing = false;
}

/* Something was published, or was known to fail.  That of which the connection is lost by now is no success. */
void
np_worker_report_success(const NpSession *session)
{
	if (!np_worker_is_connected(session))
		return;
	np_worker_report_works();
	np_worker_end_pause();
	np_relay_slot_set_url(slot, np_connection_identity(session->connection).url);
}

/*
 * Answer the server's PINGs while there is nothing to publish, and see whether
 * it is still there.  False: it is not, and can't be reached, as *problem says.
 */
bool
np_worker_keep_connection(NpSession *session, const char **problem)
{
	if (session == NULL || !(np_worker_is_connected(session) || np_connection_was_lost(session->connection)))
		return true;
	if (!np_flight_connect(session, problem))
		return false;
	np_connection_send(session->connection);
	np_relay_slot_set_url(slot, np_connection_identity(session->connection).url);
	return true;
}

/* Does it rest after an error? */
bool
np_worker_has_problem(void)
{
	return pause_after_error > 0;
}

/* When it may try again; what is past: now. */
NpTime
np_worker_next_try(void)
{
	return next_try;
}

void
np_worker_end_pause(void)
{
	pause_after_error = 0;
	next_try = 0;
}

/* ---- Rounds ----------------------------------------------------------------------------- */

/* Read the settings anew, if that was asked for; returns whether it was. */
bool
np_worker_reload(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	next_try = 0;
	np_streams_doubt(true);
	return true;
}

/*
 * One round, which returns until when there is nothing else to do.  An error
 * ends it, and so does pg_cancel_backend(), and the worker goes on: failed is
 * told of the error when there is no transaction any more.
 */
NpTime
np_worker_try_round(NpTime (*round) (void), void (*failed) (const ErrorData *error))
{
	MemoryContext context = CurrentMemoryContext;
	NpTime		until = 0;

	/* what has come between two rounds has nothing to cancel */
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
	PG_TRY();
	{
		until = round();
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
		failed(error);
	}
	PG_END_TRY();
	return until;
}

/* What each round leaves behind; session can be NULL. */
void
np_worker_end_round(NpSession *session)
{
	if (session != NULL)
		np_outbound_trim(np_session_outbound(session));
	np_rows_trim();
	np_session_show_rest();
	np_shared_stats_flush();
}

/* After an error: nothing but a reload comes before the time. */
void
np_worker_pause(NpTime until)
{
	pgstat_report_activity(STATE_IDLE, shown_state == NP_RELAY_WAITING ? "waiting for NATS" : "waiting to try again");
	while (np_now() < until && !ConfigReloadPending)
		np_sleep(NP_WAIT_RELAY, until);
}

/*
 * Rest until there may be something to do: after an error for its time, else
 * until then or until somebody wakes it.  The latch alone does not tell what
 * has happened since the round began, for whatever has waited meanwhile has
 * reset it.
 */
void
np_worker_rest(NpTime until, uint32 wakes_seen)
{
	if (pause_after_error > 0 && np_now() < next_try)
		np_worker_pause(next_try);
	else if (np_now() < until && !np_relay_slot_was_woken(slot, wakes_seen))
	{
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		np_sleep(NP_WAIT_RELAY, until);
	}
}

/* ---- The process ------------------------------------------------------------------------ */

static void
leave_slot(int code, Datum argument)
{
	np_shared_stats_flush();
	np_relay_slot_leave(slot);
}

static void
set(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_USERSET, PGC_S_OVERRIDE);
}

static void
set_settings(void)
{
	/* outside of a transaction, text can be converted to and from this one only (mbutils.c) */
	set("client_encoding", "UTF8");
	set("role", "none");
	set("search_path", "pg_catalog");
	set("synchronous_commit", "local");
	set("default_transaction_read_only", "off");
	set("default_transaction_isolation", "read committed");
	/* what is locked is left for later, while others go on */
	set("lock_timeout", LOCK_TIMEOUT);
	/* an error ends a round */
	set("exit_on_error", "off");
	np_compat_no_transaction_timeout();
	/* what can't be kept in a file would be decoded again for each file's worth of it */
	SetConfigOption("temp_file_limit", "-1", PGC_SUSET, PGC_S_OVERRIDE);
	/* the statistics of a queue are never right: always by the index, in its order */
	set("enable_indexscan", "on");
	set("enable_nestloop", "on");
	set("enable_seqscan", "off");
	set("enable_bitmapscan", "off");
	set("enable_sort", "off");
	set("enable_hashjoin", "off");
	set("enable_mergejoin", "off");
	/* of two indexes the one by which more is known, though the table seems empty */
	set("cpu_operator_cost", "1");
	set("jit", "off");

	/*
	 * else those of a large table are planned each time, as a range of which only the start is known would
	 * be half of it
	 */
	set("plan_cache_mode", "force_generic_plan");

	/*
	 * its messages have been admitted by those who wrote them; what the server has counts where somebody has
	 * no other (role_bounds.c)
	 */
	np_guards_uncover_servers();
	SetConfigOption("nats_publish.allowed_subjects", "", PGC_SUSET, PGC_S_SESSION);
	/* a full window is no reason to put off a message */
	set("nats_publish.on_full", "wait");
}

/* Become the worker of a slot; ends the process if there is one. */
void
np_worker_start(int the_slot, const char *database)
{
	slot = the_slot;
	shown_state = NP_RELAY_STARTING;
	np_guards_keep_servers();
	np_relay_process_start(database);
	if (!np_relay_slot_claim(slot, database, MyDatabaseId))
		proc_exit(0);
	before_shmem_exit(leave_slot, (Datum) 0);
	StartTransactionCommand();
	(void) np_shared_stats_attach();
	(void) np_activity_attach();
	set_settings();
	CommitTransactionCommand();
	np_stats_mode = NP_STATS_OUTBOX;
	np_connection_log_to(LOG);
}
