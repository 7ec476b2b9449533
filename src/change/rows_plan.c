/*-------------------------------------------------------------------------
 *
 * rows_plan.c
 *	  How rows that are there already are published.
 *
 * As the trigger would publish them that publishes inserted rows (or, where
 * there is none, updated ones), but for:
 *
 *	  - the id.  The table's own would be that of the last change, and a stream
 *		that has seen it lately would drop the message, also where it has
 *		another subject.  Here it is the run, the key and the version of the
 *		row: a chunk that is published once more is dropped, and a row that has
 *		changed since is not.
 *	  - the delivery, where it is that of the session: on_commit, for when a
 *		chunk fails, what of it is on its way must not arrive.  Its rows can be
 *		changed then.
 *	  - the place in the transaction, where the messages are for somebody else
 *		than the changes are: he is told of no end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "base/report.h"
#include "base/user.h"
#include "change/change_cache.h"
#include "change/change_table.h"
#include "change/change_trigger.h"
#include "change/rows_plan.h"

/* ---- The trigger ---------------------------------------------------------------- */

NP_NORETURN static void
raise_no_trigger(Relation relation, const NpRowsOptions *options)
{
	NpFailure	failure;

	if (options->trigger != NULL)
		failure = np_failure(NP_FAULT_INPUT, "table \"%s\" has no trigger \"%s\" that publishes inserted or updated rows",
							 RelationGetRelationName(relation), options->trigger);
	else
		failure = np_failure(NP_FAULT_INPUT, "inserted or updated rows of table \"%s\" are not published",
							 RelationGetRelationName(relation));
	failure.hint = "Rows are published by the options of nats_publish_table(): call that first.";
	np_raise(&failure);
}

/* Does it publish what this event is about, and is it the one that is wanted? */
static bool
is_candidate(const Trigger *trigger, Oid function, const NpRowsOptions *options, int16 event)
{
	return trigger->tgfoid == function && (trigger->tgtype & event) != 0 &&
		(options->trigger == NULL || strcmp(trigger->tgname, options->trigger) == 0);
}

/* The one that fires for this event, palloc'd, of several that of nats_publish_table(); NULL: there is none. */
static const Trigger *
find_trigger_for(Relation relation, const NpRowsOptions *options, int16 event)
{
	Oid			function = np_change_trigger_function(options->schema);
	const TriggerDesc *triggers = CopyTriggerDesc(relation->trigdesc);	/* a look at the catalog can free
																		 * them */
	const Trigger *found = NULL;
	const Trigger *other = NULL;
	NpFailure	failure;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (!is_candidate(trigger, function, options, event))
			continue;
		if (np_change_table_names(trigger->tgname))
			return trigger;
		other = found;
		found = trigger;
	}
	if (other == NULL)
		return found;
	failure = np_failure(NP_FAULT_INPUT, "several triggers publish rows of table \"%s\"", RelationGetRelationName(relation));
	failure.hint = psprintf("Say which: trigger => '%s' or trigger => '%s'.", other->tgname, found->tgname);
	np_raise(&failure);
}

static const Trigger *
find_trigger(Relation relation, const NpRowsOptions *options)
{
	const Trigger *trigger = find_trigger_for(relation, options, TRIGGER_TYPE_INSERT);

	if (trigger == NULL)
		trigger = find_trigger_for(relation, options, TRIGGER_TYPE_UPDATE);
	if (trigger == NULL)
		raise_no_trigger(relation, options);
	return trigger;
}

/* ---- Its condition ---------------------------------------------------------------- */

/* xmin, tableoid and the like, which a row as a value does not have */
static bool
has_system_column(Node *condition)
{
	Bitmapset  *columns = NULL;
	int			first;

	pull_varattnos(condition, PRS2_NEW_VARNO, &columns);
	first = bms_next_member(columns, -1);
	return first >= 0 && first + FirstLowInvalidHeapAttributeNumber < 0;
}

/* As TriggerEnabled does; only what is said of the new row can be known. */
static ExprState *
prepare_when(const Trigger *trigger, EState *estate, Oid owner)
{
	NpUser		caller;
	MemoryContext previous;
	Node	   *qual;
	ExprState  *state;
	NpFailure	failure;

	if (trigger->tgqual == NULL)
		return NULL;
	if (!TRIGGER_FOR_INSERT(trigger->tgtype))
	{
		failure = np_failure(NP_FAULT_FEATURE, "trigger \"%s\" has a condition about an update, which a row that is only read cannot meet",
							 trigger->tgname);
		failure.hint = "Make it fire for inserts, too.";
		np_raise(&failure);
	}
	previous = MemoryContextSwitchTo(estate->es_query_cxt);
	qual = stringToNode(trigger->tgqual);
	if (has_system_column(qual))
	{
		failure = np_failure(NP_FAULT_FEATURE, "trigger \"%s\" has a condition about a system column, which is not known of a row that is read",
							 trigger->tgname);
		failure.hint = "Use columns of the table in the condition.";
		np_raise(&failure);
	}
	ChangeVarNodes(qual, PRS2_NEW_VARNO, OUTER_VAR, 0);
	/* what is constant in it is evaluated here */
	np_user_become_owner(&caller, owner);
	state = ExecPrepareQual(make_ands_implicit((Expr *) qual), estate);
	np_user_return(&caller);
	MemoryContextSwitchTo(previous);
	return state;
}

/*
 * Is a row, as a composite value, one to be published?  Then it is in the
 * slot, until the next one is.  The condition is the owner's, and so are the
 * functions in it.
 */
bool
np_rows_plan_takes(NpRowsPlan *rows, Datum row)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	ExprContext *context = GetPerTupleExprContext(rows->estate);
	NpUser		caller;
	bool		result;

	rows->tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	rows->tuple.t_data = header;
	ItemPointerSetInvalid(&rows->tuple.t_self);
	(void) ExecStoreHeapTuple(&rows->tuple, rows->slot, false);
	ResetPerTupleExprContext(rows->estate);
	context->ecxt_outertuple = rows->slot;
	if (rows->when == NULL)
		return true;
	np_user_become_owner(&caller, rows->owner);
	result = ExecQual(rows->when, context);
	np_user_return(&caller);
	return result;
}

/* ---- The plan ----------------------------------------------------------------------- */

typedef struct Adaption
{
	const NpRowsOptions *options;
	char	   *msg_id;
} Adaption;

static void
adapt(NpChangeOptions *options, const void *argument)
{
	const Adaption *adaption = argument;

	options->msg_id = adaption->msg_id;
	if (adaption->options->subject != NULL)
		options->subject = pstrdup(adaption->options->subject);
	if (adaption->options->subject != NULL || adaption->options->only_missing)
	{
		options->transaction = false;
		options->transaction_end = NULL;
	}
	if (!np_delivery_is_relayed(options->delivery))
		options->delivery = NP_DELIVER_ON_COMMIT;
	else if (adaption->options->only_missing)
		np_raise_input("only_missing needs a delivery other than \"%s\"", np_delivery_name(options->delivery));
}

static bool
subject_has(const NpPlanTemplate *subject, NpPartKind kind)
{
	for (int i = 0; i < subject->count; i++)
		if (subject->parts[i].kind == kind)
			return true;
	return false;
}

static bool
subject_has_column(const NpPlanTemplate *subject, int index)
{
	for (int i = 0; i < subject->count; i++)
		if (subject->parts[i].kind == NP_PLAN_COLUMN && subject->parts[i].column.index == index)
			return true;
	return false;
}

/* That a subject has a message says something of a row where it is that row's, and that of all its changes. */
static void
require_own_subjects(const NpRowsKey *key, const NpPlanTemplate *subject)
{
	if (subject_has(subject, NP_PLAN_OP) || subject_has(subject, NP_PLAN_XID))
		np_raise_input("only_missing needs a subject that is the same for all changes of a row, without {op} and {xid}");
	for (int i = 0; i < key->count; i++)
		if (!subject_has_column(subject, key->columns[i].index))
			np_raise_input("only_missing needs a subject for each row, with {%s} in it", key->columns[i].name);
}

/* A header is left out of which that is not known; no subject can do without. */
static void
require_subject(const NpPlanTemplate *subject)
{
	if (subject_has(subject, NP_PLAN_LSN) || subject_has(subject, NP_PLAN_COMMIT_TS))
		np_raise_fault(NP_FAULT_INPUT, "Say by subject => '...' where they go.",
					   "rows that are read have no {lsn} and {commit_ts}, which the subject of the table contains");
}

/*
 * How the rows of a table are published in a run, palloc'd; to be freed.
 *
 * Raises 22023 for a table that is not published or has no key, and what
 * np_change_cache_make raises.
 */
NpRowsPlan *
np_rows_plan_make(Relation relation, const NpRowsOptions *options, const char *run)
{
	NpRowsPlan *rows = palloc0(sizeof(NpRowsPlan));
	const Trigger *trigger = find_trigger(relation, options);
	Adaption	adaption = {.options = options};

	rows->schema = options->schema;
	rows->owner = relation->rd_rel->relowner;
	rows->key = np_rows_key_find(relation);
	adaption.msg_id = psprintf("%s.%s", run, np_rows_key_template(rows->key));
	rows->plan = np_change_cache_make(relation, trigger, adapt, &adaption);
	require_subject(&rows->plan->subject);
	rows->plan->only_missing = options->only_missing;
	if (options->only_missing)
		require_own_subjects(rows->key, &rows->plan->subject);
	rows->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(relation)), &TTSOpsHeapTuple);
	rows->estate = CreateExecutorState();
	rows->when = prepare_when(trigger, rows->estate, rows->owner);
	return rows;
}

void
np_rows_plan_free(NpRowsPlan *rows)
{
	ExecDropSingleTupleTableSlot(rows->slot);
	FreeExecutorState(rows->estate);
}
