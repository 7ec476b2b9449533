/*-------------------------------------------------------------------------
 *
 * change_wal.c
 *	  What the WAL has of the changes of a table, and what it lacks.
 *
 * New rows are whole, but for values that are out of line (TOAST) and were not
 * touched.  Of old rows there is what the replica identity has: all columns if
 * it is FULL, those of an index, or nothing; and of an update that, too, only
 * if one of them has changed.
 *
 * What would make wrong messages is a problem of the operation: told when the
 * table is published, and, as a table can be altered later, of each change,
 * which becomes no message.  Inserts go on where updates can't.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "change/change_filter.h"
#include "change/change_identity.h"
#include "change/change_types.h"
#include "change/change_wal.h"

/* What is looked at. */
typedef struct Look
{
	NpChangePlan *plan;
	Relation	relation;
	const NpChangeOptions *options;
	const NpTriggerFacts *trigger;
	bool		is_for_new;		/* at what partitions of the relation will have that are created later */
} Look;

/* ---- The replica identity -------------------------------------------------------- */

/* A partitioned table has no rows: what its partitions have is theirs, and a new one's is its primary key. */
static void
find_old_columns(const Look *look)
{
	NpChangeWal *wal = look->plan->wal;
	int			count = RelationGetDescr(look->relation)->natts;
	Bitmapset  *identity = NULL;

	wal->old_is_whole = !look->is_for_new && (look->relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL ||
											  look->relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE);
	if (look->is_for_new)
		identity = RelationGetIndexAttrBitmap(look->relation, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	else if (!wal->old_is_whole)
		identity = np_change_identity(look->relation);
	wal->in_old = palloc0(sizeof(bool) * count);
	for (int i = 0; i < count; i++)
		wal->in_old[i] = wal->old_is_whole || bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, identity);
}

/* Has an old row all columns that are marked, by their number? */
static bool
old_row_has(const NpChangePlan *plan, const bool *marked)
{
	for (int i = 0; i < plan->column_count; i++)
		if (marked[i] && !plan->wal->in_old[plan->places[i]])
			return false;
	return true;
}

/* ---- Problems ---------------------------------------------------------------------- */

/* The first problem of an operation is the one that is told. */
static void
find_problem(const Look *look, NpChangeOp op, bool is_one, const char *hint, const char *text)
{
	NpChangeWal *wal = look->plan->wal;

	if (!is_one || wal->problems[op] != NULL)
		return;
	wal->problems[op] = text;
	wal->hints[op] = hint;
}

static void
find_problem_of_rows(const Look *look, bool is_one, const char *hint, const char *text)
{
	for (NpChangeOp op = NP_INSERT; op <= NP_DELETE; op++)
		find_problem(look, op, is_one, hint, text);
}

static int
published_needs(const NpChangePlan *plan, TupleDesc columns)
{
	int			needs = 0;
	List	   *row_types = NIL;

	for (int i = 0; i < plan->column_count; i++)
		if (plan->is_published[i] || plan->is_key[i] || plan->needed[i])
			needs |= np_type_needs(TupleDescAttr(columns, plan->places[i])->atttypid, &row_types);
	return needs;
}

static void
find_problems_of_table(const Look *look)
{
	Form_pg_class form = look->relation->rd_rel;
	const char *name = quote_identifier(RelationGetRelationName(look->relation));

	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
		find_problem(look, op, form->relkind == RELKIND_FOREIGN_TABLE || form->relpersistence != RELPERSISTENCE_PERMANENT,
					 "Use another delivery.",
					 psprintf("%s table %s has no changes in the WAL",
							  form->relkind == RELKIND_FOREIGN_TABLE ? "foreign" :
							  form->relpersistence == RELPERSISTENCE_UNLOGGED ? "unlogged" : "temporary", name));
	find_problem_of_rows(look, published_needs(look->plan, RelationGetDescr(look->relation)) & NP_NEEDS_TABLES,
						 "Declare the function IMMUTABLE if it reads no tables, or leave the column out.",
						 psprintf("a column of table %s is converted to text by a function that is not immutable", name));
}

static void
find_problems_of_trigger(const Look *look)
{
	const NpTriggerFacts *trigger = look->trigger;

	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
		find_problem(look, op, !TRIGGER_FOR_AFTER(trigger->type), "Create it as an AFTER trigger.",
					 "it is not an AFTER trigger");
	find_problem_of_rows(look, !TRIGGER_FOR_ROW(trigger->type), "Publish it at level row.",
						 "the WAL has rows, not statements");
	find_problem(look, NP_UPDATE, trigger->has_columns, "Use WHEN or the option columns to say which updates are published.",
				 "the WAL does not say which columns an UPDATE has set");
}

static char *
identity_hint(const Look *look)
{
	return psprintf("ALTER TABLE %s REPLICA IDENTITY FULL writes all columns of old rows to the WAL.",
					quote_identifier(RelationGetRelationName(look->relation)));
}

/* The old rows of what this version logs lack what messages are made of. */
static void
find_problems_of_identity(const Look *look)
{
	const NpChangePlan *plan = look->plan;
	const char *hint = identity_hint(look);
	const char *name = quote_identifier(RelationGetRelationName(look->relation));
	const char *key = psprintf("the replica identity of table %s does not have its key", name);
	const char *template = psprintf("the replica identity of table %s does not have all columns that messages of deleted rows are made of",
									name);
	bool		is_whole = plan->wal->old_is_whole;

	for (NpChangeOp op = NP_UPDATE; op <= NP_DELETE; op++)
	{
		find_problem(look, op, plan->old && !is_whole, hint,
					 psprintf("option old needs the whole old row, which the replica identity of table %s does not have", name));
		find_problem(look, op, !old_row_has(plan, plan->is_key), hint, key);
		find_problem(look, op, (op == NP_DELETE || plan->format == NP_FORMAT_DEBEZIUM) && !old_row_has(plan, plan->needed),
					 hint, template);
	}
	find_problem(look, NP_UPDATE, look->options->ignore != NIL && !is_whole, hint,
				 psprintf("option ignore needs the whole old row, which the replica identity of table %s does not have", name));
}

static void
find_problems_of_filter(const Look *look)
{
	NpChangeWal *wal = look->plan->wal;
	const char *problem = NULL;

	if (look->trigger->condition == NULL)
		return;
	wal->filter = np_change_filter_make(look->trigger->condition, RelationGetDescr(look->relation), &problem);
	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
		find_problem(look, op, problem != NULL,
					 "Use columns, constants, and operators and functions of PostgreSQL's own that are immutable.", problem);
	if (problem == NULL)
		for (NpChangeOp op = NP_UPDATE; op <= NP_DELETE; op++)
			find_problem(look, op, !np_change_filter_knows(wal->filter, wal->in_old), identity_hint(look),
						 psprintf("WHEN needs columns of the old row, which the replica identity of table %s does not have",
								  quote_identifier(RelationGetRelationName(look->relation))));
}

/* ---- Plans ------------------------------------------------------------------------- */

static void
add_wal(const Look *look, Relation published)
{
	NpChangePlan *plan = look->plan;
	TupleDesc	columns = CreateTupleDescCopyConstr(RelationGetDescr(look->relation));

	plan->wal = palloc0(sizeof(NpChangeWal));
	plan->wal->coders = plan->row.coders != NULL ? plan->row.coders : np_value_coders_make(plan->row.columns);
	plan->wal->old = MakeSingleTupleTableSlot(columns, &TTSOpsHeapTuple);
	plan->wal->new = MakeSingleTupleTableSlot(columns, &TTSOpsHeapTuple);
	plan->wal->owner = published->rd_rel->relowner;
	plan->wal->calls_others = published_needs(plan, columns) & NP_NEEDS_OTHERS_CODE;
	find_old_columns(look);
	find_problems_of_table(look);
	find_problems_of_trigger(look);
	find_problems_of_identity(look);
	find_problems_of_filter(look);
	plan->wal->is_limited = plan->wal->calls_others ||
		(plan->wal->filter != NULL && np_change_filter_can_take_long(plan->wal->filter));
}

/* np_change_plan_make, and what the plan of delivery wal has besides. */
NpChangePlan *
np_change_plan_of(Relation relation, Relation published, const NpChangeOptions *options, const NpTriggerFacts *trigger)
{
	NpChangePlan *plan = np_change_plan_make(relation, published, options, trigger);
	Look		look = {.plan = plan,.relation = relation,.options = options,.trigger = trigger};

	if (plan->delivery == NP_DELIVER_WAL)
		add_wal(&look, published);
	return plan;
}

/* Raises 0A000 if changes by such an operation can't be published. */
void
np_change_wal_check_op(const NpChangePlan *plan, NpChangeOp op)
{
	NpFailure	failure;

	if (plan->wal->problems[op] == NULL)
		return;
	failure = np_failure(NP_FAULT_FEATURE, "%ss cannot be published from the WAL: %s", np_change_op_name(op),
						 plan->wal->problems[op]);
	failure.hint = plan->wal->hints[op];
	np_raise(&failure);
}

static bool
is_among(int16 trigger_type, NpChangeOp op)
{
	static const int16 types[NP_CHANGE_OPS] = {
		[NP_INSERT] = TRIGGER_TYPE_INSERT,
		[NP_UPDATE] = TRIGGER_TYPE_UPDATE,
		[NP_DELETE] = TRIGGER_TYPE_DELETE,
		[NP_TRUNCATE] = TRIGGER_TYPE_TRUNCATE,
	};

	return trigger_type & types[op];
}

/* The same of all events of a trigger. */
void
np_change_wal_check(const NpChangePlan *plan, int16 trigger_type)
{
	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
		if (is_among(trigger_type, op))
			np_change_wal_check_op(plan, op);
}

/*
 * Will all changes of a partition be published that is created later, with the
 * replica identity that it has then?  Of a partitioned table that can be.
 */
bool
np_change_wal_suits_new(Relation relation, const NpChangeOptions *options, const NpTriggerFacts *trigger)
{
	NpChangePlan *plan = np_change_plan_make(relation, relation, options, trigger);
	Look		look = {.plan = plan,.relation = relation,.options = options,.trigger = trigger,.is_for_new = true};

	add_wal(&look, relation);
	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
		if (is_among(trigger->type, op) && plan->wal->problems[op] != NULL)
			return false;
	return true;
}
