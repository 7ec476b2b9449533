/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The background worker that publishes the outbox of its database.
 *
 *	  read a batch (a short transaction)
 *	  ──► publish it (no transaction: NATS may take its time)
 *	  ──► delete what is stored, put off or dead-letter what failed (a transaction)
 *
 * In a backlog, a batch that is stored as a whole is deleted a little later,
 * while the server works on the next one.
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
#include "publish/delivery.h"
#include "publish/session.h"
#include "relay/outbox_source.h"
#include "relay/relay_batch.h"
#include "relay/relay_process.h"
#include "relay/relay_state.h"
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

/* A relay is a process, and this is its state. */
static int	slot;
static NpSession *session;		/* of the last batch; NULL: none yet */
static bool is_failing;			/* that was logged, and not yet that it is over */
static NpTime pause_after_error;	/* 0: the last round went well */
static NpTime last_full_look;	/* when rows were read from the first one on */
static bool is_backlog;			/* the last batch was a full one */
static int64 settled_id;		/* up to this one, the next batch will see all rows that there will ever be */
static int64 floor_id;			/* up to this one, all are published or wait to be tried again */

static MemoryContext round_context; /* of what a round needs beside its batch */
static NpOutboxBatch batches[2];
static NpOutboxBatch *stored;	/* published as a whole, and still to be deleted; NULL: none */
static NpOutboxBatch *unsettled;	/* that is being published, or was when an error came; NULL: none */

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
report_problem(const char *problem)
{
	np_relay_slot_set_error(slot, problem);
	np_relay_slot_set(slot, NP_RELAY_WAITING);
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

/*
 * Where to read from.  In a backlog, the rows that were deleted are in the way
 * of a look from the first one on; but rows before may wait to be tried again.
 */
static int64
next_floor(void)
{
	NpTime		now = np_now();

	if (now - last_full_look < NP_MILLISECONDS(np_relay_poll_interval))
		return floor_id;
	last_full_look = now;
	return 0;
}

static bool
is_full(const NpOutboxBatch *batch)
{
	return batch->count == np_relay_batch_size;
}

/*
 * Behind what was published, but not behind a row that can still appear: a row
 * of the same session, which has a higher id and may be in the next batch,
 * must not overtake it.
 */
static void
record_floor(const NpOutboxBatch *batch, bool complete)
{
	is_backlog = complete && is_full(batch);
	floor_id = is_backlog ? Min(batch->rows[batch->count - 1].id, settled_id) : 0;
}

/* Write down what has become of a batch, of which nothing is left then. */
static void
settle(NpOutboxBatch *batch)
{
	NpOutboxOutcome outcome = np_outbox_settle(batch);

	np_relay_slot_count(slot, outcome.published, outcome.failed, outcome.dead);
	if (outcome.error != NULL)
		np_relay_slot_set_error(slot, outcome.error);
	MemoryContextReset(batch->context);
}

/* Once: what can't be deleted is found again, and published under the same id. */
static void
settle_kept(NpOutboxBatch **kept)
{
	NpOutboxBatch *batch = *kept;

	*kept = NULL;
	if (batch != NULL)
		settle(batch);
}

static void
settle_stored(void)
{
	settle_kept(&stored);
}

static bool
is_stored(const NpOutboxBatch *batch)
{
	for (int i = 0; i < batch->count; i++)
		if (batch->rows[i].state != NP_ROW_STORED)
			return false;
	return true;
}

static void
publish_batch(NpOutboxBatch *batch)
{
	const char *problem = NULL;
	bool		complete;

	unsettled = batch;
	np_relay_slot_set(slot, NP_RELAY_PUBLISHING);
	pgstat_report_activity(STATE_RUNNING, "publishing the outbox");
	complete = np_relay_batch_publish(batch, np_relay_ordering == NP_RELAY_STRICT, settle_stored, &problem);
	if (!complete)
		report_problem(problem);
	settle_stored();
	record_floor(batch, complete);
	if (complete && is_full(batch) && is_stored(batch))
		stored = batch;
	else
		settle(batch);
	unsettled = NULL;
	/* not before it is written down: what fails each time is to be tried less and less often */
	if (complete && is_connected())
		report_success();
	pgstat_report_stat(false);
}

/* Would a look behind this id find what is stored, and not deleted yet? */
static bool
would_find_stored(int64 id)
{
	return stored != NULL && stored->rows[stored->count - 1].id > id;
}

/* The one that is not to be deleted yet, if there is one. */
static NpOutboxBatch *
free_batch(void)
{
	NpOutboxBatch *batch = stored == &batches[0] ? &batches[1] : &batches[0];

	MemoryContextReset(batch->context);
	return batch;
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
	if (np_relay_connect(session, &problem))
	{
		np_connection_send(session->connection);
		np_relay_slot_set_url(slot, np_connection_identity(session->connection).url);
		return true;
	}
	report_problem(problem);
	return false;
}

/* Do what there is to do; returns until when there is nothing else. */
static NpTime
run_round(void)
{
	NpTime		poll = np_now() + NP_MILLISECONDS(np_relay_poll_interval);
	int64		floor = next_floor();
	NpOutboxBatch *batch;

	settle_kept(&unsettled);
	if (would_find_stored(floor) || np_publishing != NP_PUBLISHING_ON)
		settle_stored();
	if (np_publishing != NP_PUBLISHING_ON)
	{
		np_relay_slot_set(slot, NP_RELAY_OFF);
		return poll;
	}
	settled_id = is_backlog ? np_outbox_settled() : 0;
	batch = free_batch();
	switch (np_outbox_read(batch, floor, np_relay_ordering == NP_RELAY_STRICT))
	{
		case NP_OUTBOX_ABSENT:
			np_relay_slot_set(slot, NP_RELAY_NO_EXTENSION);
			return np_now() + ABSENT_PAUSE;
		case NP_OUTBOX_CHANGED:
			floor_id = 0;
			return 0;
		case NP_OUTBOX_PAUSED:
			settle_stored();
			np_relay_slot_set(slot, NP_RELAY_PAUSED);
			return poll;
		case NP_OUTBOX_THERE:
			session = batch->session;
			break;
	}
	if (batch->count > 0)
	{
		publish_batch(batch);
		return 0;
	}
	settle_stored();
	if (floor > 0)
	{
		/* the end of a backlog: what is before it? */
		floor_id = 0;
		return 0;
	}
	if (!keep_connection())
		return 0;
	pause_after_error = 0;
	np_relay_slot_set(slot, NP_RELAY_IDLE);
	return poll;
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
		floor_id = 0;
		is_backlog = false;
		report_problem(error->message);
		if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
			np_relay_slot_set(slot, NP_RELAY_NO_RIGHTS);
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
}

/*
 * Until there may be something to do.  After an error, nothing but a reload
 * comes before the time.  The latch alone does not tell what has happened
 * since the round began, for whatever has waited meanwhile has reset it.
 */
static void
rest(NpTime until, uint32 wakes)
{
	NpRelayState state = np_relay_status(slot).state;

	if (pause_after_error > 0 || state == NP_RELAY_PAUSED || state == NP_RELAY_OFF)
		np_relay_slot_ignore_messages(slot);
	if (pause_after_error > 0)
	{
		until = np_now() + np_jittered(pause_after_error);
		pgstat_report_activity(STATE_IDLE, "waiting for NATS");
		while (np_now() < until && !ConfigReloadPending)
			np_sleep(NP_WAIT_RELAY, until);
	}
	else if (np_now() < until && !np_relay_slot_was_woken(slot, wakes))
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
	/* what is stored is deleted as soon as it can be, not published again meanwhile */
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);
	np_compat_no_transaction_timeout();
	/* the statistics of a queue are never right: always by the index, in its order */
	SetConfigOption("enable_seqscan", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_bitmapscan", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("enable_sort", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_OVERRIDE);
	/* its messages have been admitted by those who wrote them */
	SetConfigOption("nats_publish.allowed_subjects", "", PGC_SUSET, PGC_S_OVERRIDE);
	/* a full window is no reason to put off a message */
	SetConfigOption("nats_publish.on_full", "wait", PGC_USERSET, PGC_S_OVERRIDE);
}

static void
create_contexts(void)
{
	round_context = AllocSetContextCreate(TopMemoryContext, "nats_publish relay", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < lengthof(batches); i++)
		batches[i].context = AllocSetContextCreate(TopMemoryContext, "nats_publish relay batch",
												   ALLOCSET_DEFAULT_SIZES);
}

/* The worker of the slot `argument`; its database is in bgw_extra. */
void
np_relay_main(Datum argument)
{
	slot = DatumGetInt32(argument);
	start(MyBgworkerEntry->bgw_extra);
	create_contexts();
	HOLD_CANCEL_INTERRUPTS();
	for (;;)
	{
		uint32		wakes = np_relay_slot_listen(slot);
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
		rest(until, wakes);
	}
}
