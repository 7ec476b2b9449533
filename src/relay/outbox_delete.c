/*-------------------------------------------------------------------------
 *
 * outbox_delete.c
 *	  Rows of the outbox, deleted where they were read.
 *
 * A DELETE for a list of ids costs four times as much as deleting: it has to
 * find each row.  The relay has just read them, and knows where they are.  So
 * it deletes what is still there, and still that row, as the workers of logical
 * replication do.  A statement does so for whatever else there is: a row that
 * somebody has locked or edited, or all of them, when the table has triggers,
 * rules or policies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "relay/outbox_delete.h"
#include "relay/outbox_table.h"

/* The table, and a row of it. */
typedef struct Target
{
	Relation	table;
	BlockNumber blocks;			/* what lies behind them was there before a VACUUM FULL */
	TupleTableSlot *slot;
	AttrNumber	id;
	AttrNumber	msg_id;
} Target;

/* Would a DELETE do nothing but delete? */
static bool
is_plain(Relation table)
{
	const TriggerDesc *triggers = table->trigdesc;

	if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_rel->relhassubclass ||
		table->rd_rel->relforcerowsecurity || (table->rd_rules != NULL && table->rd_rules->numLocks > 0) || XactReadOnly)
		return false;
	return triggers == NULL ||
		!(triggers->trig_delete_before_row || triggers->trig_delete_after_row || triggers->trig_delete_instead_row ||
		  triggers->trig_delete_before_statement || triggers->trig_delete_after_statement);
}

static bool
is_text(Datum value, const char *expected)
{
	const text *stored = DatumGetTextPP(value);
	size_t		length = strlen(expected);

	return VARSIZE_ANY_EXHDR(stored) == length && memcmp(VARDATA_ANY(stored), expected, length) == 0;
}

/* Is the row in the slot still this one? */
static bool
is_row(const Target *target, const NpRow *row)
{
	bool		isnull;
	Datum		id = slot_getattr(target->slot, target->id, &isnull);
	Datum		msg_id;

	if (isnull || DatumGetInt64(id) != row->id)
		return false;
	msg_id = slot_getattr(target->slot, target->msg_id, &isnull);
	return !isnull && is_text(msg_id, row->msg_id);
}

static bool
delete_row(const Target *target, NpRow *row)
{
	TM_FailureData failure;
	Snapshot	snapshot = GetActiveSnapshot();

	if (!ItemPointerIsValid(&row->place) || ItemPointerGetBlockNumber(&row->place) >= target->blocks ||
		!table_tuple_fetch_row_version(target->table, &row->place, snapshot, target->slot))
		return false;
	return is_row(target, row) && np_compat_tuple_delete(target->table, &row->place, snapshot, &failure) == TM_Ok;
}

/*
 * Delete these rows where they are still to be found, and tell it of each.
 * Returns how many it has deleted; none when only a statement may.
 *
 * Called in a transaction of outbox_table.c.  Raises what a DELETE raises, such
 * as 55000 when the table is published without a replica identity.
 */
uint64
np_outbox_delete(NpRow *const *rows, int count)
{
	Target		target = {
		.table = table_open(np_outbox_table(), RowExclusiveLock),
		.id = np_outbox_column("id", INT8OID),
		.msg_id = np_outbox_column("msg_id", TEXTOID)
	};
	uint64		deleted = 0;

	for (int i = 0; i < count; i++)
		rows[i]->is_written = false;
	if (is_plain(target.table) && target.id != InvalidAttrNumber && target.msg_id != InvalidAttrNumber)
	{
		CheckCmdReplicaIdentity(target.table, CMD_DELETE);
		target.blocks = RelationGetNumberOfBlocks(target.table);
		target.slot = table_slot_create(target.table, NULL);
		for (int i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			rows[i]->is_written = delete_row(&target, rows[i]);
			deleted += rows[i]->is_written;
		}
		ExecDropSingleTupleTableSlot(target.slot);
	}
	table_close(target.table, NoLock);
	return deleted;
}
