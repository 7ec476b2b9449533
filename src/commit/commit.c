/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  What becomes of a transaction's messages when it ends.
 *
 * Called by transaction.c, which says when.  Before the transaction becomes
 * durable everything of it is sent and acknowledged, or an ERROR rolls it
 * back; after that nothing here throws, waits or allocates.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/predicate.h"
#include "utils/memutils.h"

#include "base/settings.h"
#include "commit/batch.h"
#include "commit/commit.h"
#include "ledger/levels.h"
#include "ledger/queue.h"
#include "publish/await.h"
#include "publish/current_session.h"
#include "publish/delivery.h"
#include "publish/publisher.h"
#include "publish/session.h"
#include "publish/sessions.h"
#include "stats/shared_stats.h"
#include "stats/stats.h"

/* At exit, for what is buffered. */
#define EXIT_TIMEOUT			500 /* ms */

/*
 * Not one COMMIT's own: a wait that fails ends with the transaction, and one
 * that FATAL ends with the backend.
 */
static NpTime began;			/* to wait for the transaction's messages; 0: it has not, or not any more */
static NpStatsMode began_for;	/* what */

/* What one COMMIT knows of the messages that it holds, for an ERROR. */
typedef struct Commit
{
	int64		unsent;
	int64		in_batch;		/* that was tried to be sent */
	bool		reported;		/* the ERROR reports all messages */
} Commit;

static MemoryContext scratch_context;	/* reset after each use; NULL: not used yet */

/* ---- Waiting for what was sent --------------------------------------------- */

static bool
nothing_is_awaited(NpSession *session, void *unused)
{
	return session->window.critical == 0;
}

/*
 * Was it held for COMMIT?  When that fails, what is still on its way must not
 * arrive: neither from our memory nor from the kernel's.  Then the connection
 * is closed with a reset.  What was published before COMMIT stays.
 */
static bool
was_held(const NpPending *message)
{
	return message->mode == NP_BATCH || (message->mode == NP_CRITICAL && message->counted_as == NP_STATS_ON_COMMIT);
}

/* What the transaction waits for has not come in time: it failed. */
static void
fail_awaited(NpSession *session)
{
	MemoryContext previous;
	NpPending  *message;
	uint64		next = 0;
	bool		drops_held = false;

	if (scratch_context == NULL)
		scratch_context = AllocSetContextCreate(TopMemoryContext, "nats_publish scratch",
												ALLOCSET_SMALL_SIZES);
	previous = MemoryContextSwitchTo(scratch_context);
	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (message->mode != NP_CRITICAL)
			continue;
		drops_held |= was_held(message);
		np_delivery_fail(session, message, np_session_explain(session, message));
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
	if (drops_held)
		np_connection_close(session->connection);
}

/*
 * Wait for what the transaction has sent, and raise what failed of it; unsent
 * messages are only counted in the report.
 */
static void
finish_futures(Commit *commit)
{
	NpSession  *session;
	NpTime		limit = NP_FOREVER;

	for (int i = 0; np_futures_awaited() > 0 && (session = np_sessions_get(i)) != NULL; i++)
	{
		/* a wait would connect one that is not needed */
		if (session->window.critical > 0 &&
			!np_session_wait(session, NP_WAIT_COMMIT, nothing_is_awaited, NULL, np_commit_timeout, limit))
		{
			fail_awaited(session);
			/* the others have had the same time */
			limit = np_now();
		}
	}
	commit->reported = np_futures_failed() > 0;
	np_futures_raise_failures(commit->unsent);
}

/* ---- Sending what is held ----------------------------------------------------- */

/* Have the connections on which the held messages are to go out. */
static void
connect_held(Commit *commit, const NpQueueSummary *held)
{
	NpSession  *session;
	NpFailure	failure;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		if (np_queue_holds_for(held, i) && !np_session_ready(session, true, &failure))
		{
			np_stats_add_unsent(NP_STATS_ON_COMMIT, held->count);
			finish_futures(commit);
			np_raise(&failure);
		}
	}
}

/* They are those of the connected server, and it can have been lost since. */
static void
check_limits(NpSession *session, size_t largest, NpFeature needs)
{
	NpFailure	failure;

	if (!np_session_is_open(session) && !np_session_ready(session, true, &failure))
		np_raise(&failure);
	np_publisher_check_length(session, largest);
	np_session_require(session, needs);
}

/* What must be known of the held messages before any is sent. */
static void
check_held(const NpQueueSummary *held)
{
	NpMessage	message;
	int			session;

	if (np_queue_only_session(held, &session))
	{
		check_limits(np_sessions_get(session), held->largest, held->needs);
		return;
	}
	np_queue_rewind();
	while (np_queue_next(&message))
	{
		CHECK_FOR_INTERRUPTS();
		check_limits(np_sessions_get(message.session), message.headers.length + message.payload.length, message.needs);
	}
}

static void
publish_batch(Commit *commit, const NpQueueSummary *held)
{
	NpFailure	failure;
	int			session;

	if (np_queue_only_session(held, &session))
	{
		commit->in_batch = held->count;
		commit->unsent = 0;
		np_batch_publish(np_sessions_get(session));
		return;
	}
	failure = np_failure(NP_FAULT_FEATURE, "the messages of an atomic commit must go out on one connection");
	failure.hint = "Publish them with the same nats_publish.server and as the same role.";
	np_raise(&failure);
}

/*
 * Send what the transaction holds, until one of its messages has failed.
 */
static void
send_held(Commit *commit)
{
	NpQueueSummary held = np_queue_summary();
	NpMessage	message;

	if (held.count == 0)
		return;
	connect_held(commit, &held);
	/* what was published at once can fail the transaction: then nothing of it is sent */
	finish_futures(commit);
	if (np_commit_batch == NP_COMMIT_ATOMIC)
	{
		publish_batch(commit, &held);
		return;
	}
	check_held(&held);
	np_queue_rewind();
	while (np_futures_failed() == 0 && np_queue_next(&message))
	{
		/* only a full window waits */
		CHECK_FOR_INTERRUPTS();
		np_publish_held(&message);
		commit->unsent--;
	}
}

/* ---- How long it takes ---------------------------------------------------------- */

/* The transaction may have to wait for its messages: those that it holds, or those it has sent. */
static void
begin_wait(void)
{
	int64		held = np_queue_summary().count;

	if (held == 0 && np_futures_awaited() == 0)
		return;
	began = np_now();
	began_for = held > 0 ? NP_STATS_ON_COMMIT : NP_STATS_ASYNC;
	np_stats_mode = began_for;
}

/* It has them all, or has failed. */
static void
end_wait(void)
{
	if (began != 0)
		np_stats_add_commit_wait(began_for, np_now() - began);
	began = 0;
}

/* ---- Before the end ------------------------------------------------------------ */

/* What nobody waits for goes out too, and what is known of it is taken. */
static void
attend_uncritical(void)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		np_connection_send(session->connection);
		if (session->window.uncritical == 0 || !np_session_is_open(session))
			continue;
		np_connection_receive(session->connection);
		np_session_send_due(session, np_now());
	}
	np_report_unawaited();
	np_current_session_close_left();
}

/*
 * An ERROR about something other than a message that was sent: raise it with
 * what has become of these.  An interrupt leaves them open anyway.
 */
static void
raise_with_others(const Commit *commit, MemoryContext context)
{
	ErrorData  *error;
	char	   *others;

	if (commit->reported || ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
		return;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	others = np_futures_describe(commit->in_batch, commit->unsent);
	FlushErrorState();
	if (np_futures_awaited() > 0)
		error->sqlerrcode = ERRCODE_IO_ERROR;
	if (others != NULL)
		error->detail = error->detail != NULL ? psprintf("%s\n%s", error->detail, others) : others;
	ReThrowError(error);
}

/*
 * Not inlined: what is written between PG_TRY and an error is not seen behind
 * it in a variable of the same function.
 */
static pg_noinline void
send_and_wait(Commit *commit)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		np_futures_close();
		send_held(commit);
		np_queue_close();
		finish_futures(commit);
	}
	PG_CATCH();
	{
		raise_with_others(commit, context);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Before the transaction becomes durable: what it holds is sent, and
 * everything critical is acknowledged, or ERROR.
 *
 * What can be known to fail the transaction is asked before anything held is
 * sent: xact.c looks for a serialization failure last, and can be
 * asked twice.  From here on it is rather other transactions that fail.
 */
void
np_commit_finish_transaction(void)
{
	Commit		commit = {.unsent = np_queue_summary().count};

	PreCommit_CheckForSerializationFailure();
	np_session_set_timeout(np_commit_timeout);
	begin_wait();
	send_and_wait(&commit);
	end_wait();
	attend_uncritical();
}

/*
 * The same before PREPARE TRANSACTION, which can't hold messages: who commits
 * it may be another session, or nobody for a long time.
 */
void
np_commit_prepare_transaction(void)
{
	int64		held = np_queue_summary().count;

	np_queue_close();
	np_commit_finish_transaction();
	if (held > 0)
	{
		NpFailure	failure = np_failure(NP_FAULT_FEATURE,
										 "cannot PREPARE a transaction that holds messages for its commit");

		failure.hint = "Publish them with nats_publish_async(), which PREPARE TRANSACTION waits for.";
		failure.detail = np_futures_describe(0, held);
		np_raise(&failure);
	}
}

/* ---- After the end --------------------------------------------------------------- */

/* What an interrupted call has left. */
static bool
is_of_call(const NpPending *message)
{
	return message->mode == NP_SYNC || message->mode == NP_REQUEST || message->mode == NP_PROBE;
}

/*
 * Take what nobody waits for any more out of the window: critical messages
 * from a token on, and what an interrupted call has left.  Who drops a message
 * says what becomes of its bytes.
 */
static void
abandon(NpSession *session, uint64 first_critical)
{
	NpPending  *message;
	uint64		next = first_critical;
	uint64		interrupted = np_delivery_watched();
	bool		drops_held = false;

	/* only the call that was interrupted last can have left something */
	if (interrupted != 0)
		next = Min(next, interrupted);
	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (is_of_call(message))
			np_delivery_retract(session, message);
		else if (message->mode == NP_BATCH || (message->mode == NP_CRITICAL && message->token >= first_critical))
		{
			drops_held |= was_held(message);
			np_delivery_drop(session, message);
		}
	}
	if (drops_held)
		np_connection_close(session->connection);
	else
		np_connection_send(session->connection);
}

/*
 * The transaction was rolled back, or has committed and left nothing: its
 * messages stay with NATS, but nobody waits for them.  Never throws, waits or
 * connects.
 */
void
np_commit_reset(void)
{
	NpSession  *session;

	end_wait();
	np_session_set_timeout(0);
	np_futures_reset();
	np_queue_reset();
	np_levels_reset();
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		abandon(session, 0);
	(void) np_delivery_watch(0);
	np_session_show_rest();
	np_shared_stats_flush();
}

/* After the end: what many messages have taken goes back to the system.  Never throws. */
void
np_commit_release_memory(void)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		np_window_trim(&session->window);
		np_outbound_trim(np_session_outbound(session));
	}
}

/*
 * The transaction has committed, and we were not asked before.  That can only
 * be if the library was loaded by another one's callback for XACT_EVENT_PRE_COMMIT.
 */
void
np_commit_warn_unasked(void)
{
	if (np_queue_summary().count == 0 && !np_futures_are_critical())
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
			 errmsg("the transaction has committed without its messages"),
			 errdetail("nats_publish was loaded during its COMMIT: messages held for it were not sent, and others were not waited for."),
			 errhint("Add nats_publish to session_preload_libraries or shared_preload_libraries.")));
}

/* Subtransactions of this nesting have committed: what they have published is the outer one's. */
void
np_commit_settle_subtransactions(int nest_level)
{
	np_levels_settle(nest_level);
}

/* np_commit_reset for a subtransaction that was rolled back. */
void
np_commit_abort_subtransaction(int nest_level)
{
	uint64		first = np_levels_subabort(nest_level, np_delivery_next_token());
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		abandon(session, first != 0 ? first : PG_UINT64_MAX);
	(void) np_delivery_watch(0);
}

/* What can be done without waiting comes first: a server that hangs takes the time of all. */
static void
send_and_receive(NpSession *session)
{
	np_connection_send(session->connection);
	if (np_session_is_open(session))
		np_connection_receive_all(session->connection);
}

/* Wait for a while until the server has seen everything, then for the acks. */
static void
drain_at_exit(NpSession *session, NpTime limit)
{
	if (np_session_is_open(session))
		(void) np_connection_drain(session->connection, limit);
	while (np_session_is_open(session) && session->window.count > 0 && np_now() < limit)
	{
		np_connection_wait(session->connection, NP_WAIT_ACK, Min(limit, session->next_retry));
		np_session_send_due(session, np_now());
	}
	np_session_expire_uncritical(session, np_now());
}

/*
 * The backend exits: what is buffered goes out, in bounded time, and what is
 * known of failures goes to the log.  An ERROR, of which only the lack of
 * memory can be the cause, is FATAL here: the exit then goes on with the next
 * callback, and the system closes the connections.
 */
void
np_commit_exit(void)
{
	NpTime		limit = np_now() + NP_MILLISECONDS(EXIT_TIMEOUT);
	NpSession  *session;

	np_commit_reset();
	np_session_set_timeout(EXIT_TIMEOUT);
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		send_and_receive(session);
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		drain_at_exit(session, limit);
	np_delivery_report_failures(LOG);
	np_shared_stats_flush();
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		np_connection_close(session->connection);
}
