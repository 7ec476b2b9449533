/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  What happens at the ends of transactions and of the backend.
 *
 * The only callbacks of the extension, and the only place that sees the
 * commands of others.  In the order of xact.c CommitTransaction:
 *
 *	deferred triggers		may publish, so they come before us
 *	open portals are closed	one of them is ours: see stand_first
 *	XACT_EVENT_PRE_COMMIT	we wait here for what is critical: an ERROR rolls
 *							back, and interrupts are still handled
 *	commit record, locks	from here on an ERROR is a PANIC
 *	XACT_EVENT_COMMIT		we reset, and do not wait, allocate or throw
 *	locks are released		then memory is released, too
 *
 * Between PRE_COMMIT and the commit record the transaction can still fail
 * (another library's callback, a crash): then the messages are there and the
 * rows are not.  statement_timeout is not armed in COMMIT.
 *
 * We are asked first, and last: before any other library commits
 * something elsewhere, as postgres_fdw does in its PRE_COMMIT; and what others
 * publish in theirs, behind ours, is an ERROR, for nobody would send it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/portal.h"
#include "utils/resowner.h"

#include "commit/commit.h"
#include "commit/transaction.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"

/* Nobody names a cursor so: "<" and ">" need quotes, and \001 can't be typed. */
#define PORTAL_NAME	"<nats_publish\001>"

static bool joined;				/* something was called in this transaction */
static NpRelayWake wake;		/* what it has given the relay to do */
static bool closing;			/* the listener is asked before its end */
static bool ending;				/* we were asked before its end: nobody would send what comes now */
static bool has_portal;			/* that stand_first hears of */
static int	places;				/* of on_first_asked among the callbacks */
static bool releases_memory;	/* once the locks are released */
static ProcessUtility_hook_type next_utility;
static const NpTransactionListener *listener;

/* ---- Our place among the callbacks ------------------------------------------- */

/*
 * The transaction is about to become durable.  Only the first of our callbacks
 * finds something to do.
 */
static void
end_transaction(XactEvent event)
{
	if (ending)
		return;
	if (joined && !closing)
	{
		closing = true;
		listener->before_end();
	}
	ending = true;
	if (!joined)
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
		np_commit_finish_transaction();
	else
		np_commit_prepare_transaction();
}

static void
on_first_asked(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		end_transaction(event);
}

/*
 * Our portal is closed.
 *
 * The callback that was registered last is called first, and a library
 * registers when it is first used (postgres_fdw: in its first connection of
 * the session), which may be behind all that is published.  PreCommit_Portals
 * closes the transaction's portals before any callback is called, so who has
 * registered by now is called after us.  Who is first used even later is not:
 * in a deferred trigger that was queued by closing a cursor WITH HOLD, or
 * between CLOSE ALL, which closes our portal too, and the next call.
 *
 * A list of callbacks may be added to at any time, also while it is gone
 * through.  To take out of it is only safe behind one's back, for PostgreSQL 15
 * goes on from the callback that it has called, and later versions from the
 * next one: so on_transaction_event, which is behind all these, does that.
 */
static void
stand_first(Portal portal)
{
	has_portal = false;
	/* false in an abort */
	if (!joined || !IsTransactionState())
		return;
	RegisterXactCallback(on_first_asked, NULL);
	places++;
}

static void
leave_first_place(void)
{
	for (; places > 0; places--)
		UnregisterXactCallback(on_first_asked, NULL);
}

/* It belongs to the transaction, in whatever subtransaction it is opened. */
static void
open_portal(void)
{
	Portal		portal = CreatePortal(PORTAL_NAME, true, true);

	portal->visible = false;	/* in pg_cursors */
	portal->sourceText = "";
	portal->status = PORTAL_DONE;	/* can't be run, and can be closed */
	portal->cleanup = stand_first;
	portal->createSubid = TopSubTransactionId;
	/* its owner is of the subtransaction, and nothing needs it */
	ResourceOwnerDelete(portal->resowner);
	portal->resowner = NULL;
	has_portal = true;
}

/* ---- The ends ------------------------------------------------------------------ */

static void
reset(void)
{
	bool		was_joined = joined;

	joined = closing = ending = false;
	wake = NP_WAKE_NOT;
	leave_first_place();
	if (!was_joined)
		return;
	listener->reset();
	np_commit_reset();
	releases_memory = true;
}

static void
on_transaction_event(XactEvent event, void *argument)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			end_transaction(event);
			break;
		case XACT_EVENT_COMMIT:
			if (joined && !ending)
				np_commit_warn_unasked();
			np_relay_wake(MyDatabaseId, wake);
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				np_relay_wake_for_wal(MyDatabaseId);
			reset();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			reset();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;				/* our functions refuse to run in workers */
	}
}

static void
on_subtransaction_event(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent_subid, void *argument)
{
	if (!joined)
		return;
	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			listener->settle(GetCurrentTransactionNestLevel());
			np_commit_settle_subtransactions(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_START_SUB:	/* another library can have published behind us when the last one has
										 * committed */
			np_commit_settle_subtransactions(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			listener->abort(GetCurrentTransactionNestLevel());
			np_commit_abort_subtransaction(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			break;
	}
}

/* It takes a while for many messages, and nobody needs to wait for our locks meanwhile. */
static void
on_resource_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *argument)
{
	if (!releases_memory || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	releases_memory = false;
	np_commit_release_memory();
}

static void
on_backend_exit(int code, Datum argument)
{
	np_commit_exit();
}

/*
 * Nothing is published from what PostgreSQL runs as the owner of an object,
 * unasked and in somebody else's session (index expressions in ANALYZE and
 * REINDEX, a materialized view's query): that session's settings say what may
 * be published, and they are not the owner's.
 *
 * Raises 42501 in one.
 */
void
np_transaction_refuse_restricted(void)
{
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot use NATS within security-restricted operation"),
				 errhint("Functions that an index, a materialized view or maintenance calls cannot publish; triggers can.")));
}

/* What COMMIT PREPARED commits was written by another session; it is itself a transaction, which wakes the relay. */
static void
on_utility(PlannedStmt *statement, const char *query, bool is_read_only, ProcessUtilityContext context,
		   ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
	const Node *command = statement->utilityStmt;

	if (IsA(command, TransactionStmt) && ((const TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED)
		wake = NP_WAKE_TO_LOOK;
	(next_utility != NULL ? next_utility : standard_ProcessUtility)
		(statement, query, is_read_only, context, parameters, environment, receiver, completion);
}

/*
 * To be called when the library is loaded, so that we are among the callbacks
 * before any of our functions can be called by another one.
 */
void
np_transaction_init(void)
{
	RegisterXactCallback(on_transaction_event, NULL);
	RegisterSubXactCallback(on_subtransaction_event, NULL);
	RegisterResourceReleaseCallback(on_resource_release, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;					/* there is no relay */
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
}

/* The one that is to hear of the ends of transactions that publish; to be called when the library is loaded. */
void
np_transaction_listen(const NpTransactionListener *the_listener)
{
	listener = the_listener;
}

static void
prepare_backend(void)
{
	static bool prepared = false;

	if (prepared)
		return;
	/* before the callback, which needs both: the last one registered is called first */
	(void) np_shared_stats_attach();
	(void) np_activity_attach();
	before_shmem_exit(on_backend_exit, (Datum) 0);
	prepared = true;
}

static void
join(void)
{
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot use NATS in a parallel worker"),
				 errhint("Mark the function that does so PARALLEL UNSAFE.")));
	if (ending || (!IsTransactionState() && GetCurrentTransactionNestLevel() == 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot use NATS any longer in this transaction"),
				 errdetail("It is about to end, and its messages were sent."),
				 errhint("A library that publishes at the end of a transaction must do so in a deferred trigger.")));
	prepare_backend();
	if (!has_portal && !closing)
		open_portal();
	joined = true;
}

/*
 * To be called by each SQL function before it uses the publisher.  Raises
 * 25000 in a parallel worker, whose messages no COMMIT would know, and in a
 * callback of another library, at the end of the transaction, behind ours;
 * 42501 in a security-restricted operation.
 */
void
np_transaction_join(void)
{
	np_transaction_refuse_restricted();
	join();
}

/*
 * The relay of this database is to be woken when the transaction has
 * committed; possible to its very end.  Raises 25000 as np_transaction_join
 * does.
 */
void
np_transaction_wake_relay(NpRelayWake whom)
{
	if (!ending)
		join();
	wake = Max(wake, whom);
}
