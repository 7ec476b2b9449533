/*-------------------------------------------------------------------------
 *
 * wal_slot.c
 *	  The replication slot by which a database's WAL is published.
 *
 * There is one for each database that publishes its WAL, of a name that says
 * which: whether it is there is whether that is on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "outbox/wal_slot.h"

/* Into a buffer of NAMEDATALEN bytes. */
void
np_wal_slot_name(Oid database, char *name)
{
	snprintf(name, NAMEDATALEN, "nats_publish_%u", database);
}

static void
describe(ReplicationSlot *slot, Oid database, NpWalSlot *result)
{
	ReplicationSlotPersistentData data;

	SpinLockAcquire(&slot->mutex);
	data = slot->data;
	SpinLockRelease(&slot->mutex);
	result->restart = data.restart_lsn;
	result->confirmed = data.confirmed_flush;
	result->has_failover = np_compat_slot_has_failover(&data);
	if (data.database != database || strcmp(NameStr(data.plugin), NP_WAL_PLUGIN) != 0 || data.persistency != RS_PERSISTENT)
		result->state = NP_WAL_SLOT_FOREIGN;
	else if (np_compat_slot_is_lost(&data))
		result->state = NP_WAL_SLOT_LOST;
	else
		result->state = NP_WAL_SLOT_USABLE;
}

/* The slot of a database as it is now; it needs no connection to that. */
NpWalSlot
np_wal_slot(Oid database)
{
	NpWalSlot	result = {.state = NP_WAL_SLOT_MISSING};
	ReplicationSlot *slot;

	np_wal_slot_name(database, result.name);
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(result.name, false);
	if (slot != NULL)
		describe(slot, database, &result);
	LWLockRelease(ReplicationSlotControlLock);
	return result;
}

/* By what the table nats_wal knows this database, as a text, palloc'd. */
Datum
np_wal_database(void)
{
	return CStringGetTextDatum(psprintf(UINT64_FORMAT ".%u", GetSystemIdentifier(), MyDatabaseId));
}

/* Is there a slot that is not of a logical decoder, nor of a passing backup? */
bool
np_standbys_have_slots(void)
{
	bool		found = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !found; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		found = slot->in_use && SlotIsPhysical(slot) && slot->data.persistency == RS_PERSISTENT;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}
