/*-------------------------------------------------------------------------
 *
 * wal_visible.c
 *	  Whether others see by now what a transaction has committed.
 *
 * WAL can be decoded as soon as it is flushed.  Only then does the session
 * that commits wait for synchronous standbys, and take its transaction from
 * those that are in progress; until it has, other snapshots do not have its
 * rows.  Who reads a message must find them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/procarray.h"

#include "base/wait.h"
#include "wal/wal_visible.h"

/*
 * It is a matter of microseconds, which is no time to do anything else in, nor
 * to have the kernel wait for in its milliseconds.  So often, and so long:
 */
#define STEPS		10
#define STEP		50			/* microseconds */

static bool
is_in_progress(const NpWalTransaction *transaction)
{
	return TransactionIdIsInProgress(transaction->xid);
}

/* Waits a little when it is asked for the first time; the caller asks again then. */
bool
np_others_see(NpWalTransaction *transaction)
{
	if (transaction->is_seen)
		return true;
	if (!transaction->was_awaited)
		for (int i = 0; i < STEPS && is_in_progress(transaction); i++)
			np_sleep_briefly(STEP);
	transaction->was_awaited = true;
	transaction->is_seen = !is_in_progress(transaction);
	return transaction->is_seen;
}
