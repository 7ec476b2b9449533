/*-------------------------------------------------------------------------
 *
 * check_wal.c
 *	  The doctor's check of the WAL that is published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "base/compat.h"
#include "base/settings.h"
#include "check/check_relay.h"
#include "outbox/statement.h"
#include "outbox/wal_slot.h"

/* What needs the WAL. */
typedef struct Need
{
	bool		is_enabled;		/* nats_wal_enable() has made the slot */
	int64		tables;			/* that are published from there */
	char	   *lost;			/* "between X and Y", not long ago; NULL: nothing was */
} Need;

static NpStatement read_slot = {
	.text = "SELECT slot OPERATOR(pg_catalog.=) $1,"
	" CASE WHEN lost_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) '7 days'::pg_catalog.interval)"
	" THEN CASE WHEN lost_from IS NULL THEN pg_catalog.concat('before ', lost_to) ELSE pg_catalog.concat('between ', lost_from, ' and ', lost_to) END END"
	" FROM %1$s.nats_wal WHERE database OPERATOR(pg_catalog.=) $2",
	.argument_count = 2,
	.types = {NAMEOID, TEXTOID}
};

static NpStatement count_tables = {
	.text = "SELECT pg_catalog.count(DISTINCT relation) FROM %1$s.nats_published_tables WHERE delivery OPERATOR(pg_catalog.=) 'wal'"
};

static void
find_slot_row(Oid schema, const char *slot, Need *need)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {DirectFunctionCall1(namein, CStringGetDatum(slot)), np_wal_database()};
	NpUser		caller;

	np_statements_begin(&caller, schema, "nats_wal");
	if (np_statement_read(&read_slot, schema, values, 1) > 0)
	{
		bool		isnull;
		bool		is_enabled = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		char	   *lost = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);

		need->is_enabled = is_enabled && !isnull;
		need->lost = lost == NULL ? NULL : MemoryContextStrdup(context, lost);
	}
	np_statements_end(&caller);
}

static int64
find_tables(Oid schema)
{
	NpUser		caller;
	bool		isnull;
	int64		count;

	np_statements_begin(&caller, schema, "nats_published_tables");
	(void) np_statement_read(&count_tables, schema, NULL, 1);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	np_statements_end(&caller);
	return count;
}

/* Each relation is read as its owner: one of them can be somebody else's. */
static Need
find_need(Oid schema, const char *slot)
{
	Need		need = {false};

	find_slot_row(schema, slot, &need);
	need.tables = find_tables(schema);
	return need;
}

/* What is not published, or can't be written, without a slot that can be used. */
static void
find_idle_users(const Need *need, NpFinding *finding)
{
	if (need->tables == 0 && np_outbox_storage != NP_STORAGE_WAL)
		return;
	if (need->tables > 0)
		np_find(finding, NP_CHECK_FAILED, "%s of delivery wal %s not published.", np_count_of(need->tables, "table"),
				need->tables == 1 ? "is" : "are");
	if (np_outbox_storage == NP_STORAGE_WAL)
		np_find(finding, NP_CHECK_FAILED, "nats_publish.outbox_storage is wal, but the outbox in the WAL can't be written to.");
	if (wal_level < NP_COMPAT_WAL_LEVEL)
		np_find(finding, NP_CHECK_FAILED, "Set wal_level to " NP_COMPAT_WAL_LEVEL_NAME ", restart the server, and then call nats_wal_enable().");
	else
		np_find(finding, NP_CHECK_FAILED, "Call nats_wal_enable().");
}

static void
find_no_slot(const NpWalSlot *slot, const Need *need, NpFinding *finding)
{
	if (need->is_enabled)
		np_find(finding, NP_CHECK_FAILED,
				"Replication slot \"%s\", which nats_wal_enable() has made, is gone: what was committed since then and not published will not be published. Call nats_wal_enable() to start over, or nats_wal_disable() if that was intended.",
				slot->name);
	find_idle_users(need, finding);
	if (finding->status == NP_CHECK_OK)
		np_find(finding, NP_CHECK_OK, "The WAL of this database is not published, and nothing needs it to be.");
}

/* It has a slot of a standby that was synchronized, or none: what happens when it is promoted? */
static void
find_on_standby(const NpWalSlot *slot, const Need *need, NpFinding *finding)
{
	if (!need->is_enabled)
		np_find(finding, NP_CHECK_OK, "The WAL of this database is not published.");
	else if (slot->state == NP_WAL_SLOT_USABLE)
		np_find(finding, NP_CHECK_OK, "This is a standby, and has the replication slot for when it is promoted.");
	else
		np_find(finding, NP_CHECK_WARNING,
				"This is a standby without the replication slot: what the primary has not published when it fails will not be published. %s nats_wal_enable() here once it is promoted.",
				NP_COMPAT_HAS_FAILOVER ? "Set sync_replication_slots to on, or call" : "Call");
}

/* WAL that is kept for it, and what ends that. */
static void
find_kept(const NpWalSlot *slot, NpFinding *finding)
{
	int64		kept = XLogRecPtrIsInvalid(slot->restart) ? 0 : (int64) (GetFlushRecPtr(NULL) - slot->restart) / (1024 * 1024);

	if (max_slot_wal_keep_size_mb >= 0 && kept > max_slot_wal_keep_size_mb / 2)
		np_find(finding, NP_CHECK_WARNING,
				"It keeps " INT64_FORMAT " MB of WAL, and is lost beyond the %d MB of max_slot_wal_keep_size. See nats_wal_relay for what holds it up, and pg_stat_activity for long transactions.",
				kept, max_slot_wal_keep_size_mb);
	else if (kept > 2 * (int64) np_wal_divert_size)
		np_find(finding, NP_CHECK_WARNING,
				"It keeps " INT64_FORMAT " MB of WAL, more than twice nats_publish.wal_divert_size. See nats_wal_relay for what holds it up, and pg_stat_activity for long transactions.",
				kept);
	else
		np_find(finding, NP_CHECK_OK, "It keeps " INT64_FORMAT " MB of WAL.", kept);
}

/* What becomes of it when a standby is promoted. */
static void
find_failover(const NpWalSlot *slot, NpFinding *finding)
{
	const char *standby_slots = GetConfigOption("synchronized_standby_slots", true, false);
	bool		has_synchronous = SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0';

	if (!has_synchronous && !np_standbys_have_slots())
		return;
	if (!NP_COMPAT_HAS_FAILOVER)
		np_find(finding, NP_CHECK_WARNING,
				"There are standbys, and they do not have the replication slot: what is not published when one is promoted will not be. Call nats_wal_enable() there then; PostgreSQL 17 and later keep slots on standbys.");
	else if (!slot->has_failover)
		np_find(finding, NP_CHECK_WARNING,
				"There are standbys, and the replication slot is not kept there. Call nats_wal_disable() and nats_wal_enable(), which makes one for failover.");
	else if (!has_synchronous && (standby_slots == NULL || standby_slots[0] == '\0'))
		np_find(finding, NP_CHECK_WARNING,
				"There are standbys, and none is waited for: a failover can undo what was already published. Name their slots in synchronized_standby_slots.");
	else
		np_find(finding, NP_CHECK_OK, "Standbys keep it.");
}

static void
find_relay(NpFinding *finding)
{
	NpRelayStatus status;

	if (!np_check_relay_status(&status, true))
	{
		np_find(finding, NP_CHECK_FAILED,
				"There is a replication slot, but no relay reads it, so WAL is kept for nothing. Check that this database is in nats_publish.relay_databases, and max_worker_processes is high enough; or call nats_wal_disable(discard => true).");
		return;
	}
	np_check_relay_state("relay of the WAL", &status, false, finding);
	if (status.wal.forged > 0)
		np_find(finding, NP_CHECK_WARNING,
				"%s in the WAL had the prefix of nats_publish, but %s not written by its functions: left out. Find out who calls pg_logical_emit_message().",
				np_count_of(status.wal.forged, "message"), status.wal.forged == 1 ? "was" : "were");
}

static void
find_slot(const NpWalSlot *slot, const Need *need, NpFinding *finding)
{
	if (slot->state == NP_WAL_SLOT_USABLE && need->is_enabled)
	{
		find_relay(finding);
		find_kept(slot, finding);
		find_failover(slot, finding);
		return;
	}
	if (slot->state == NP_WAL_SLOT_LOST)
		np_find(finding, NP_CHECK_FAILED,
				"Replication slot \"%s\" has lost WAL: what was committed after %X/%X and not published will not be published. Call nats_wal_enable() to start over.",
				slot->name, LSN_FORMAT_ARGS(slot->confirmed));
	else
		np_find(finding, NP_CHECK_WARNING, "Replication slot \"%s\" was not made by nats_wal_enable() of this extension, and keeps WAL. %s", slot->name,
				slot->state == NP_WAL_SLOT_FOREIGN ? "Drop it." : "Call nats_wal_enable(), which goes on with that of a server that was upgraded, and replaces any other; or drop it.");
	find_idle_users(need, finding);
}

void
np_check_wal(NpExamination *examination, NpFinding *finding)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);
	Need		need = find_need(examination->schema, slot.name);

	if (RecoveryInProgress())
		find_on_standby(&slot, &need, finding);
	else if (slot.state == NP_WAL_SLOT_MISSING)
		find_no_slot(&slot, &need, finding);
	else
		find_slot(&slot, &need, finding);
	if (need.lost != NULL)
		np_find(finding, NP_CHECK_WARNING, "What was committed %s and not published before was lost: see nats_wal_relay.", need.lost);
}
