/*-------------------------------------------------------------------------
 *
 * wal_standby.c
 *	  What standbys have, and a failover does not take back.
 *
 * WAL is decoded once it is flushed here.  Others see a transaction when the
 * synchronous standbys have it too, and what was published before that can be
 * of a transaction that never was, after a failover.  The same holds for the
 * standbys of synchronized_standby_slots, when the slot is one for failover.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"

#include "base/compat.h"
#include "wal/wal_standby.h"

static bool
synchronous_ones_have(XLogRecPtr position)
{
	bool		result;

	if (max_wal_senders == 0 || SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
		return true;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	result = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH] >= position;
	LWLockRelease(SyncRepLock);
	return result;
}

/* The slot is acquired. */
static bool
slots_have(XLogRecPtr position, int level)
{
	return !np_compat_slot_has_failover(&MyReplicationSlot->data) || np_compat_standby_slots_have(position, level);
}

/* Have all that are waited for the WAL up to a position?  The slot is acquired. */
bool
np_standbys_have(XLogRecPtr position)
{
	static XLogRecPtr known = InvalidXLogRecPtr;

	if (position <= known)
		return true;
	if (!synchronous_ones_have(position) || !slots_have(position, DEBUG1))
		return false;
	known = position;
	return true;
}

/* Into the log, that they have been waited for for long. */
void
np_standbys_report(XLogRecPtr position)
{
	ereport(LOG,
			(errmsg("nats_publish WAL relay waits for standbys"),
			 errdetail("They do not have the WAL up to %X/%X, which a failover could take back.", LSN_FORMAT_ARGS(position)),
			 errhint("See that those of %s run, or take them out.",
					 synchronous_ones_have(position) ? "synchronized_standby_slots" : "synchronous_standby_names")));
	/* says which */
	(void) slots_have(position, LOG);
}
