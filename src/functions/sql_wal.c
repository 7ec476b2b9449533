/*-------------------------------------------------------------------------
 *
 * sql_wal.c
 *	  The SQL functions that switch the publishing of the WAL on and off.
 *
 * What they do to a replication slot is not undone by a rollback, so the slot
 * is made first, and dropped last.  That it should be there is in nats_wal: so
 * a slot that was dropped behind our back is missed.
 *
 * pg_upgrade keeps slots, from 17 on, and the table.  Then there is a slot, and
 * its row is of another cluster: publishing goes on there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/report.h"
#include "base/wait.h"
#include "base/wal_end.h"
#include "check/check_relay.h"
#include "outbox/relay_state.h"
#include "outbox/statement.h"
#include "outbox/wal_slot.h"

PG_FUNCTION_INFO_V1(nats_wal_enable);
PG_FUNCTION_INFO_V1(nats_wal_disable);

/* How often it is looked whether all is published, and for how long a relay may be away meanwhile. */
#define FINISH_INTERVAL		NP_MILLISECONDS(20)
#define RELAY_MAY_BE_AWAY	NP_MILLISECONDS(10000)

/* ---- Statements --------------------------------------------------------------------- */

/* Where what was lost begins is NULL when that is not known. */
static NpStatement set_enabled = {
	.text = "INSERT INTO %s.nats_wal AS w (database, slot, enabled_at, lost_from, lost_to, lost_at)"
	" VALUES ($1, $2, pg_catalog.clock_timestamp(), CASE WHEN $3 THEN $4 END, CASE WHEN $3 THEN $5 END,"
	" CASE WHEN $3 THEN pg_catalog.clock_timestamp() END)"
	" ON CONFLICT (database) DO UPDATE SET slot = excluded.slot, enabled_at = excluded.enabled_at,"
	" lost_from = CASE WHEN $3 THEN excluded.lost_from ELSE w.lost_from END,"
	" lost_to = CASE WHEN $3 THEN excluded.lost_to ELSE w.lost_to END,"
	" lost_at = CASE WHEN $3 THEN excluded.lost_at ELSE w.lost_at END",
	.argument_count = 5,
	.types = {TEXTOID, NAMEOID, BOOLOID, PG_LSNOID, PG_LSNOID}
};

static NpStatement set_disabled = {
	.text = "UPDATE %s.nats_wal SET slot = NULL, enabled_at = NULL WHERE database OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {TEXTOID}
};

static NpStatement is_expected = {
	.text = "SELECT FROM %s.nats_wal WHERE database OPERATOR(pg_catalog.=) $1 AND slot OPERATOR(pg_catalog.=) $2",
	.argument_count = 2,
	.types = {TEXTOID, NAMEOID}
};

/* Was the WAL switched on at any time? */
static NpStatement has_secret = {
	.text = "SELECT FROM %s.nats_wal WHERE database OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {TEXTOID}
};

/* A cluster that was upgraded has another identifier, and what its database knew by the old one. */
static NpStatement go_on = {
	.text = "INSERT INTO %1$s.nats_wal (database, secret, slot, enabled_at) SELECT $1, secret, slot, pg_catalog.clock_timestamp()"
	" FROM %1$s.nats_wal WHERE slot OPERATOR(pg_catalog.=) $2 AND NOT EXISTS (SELECT FROM %1$s.nats_wal WHERE database OPERATOR(pg_catalog.=) $1)"
	" ORDER BY enabled_at DESC LIMIT 1",
	.argument_count = 2,
	.types = {TEXTOID, NAMEOID}
};

/* Would that have something to go on with? */
static NpStatement is_upgraded = {
	.text = "SELECT FROM %1$s.nats_wal WHERE slot OPERATOR(pg_catalog.=) $2 AND NOT EXISTS (SELECT FROM %1$s.nats_wal WHERE database OPERATOR(pg_catalog.=) $1)",
	.argument_count = 2,
	.types = {TEXTOID, NAMEOID}
};

/* As the owner of nats_wal; returns how many rows it has written. */
static uint64
write_wal(NpStatement *statement, Oid schema, Datum *values, const char *nulls)
{
	NpUser		caller;
	uint64		written;

	np_statements_begin(&caller, schema, "nats_wal");
	(void) np_statement_execute(statement, schema, values, nulls);
	written = SPI_processed;
	np_statements_end(&caller);
	return written;
}

/* As the caller, who must be able to use slots. */
static void
execute_text(const char *text)
{
	SPI_connect();
	if (SPI_execute(text, false, 0) < 0)
		elog(ERROR, "\"%s\" failed", text);
	SPI_finish();
}

/* ---- On ------------------------------------------------------------------------------- */

static void
require_relay(void)
{
	if (!np_relay_state_is_there())
		np_raise_fault(NP_FAULT_NOT_LOADED, "Add nats_publish to shared_preload_libraries, and restart the server.",
					   "the WAL is published by a relay, which needs the library from the server's start");
	if (np_relay_find(MyDatabaseId) >= 0)
		return;
	if (np_check_is_relayed())
		np_raise_fault(NP_FAULT_NOT_LOADED, "Wait until it is in nats_relay; the server's log says what hinders it.",
					   "the WAL is published by a relay, and that of this database has not started yet");
	np_raise_fault(NP_FAULT_NOT_LOADED, "Add it to nats_publish.relay_databases, and reload the configuration.",
				   "the WAL is published by a relay, and this database has none");
}

static void
require_wal_level(void)
{
	if (wal_level < NP_COMPAT_WAL_LEVEL)
		np_raise_fault(NP_FAULT_NOT_LOADED, "Set wal_level to \"" NP_COMPAT_WAL_LEVEL_NAME "\", and restart the server.",
					   "the WAL can't be published with this wal_level");
}

static void
create_slot(const char *name)
{
	execute_text(psprintf("SELECT pg_catalog.pg_create_logical_replication_slot('%s', '" NP_WAL_PLUGIN "', false, false%s)", name,
						  NP_COMPAT_HAS_FAILOVER ? ", true" : ""));
}

/* It is made, and nobody would know of it. */
static void
enable_or_drop(Oid schema, const char *name, bool is_missed, XLogRecPtr lost_from)
{
	Datum		values[5];

	values[0] = np_wal_database();
	values[1] = DirectFunctionCall1(namein, CStringGetDatum(name));
	values[2] = BoolGetDatum(is_missed);
	values[3] = LSNGetDatum(lost_from);
	values[4] = LSNGetDatum(np_wal_slot(MyDatabaseId).confirmed);
	PG_TRY();
	{
		(void) write_wal(&set_enabled, schema, values, XLogRecPtrIsInvalid(lost_from) ? "   n " : "     ");
	}
	PG_CATCH();
	{
		ReplicationSlotDrop(name, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Where the slot was last known to be that is not there any more, or can't be used. */
static XLogRecPtr
last_known(const NpWalSlot *slot)
{
	return !XLogRecPtrIsInvalid(slot->confirmed) ? slot->confirmed : np_relay_confirmed(MyDatabaseId);
}

static void
warn_of_loss(XLogRecPtr from, XLogRecPtr to)
{
	ereport(WARNING,
			(errmsg("changes and messages in the WAL were lost"),
			 XLogRecPtrIsInvalid(from) ?
			 errdetail("The replication slot was gone. What was committed before %X/%X and not published will not be published.",
					   LSN_FORMAT_ARGS(to)) :
			 errdetail("The replication slot was gone, or had lost WAL. What was committed between %X/%X and %X/%X will not be published.",
					   LSN_FORMAT_ARGS(from), LSN_FORMAT_ARGS(to))));
}

static void
warn_of_failover(void)
{
	if (!NP_COMPAT_HAS_FAILOVER)
		ereport(WARNING,
				(errmsg("a standby that is promoted does not have the replication slot"),
				 errdetail("What was committed and not published by then will not be published. PostgreSQL 17 and later keep slots on standbys."),
				 errhint("Call nats_wal_enable() there once it is promoted.")));
}

/* Of this database's relay of the WAL; -1: there is none, or no more. */
static int
relay_place(void)
{
	int			place = np_relay_find(MyDatabaseId);

	return place < 0 ? -1 : np_relay_wal_slot(place);
}

/* It publishes nothing more then. */
static void
have_relay_leave(int place)
{
	np_relay_order(place, NP_WAL_LEAVE);
	while (np_relay_status(place).pid != 0)
		np_sleep(NP_WAIT_RELAY, np_now() + FINISH_INTERVAL);
}

/* Returns up to where it was published. */
static XLogRecPtr
drop_slot(int place, const char *name)
{
	XLogRecPtr	published;

	if (place >= 0)
		have_relay_leave(place);
	published = np_wal_slot(MyDatabaseId).confirmed;
	/* waits for whoever else reads it */
	ReplicationSlotDrop(name, false);
	return published;
}

static void
have_relay_go_on(int place)
{
	if (place >= 0)
		np_relay_order(place, NP_WAL_GO_ON);
}

static void
take_order_back(int code, Datum place)
{
	have_relay_go_on(DatumGetInt32(place));
}

/* A slot begins, and what is to be published ends, behind what is committed. */
static void
require_nothing_written(const char *function)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be called in a transaction that has written something", function),
				 errhint("Call it in a transaction of its own.")));
}

/* One that has lost WAL, or is of an extension that was dropped since, or of a call that was rolled back. */
static void
drop_old_slot(const char *name)
{
	Datum		place = Int32GetDatum(relay_place());

	PG_ENSURE_ERROR_CLEANUP(take_order_back, place);
	{
		(void) drop_slot(DatumGetInt32(place), name);
	}
	PG_END_ENSURE_ERROR_CLEANUP(take_order_back, place);
}

static void
set_slot_values(Datum *values, const NpWalSlot *slot)
{
	values[0] = np_wal_database();
	values[1] = DirectFunctionCall1(namein, CStringGetDatum(slot->name));
}

/* Is there such a row by now, whatever the caller's snapshot has? */
static bool
is_there(NpStatement *question, Oid schema, const NpWalSlot *slot)
{
	Datum		values[2];
	NpUser		caller;
	bool		result;

	set_slot_values(values, slot);
	PushActiveSnapshot(GetLatestSnapshot());
	np_statements_begin(&caller, schema, "nats_wal");
	result = np_statement_read(question, schema, values, 1) > 0;
	np_statements_end(&caller);
	PopActiveSnapshot();
	return result;
}

/* With the slot of the server that was upgraded.  False: it was not. */
static bool
go_on_with(Oid schema, const NpWalSlot *slot)
{
	Datum		values[2];

	set_slot_values(values, slot);
	return write_wal(&go_on, schema, values, NULL) > 0;
}

static void
enable(Oid schema, const NpWalSlot *old, bool is_missed)
{
	XLogRecPtr	lost_from = is_missed ? last_known(old) : InvalidXLogRecPtr;

	/* or PostgreSQL would refuse to make a slot once the old one is gone */
	require_nothing_written("nats_wal_enable()");
	if (old->state != NP_WAL_SLOT_MISSING)
		drop_old_slot(old->name);
	/* a relay may read the new one at once, which begins elsewhere */
	np_relay_set_confirmed(MyDatabaseId, InvalidXLogRecPtr);
	create_slot(old->name);
	enable_or_drop(schema, old->name, is_missed, lost_from);
	if (is_missed)
		warn_of_loss(lost_from, np_wal_slot(MyDatabaseId).confirmed);
	warn_of_failover();
}

/* nats_wal_enable(): from where on it publishes */
Datum
nats_wal_enable(PG_FUNCTION_ARGS)
{
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	NpWalSlot	slot;
	bool		is_expected_here;

	PreventCommandDuringRecovery("nats_wal_enable()");
	CheckSlotPermissions();
	require_wal_level();
	require_relay();

	/*
	 * a slot that nothing is known of yet would be dropped by nats_wal_disable(), and by another call of
	 * this function
	 */
	LockRelationOid(get_relname_relid("nats_wal", schema), ShareUpdateExclusiveLock);
	slot = np_wal_slot(MyDatabaseId);
	if (slot.state == NP_WAL_SLOT_FOREIGN)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" is not one of nats_publish", slot.name),
				 errhint("Drop it.")));
	is_expected_here = is_there(&is_expected, schema, &slot);
	if (slot.state == NP_WAL_SLOT_USABLE && is_expected_here)
		ereport(NOTICE, (errmsg("the WAL of this database is published already")));
	else if (slot.state != NP_WAL_SLOT_USABLE || !go_on_with(schema, &slot))
		enable(schema, &slot, is_expected_here);
	have_relay_go_on(relay_place());
	PG_RETURN_LSN(np_wal_slot(MyDatabaseId).confirmed);
}

/* ---- Off ------------------------------------------------------------------------------ */

static void
raise_without_relay(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the relay that publishes the WAL is not running"),
			 errhint("See nats_relay; or call nats_wal_disable(discard => true), which discards what is not published yet.")));
}

/* Tables may have changed since then; and what goes on with it here, the relay sees only when that is committed. */
NP_NORETURN static void
raise_upgraded(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the replication slot is that of a server that was upgraded, and nothing publishes from it yet"),
			 errhint("Call nats_wal_enable() first, which goes on with it; or call nats_wal_disable(discard => true), which discards what is not published yet.")));
}

/* Wait until all that is committed by now is published, or in nats_outbox. */
static void
wait_until_published(int place)
{
	XLogRecPtr	target = np_wal_end();
	NpTime		last_seen = np_now();

	XLogFlush(target);
	np_relay_order(place, NP_WAL_FINISH);
	while (np_wal_slot(MyDatabaseId).confirmed < target)
	{
		if (np_relay_status(place).pid != 0)
			last_seen = np_now();
		if (np_now() > last_seen + RELAY_MAY_BE_AWAY)
			raise_without_relay();
		np_sleep(NP_WAIT_RELAY, np_now() + FINISH_INTERVAL);
	}
}

static void
warn_of_discarded(void)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);

	ereport(NOTICE,
			(errmsg("what was committed after %X/%X and not published will not be published", LSN_FORMAT_ARGS(slot.confirmed))));
}

static void
set_off(Oid schema)
{
	Datum		database = np_wal_database();

	(void) write_wal(&set_disabled, schema, &database, NULL);
}

/*
 * Can anything have been written for it?  Who knows the secret of the database,
 * which stays when the WAL is switched off, can have found the slot before the
 * call that made it was rolled back.
 */
static bool
is_awaited(Oid schema, const NpWalSlot *slot)
{
	if (is_there(&has_secret, schema, slot))
		return true;
	if (is_there(&is_upgraded, schema, slot))
		raise_upgraded();
	return false;
}

/* Returns up to where it was. */
static XLogRecPtr
drop_when_published(Oid schema, const NpWalSlot *slot, int place, bool is_waited_for)
{
	XLogRecPtr	published;

	PG_ENSURE_ERROR_CLEANUP(take_order_back, Int32GetDatum(place));
	{
		if (is_waited_for)
			wait_until_published(place);
		set_off(schema);
		published = drop_slot(place, slot->name);
	}
	PG_END_ENSURE_ERROR_CLEANUP(take_order_back, Int32GetDatum(place));
	take_order_back(0, Int32GetDatum(place));
	return published;
}

/* Writers are waited for, and new ones are refused once the slot is gone.  False: it was off. */
static bool
disable(Oid schema, const NpWalSlot *slot, bool discard, XLogRecPtr *published)
{
	int			place = relay_place();
	bool		was_on;

	LockRelationOid(get_relname_relid("nats_wal", schema), ShareRowExclusiveLock);
	/* another call may have dropped it meanwhile */
	if (np_wal_slot(MyDatabaseId).state == NP_WAL_SLOT_MISSING)
	{
		set_off(schema);
		return false;
	}
	was_on = discard || is_awaited(schema, slot);
	if (was_on && !discard && (place < 0 || slot->state != NP_WAL_SLOT_USABLE))
		raise_without_relay();
	if (discard)
		warn_of_discarded();
	*published = drop_when_published(schema, slot, place, was_on && !discard);
	return was_on;
}

/* nats_wal_disable(discard): up to where it has published; NULL: it was off */
Datum
nats_wal_disable(PG_FUNCTION_ARGS)
{
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);
	bool		discard = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	XLogRecPtr	published;

	PreventCommandDuringRecovery("nats_wal_disable()");
	CheckSlotPermissions();
	require_nothing_written("nats_wal_disable()");
	if (slot.state == NP_WAL_SLOT_MISSING || slot.state == NP_WAL_SLOT_FOREIGN)
	{
		set_off(schema);
		PG_RETURN_NULL();
	}
	if (!disable(schema, &slot, discard, &published))
		PG_RETURN_NULL();
	PG_RETURN_LSN(published);
}
