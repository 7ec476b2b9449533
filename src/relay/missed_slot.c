/*-------------------------------------------------------------------------
 *
 * missed_slot.c
 *	  A replication slot that should be there.
 *
 * Without it there is no relay of the WAL that could say so: the relay of the
 * table does, in the log and in the other one's slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/wait.h"
#include "outbox/relay_state.h"
#include "outbox/wal_slot.h"
#include "relay/missed_slot.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"

#define LOOK_INTERVAL	NP_MILLISECONDS(10000)

static NpStatement is_expected = {
	.text = "SELECT FROM %s.nats_wal WHERE slot = $1::name AND database = $2",
	.argument_count = 2,
	.types = {TEXTOID, TEXTOID}
};

static bool was_missed;			/* that was logged */

static void
report(const NpWalSlot *slot)
{
	int			place = np_relay_wal_slot(np_worker_slot());
	const char *problem = psprintf("there is no replication slot \"%s\"", slot->name);

	if (np_relay_slot_name(place, np_relay_status(np_worker_slot()).name))
	{
		np_relay_slot_set_error(place, problem);
		np_relay_slot_set(place, NP_RELAY_NO_SLOT);
	}
	if (!was_missed)
		ereport(LOG,
				(errmsg("nats_publish relay cannot read the WAL: %s", problem),
				 errdetail("What was committed and not published will not be published."),
				 errhint("Call nats_wal_enable() to start over, or nats_wal_disable().")));
	was_missed = true;
}

/* There is one again, or there need not be. */
static void
forget(void)
{
	int			place = np_relay_wal_slot(np_worker_slot());

	if (was_missed && np_relay_status(place).pid == 0)
		np_relay_slot_set(place, NP_RELAY_STOPPED);
	was_missed = false;
}

/*
 * Look, now and then, for a slot that nats_wal_enable() has made and that is
 * not there any more, in a transaction of its own.  Raises what that raises.
 */
void
np_missed_slot_look(void)
{
	static NpTime next_look = 0;
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);
	MemoryContext caller;
	Datum		values[2];
	bool		is_missed = false;

	if (slot.state != NP_WAL_SLOT_MISSING)
		forget();
	if (slot.state != NP_WAL_SLOT_MISSING || np_now() < next_look)
		return;
	next_look = np_now() + LOOK_INTERVAL;
	if (np_outbox_begin(&caller))
	{
		values[0] = CStringGetTextDatum(slot.name);
		values[1] = np_wal_database();
		np_outbox_execute_on("nats_wal", &is_expected, values, NULL, true);
		is_missed = SPI_processed > 0;
	}
	np_outbox_commit(caller);
	if (is_missed)
		report(&slot);
	else
		forget();
}
