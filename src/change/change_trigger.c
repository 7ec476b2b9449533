/*-------------------------------------------------------------------------
 *
 * change_trigger.c
 *	  The trigger function that publishes changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "base/report.h"
#include "change/change_cache.h"
#include "change/change_publish.h"
#include "change/change_trigger.h"
#include "commit/transaction.h"
#include "publish/policy.h"

PG_FUNCTION_INFO_V1(nats_publish_change);

static void
publish_change(FunctionCallInfo fcinfo, const NpChangePlan *plan, NpChangeOp op, TupleTableSlot *old, TupleTableSlot *new)
{
	NpChange	change = {.op = op,.transaction = np_change_transaction(),.old = old,.new = new};

	np_change_publish(get_func_namespace(fcinfo->flinfo->fn_oid), plan, &change);
}

/* ---- Rows -------------------------------------------------------------------------- */

static NpChangeOp
change_op(const TriggerData *data)
{
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		return NP_INSERT;
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		return NP_UPDATE;
	if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
		return NP_DELETE;
	return NP_TRUNCATE;
}

static void
publish_row(FunctionCallInfo fcinfo, const NpChangePlan *plan)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;

	switch (change_op(data))
	{
		case NP_UPDATE:
			publish_change(fcinfo, plan, NP_UPDATE, data->tg_trigslot, data->tg_newslot);
			break;
		case NP_DELETE:
			publish_change(fcinfo, plan, NP_DELETE, data->tg_trigslot, NULL);
			break;
		default:
			publish_change(fcinfo, plan, NP_INSERT, NULL, data->tg_trigslot);
	}
}

/* A transition table that is read from its beginning. */
typedef struct RowReader
{
	Tuplestorestate *rows;		/* NULL: there is none */
	int			pointer;
	TupleTableSlot *slot;
} RowReader;

/* Another trigger may read the same table: each has a read pointer of its own. */
static void
open_reader(RowReader *reader, Tuplestorestate *rows, Relation relation)
{
	memset(reader, 0, sizeof(*reader));
	reader->rows = rows;
	if (rows == NULL)
		return;
	reader->pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(rows, reader->pointer);
	tuplestore_rescan(rows);
	reader->slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsMinimalTuple);
}

static bool
read_row(RowReader *reader)
{
	if (reader->rows == NULL)
		return false;
	tuplestore_select_read_pointer(reader->rows, reader->pointer);
	return tuplestore_gettupleslot(reader->rows, true, false, reader->slot);
}

static void
close_reader(RowReader *reader)
{
	if (reader->slot != NULL)
		ExecDropSingleTupleTableSlot(reader->slot);
}

static void
publish_transition_tables(FunctionCallInfo fcinfo, const NpChangePlan *plan)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;
	NpChangeOp	op = change_op(data);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish row",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = CurrentMemoryContext;
	RowReader	old;
	RowReader	new;

	/* AfterTriggerSaveEvent adds the old and the new row of an update one after the other */
	if (op == NP_UPDATE && tuplestore_tuple_count(data->tg_oldtable) != tuplestore_tuple_count(data->tg_newtable))
		elog(ERROR, "the transition tables of an update are not of the same length");
	open_reader(&old, op == NP_INSERT ? NULL : data->tg_oldtable, data->tg_relation);
	open_reader(&new, op == NP_DELETE ? NULL : data->tg_newtable, data->tg_relation);
	while ((int) read_row(&old) | (int) read_row(&new))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		publish_change(fcinfo, plan, op, old.slot, new.slot);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(row_context);
	}
	close_reader(&old);
	close_reader(&new);
	MemoryContextDelete(row_context);
}

/* The trigger function of the extension in that schema. */
Oid
np_change_trigger_function(Oid schema)
{
	return LookupFuncName(list_make2(makeString(get_namespace_name(schema)), makeString("nats_publish_change")), 0, NULL, false);
}

/* ---- The call ------------------------------------------------------------------------ */

static void
raise_call(const char *text)
{
	NpFailure	failure = np_failure(NP_FAULT_TRIGGER, "nats_publish_change() %s", text);

	np_raise(&failure);
}

static void
require_transition_table(const TriggerData *data, Tuplestorestate *rows, const char *clause)
{
	NpFailure	failure;

	if (rows != NULL)
		return;
	failure = np_failure(NP_FAULT_INPUT, "trigger \"%s\" for each statement has no table of the changed rows",
						 data->tg_trigger->tgname);
	failure.hint = psprintf("Create it FOR EACH ROW, or for this event alone with REFERENCING %s.", clause);
	np_raise(&failure);
}

static void
check_call(FunctionCallInfo fcinfo)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;
	const char *clause;

	if (!CALLED_AS_TRIGGER(fcinfo))
		raise_call("can only be called by a trigger");
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		raise_call("must be fired AFTER the change");
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event) || change_op(data) == NP_TRUNCATE)
		return;
	clause = change_op(data) == NP_INSERT ? "NEW TABLE AS new_rows" :
		change_op(data) == NP_DELETE ? "OLD TABLE AS old_rows" : "OLD TABLE AS old_rows NEW TABLE AS new_rows";
	if (change_op(data) != NP_INSERT)
		require_transition_table(data, data->tg_oldtable, clause);
	if (change_op(data) != NP_DELETE)
		require_transition_table(data, data->tg_newtable, clause);
}

/*
 * nats_publish_change('option=value', ...): publishes what its trigger fired for
 *
 * Raises 39P01 when it was not fired by an AFTER trigger, 22023 for a statement
 * trigger that can't see its rows, and what np_change_cache_find,
 * np_change_message_build and publishing raise.
 */
Datum
nats_publish_change(PG_FUNCTION_ARGS)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;
	NpChangePlan *plan;

	check_call(fcinfo);
	/* somebody has enabled it: the change is published all the same, and once */
	if (np_change_is_from_wal(data->tg_trigger->tgnargs, data->tg_trigger->tgargs))
		return PointerGetDatum(NULL);
	np_transaction_join();
	/* of which delivery it is, is not worth finding out */
	if (np_policy_skips_calls(NP_STATS_ON_COMMIT))
		return PointerGetDatum(NULL);
	plan = np_change_cache_find(data->tg_relation, data->tg_trigger);
	if (change_op(data) == NP_TRUNCATE)
		publish_change(fcinfo, plan, NP_TRUNCATE, NULL, NULL);
	else if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
		publish_row(fcinfo, plan);
	else
		publish_transition_tables(fcinfo, plan);
	np_change_cache_release(plan);
	return PointerGetDatum(NULL);
}
