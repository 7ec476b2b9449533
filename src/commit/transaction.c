/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  What happens at the ends of transactions and of the backend.
 *
 * The only callbacks of the extension.  In the order of xact.c
 * CommitTransaction:
 *
 *	deferred triggers		may publish, so they come before us
 *	XACT_EVENT_PRE_COMMIT	we wait here for what is critical: an ERROR rolls
 *							back, and interrupts are still handled
 *	commit record, locks	from here on an ERROR is a PANIC
 *	XACT_EVENT_COMMIT		we reset, and do not wait, allocate or throw
 *
 * Between PRE_COMMIT and the commit record the transaction can still fail
 * (a serialization failure, a crash): then the messages are there and the
 * rows are not.  statement_timeout is not armed in COMMIT.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "commit/commit.h"
#include "commit/transaction.h"
#include "relay/relay_state.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"

static bool joined;				/* something was called in this transaction */
static bool wakes_relay;		/* it has given the relay something to do */

static void
reset(void)
{
	joined = false;
	wakes_relay = false;
	np_commit_reset();
}

static void
on_transaction_event(XactEvent event, void *argument)
{
	if (!joined)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			np_commit_finish_transaction();
			break;
		case XACT_EVENT_PRE_PREPARE:
			np_commit_prepare_transaction();
			break;
		case XACT_EVENT_COMMIT:
			if (wakes_relay)
				np_relay_wake(MyDatabaseId);
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
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		np_commit_merge_subtransaction(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		np_commit_abort_subtransaction(GetCurrentTransactionNestLevel());
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
 */
static void
refuse_restricted_operation(void)
{
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot use NATS within security-restricted operation"),
				 errhint("What an index, a materialized view or maintenance calls cannot publish; a trigger can.")));
}

/*
 * To be called by each SQL function before it uses the publisher.  Raises
 * 25000 in a parallel worker, whose messages no COMMIT would know, and 42501
 * in a security-restricted operation.
 */
void
np_transaction_join(void)
{
	static bool registered = false;

	refuse_restricted_operation();
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot use NATS in a parallel worker"),
				 errhint("Mark the function that does PARALLEL UNSAFE.")));
	joined = true;
	if (registered)
		return;
	/* before the callback, which needs both: the last one registered is called first */
	(void) np_shared_stats_attach();
	(void) np_activity_attach();
	RegisterXactCallback(on_transaction_event, NULL);
	RegisterSubXactCallback(on_subtransaction_event, NULL);
	before_shmem_exit(on_backend_exit, (Datum) 0);
	registered = true;
}

/*
 * The relay of this database is to be woken when the transaction has
 * committed.  COMMIT PREPARED does not: the relay looks by itself.
 */
void
np_transaction_wake_relay(void)
{
	np_transaction_join();
	wakes_relay = true;
}
