/*-------------------------------------------------------------------------
 *
 * sql_wal.c
 *	  The SQL functions that switch the publishing of the WAL on and off.
 *
 * What they do to a replication slot is not undone by a rollback, so the slot
 * comes first when it is made, and last when it is dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"

#include "base/compat.h"
#include "outbox/relay_state.h"
#include "outbox/statement.h"
#include "outbox/wal_slot.h"

PG_FUNCTION_INFO_V1(nats_wal_enable);
PG_FUNCTION_INFO_V1(nats_wal_disable);

static void
execute(const char *text)
{
	if (SPI_execute(text, false, 0) < 0)
		elog(ERROR, "\"%s\" failed", text);
}

/* nats_wal_enable(): from where on it publishes */
Datum
nats_wal_enable(PG_FUNCTION_ARGS)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);

	SPI_connect();
	execute(psprintf("SELECT pg_catalog.pg_create_logical_replication_slot('%s', 'pgoutput')", slot.name));
	SPI_finish();
	np_launcher_wake();
	PG_RETURN_LSN(np_wal_slot(MyDatabaseId).confirmed);
}

/* nats_wal_disable(discard): up to where it has published */
Datum
nats_wal_disable(PG_FUNCTION_ARGS)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);

	SPI_connect();
	execute(psprintf("SELECT pg_catalog.pg_drop_replication_slot('%s')", slot.name));
	SPI_finish();
	PG_RETURN_LSN(slot.confirmed);
}
