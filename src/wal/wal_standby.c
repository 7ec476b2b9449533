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

/* Have all that are waited for the WAL up to a position?  The slot is acquired. */
bool
np_standbys_have(XLogRecPtr position)
{
	static XLogRecPtr known = InvalidXLogRecPtr;

	if (position <= known)
		return true;
	if (!synchronous_ones_have(position) ||
		(np_compat_slot_has_failover(&MyReplicationSlot->data) && !np_compat_standby_slots_have(position)))
		return false;
	known = position;
	return true;
}
