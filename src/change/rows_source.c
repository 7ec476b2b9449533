/*-------------------------------------------------------------------------
 *
 * rows_source.c
 *	  The rows of a table, in the order of its key.
 *
 * A chunk is read in two statements.  The first finds where it ends, so many
 * keys on, whatever their rows are.  The second reads what is in it, locks it
 * FOR SHARE, and hands on each row as it comes, so that no more than one is in
 * memory.
 *
 * A row that somebody is changing is waited for, and read as it is then; if
 * it is not in the chunk any more, or does not satisfy the condition, it is
 * not read.  That is why the end is not the last row's key: that row may have
 * been given a key far behind it, and all between would be passed over.  Of a
 * row that has moved to where we have been its change was published, as of one
 * that was inserted there; one that has moved on is met again.
 *
 * All runs with the rights of the caller: what he may not see is not there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "base/report.h"
#include "change/rows_source.h"

/* ---- Statements --------------------------------------------------------------------- */

/* A statement that is being written, and what its parameters are. */
typedef struct Statement
{
	StringInfoData text;
	const char *name;			/* of the table, as the condition may call it */
	int			count;			/* of its parameters */
	Oid		   *types;
	Datum	   *values;
} Statement;

static void
begin_statement(Statement *statement, Relation relation, const NpRowsKey *key)
{
	int			most = key == NULL ? 0 : 2 * key->count;

	initStringInfo(&statement->text);
	statement->name = quote_identifier(pstrdup(RelationGetRelationName(relation)));
	statement->count = 0;
	statement->types = palloc(sizeof(Oid) * Max(most, 1));
	statement->values = palloc(sizeof(Datum) * Max(most, 1));
}

/* Without the tables that inherit from it, whose rows its triggers do not see; but with its partitions. */
static void
append_from(Statement *statement, Relation relation)
{
	appendStringInfo(&statement->text, " FROM %s%s AS %s WHERE true",
					 relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												RelationGetRelationName(relation)),
					 statement->name);
}

static void
append_key(Statement *statement, const NpRowsKey *key)
{
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&statement->text, "%s%s.%s", i > 0 ? ", " : "", statement->name, quote_identifier(key->columns[i].name));
}

/* Of the value that is the parameter. */
static void
append_comparison(Statement *statement, const NpRowsKeyColumn *column, int strategy, int parameter)
{
	appendStringInfo(&statement->text, "%s.%s%s OPERATOR(%s) $%d", statement->name, quote_identifier(column->name), column->cast,
					 column->operators[strategy], parameter);
}

static bool
has_one_operator(const NpRowsKey *key, int strategy)
{
	for (int i = 1; i < key->count; i++)
		if (strcmp(key->columns[i].operators[strategy], key->columns[0].operators[strategy]) != 0)
			return false;
	return true;
}

/* ROW(table.a, table.b) OPERATOR(>) ROW($1, $2) */
static void
append_comparison_of_all(Statement *statement, const NpRowsKey *key, int strategy, int first)
{
	appendStringInfoString(&statement->text, "ROW(");
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&statement->text, "%s%s.%s%s", i > 0 ? ", " : "", statement->name, quote_identifier(key->columns[i].name),
						 key->columns[i].cast);
	appendStringInfo(&statement->text, ") OPERATOR(%s) ROW(", key->columns[0].operators[strategy]);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&statement->text, "%s$%d", i > 0 ? ", " : "", first + i);
	appendStringInfoChar(&statement->text, ')');
}

/*
 * The same for operators that are not in one schema:
 * table.a >= $1 AND (table.a > $1 OR table.a = $1 AND (table.b > $2)).
 * The first condition is the index's.
 */
static void
append_comparison_of_each(Statement *statement, const NpRowsKey *key, int strategy, int first)
{
	bool		is_greater = strategy == BTGreaterStrategyNumber;

	append_comparison(statement, &key->columns[0], is_greater ? BTGreaterEqualStrategyNumber : BTLessEqualStrategyNumber, first);
	appendStringInfoString(&statement->text, " AND (");
	for (int i = 0; i < key->count - 1; i++)
	{
		append_comparison(statement, &key->columns[i], is_greater ? BTGreaterStrategyNumber : BTLessStrategyNumber, first + i);
		appendStringInfoString(&statement->text, " OR ");
		append_comparison(statement, &key->columns[i], BTEqualStrategyNumber, first + i);
		appendStringInfoString(&statement->text, " AND (");
	}
	append_comparison(statement, &key->columns[key->count - 1], strategy, first + key->count - 1);
	for (int i = 0; i < key->count; i++)
		appendStringInfoChar(&statement->text, ')');
}

/* By BTGreaterStrategyNumber or BTLessEqualStrategyNumber; no values are no bound. */
static void
append_bound(Statement *statement, const NpRowsKey *key, int strategy, const Datum *values)
{
	int			first = statement->count + 1;

	if (values == NULL)
		return;
	for (int i = 0; i < key->count; i++)
	{
		statement->types[statement->count] = key->columns[i].compared_type;
		statement->values[statement->count++] = values[i];
	}
	appendStringInfoString(&statement->text, " AND ");
	if (has_one_operator(key, strategy))
		append_comparison_of_all(statement, key, strategy, first);
	else
		append_comparison_of_each(statement, key, strategy, first);
}

/* The position of a syntax error is one in the condition, not in the CALL. */
static void
locate_error(void *condition)
{
	int			position = geterrposition();

	errposition(0);
	internalerrposition(position);
	internalerrquery(condition);
}

/*
 * Raises 42601 for what is not one expression: what closes the parentheses in
 * which it will be would make something else of the statement.
 */
void
np_rows_check_condition(const char *condition)
{
	ErrorContextCallback callback = {error_context_stack, locate_error, unconstify(char *, condition)};

	error_context_stack = &callback;
	(void) raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR);
	error_context_stack = callback.previous;
}

/* On lines of its own: it may end with a comment. */
static void
append_condition(Statement *statement, const NpRowsOptions *options)
{
	if (options->condition != NULL)
		appendStringInfo(&statement->text, " AND (\n%s\n)", options->condition);
}

static void
append_order(Statement *statement, const NpRowsKey *key)
{
	appendStringInfoString(&statement->text, " ORDER BY ");
	append_key(statement, key);
}

/* ---- Executing them ------------------------------------------------------------------ */

/* Gets rows while their statement goes on; PostgreSQL's part is first. */
typedef struct Receiver
{
	DestReceiver destination;
	bool		(*take) (void *argument, TupleTableSlot *slot);
	void	   *argument;
} Receiver;

static bool
receive(TupleTableSlot *slot, DestReceiver *destination)
{
	Receiver   *receiver = (Receiver *) destination;

	return receiver->take(receiver->argument, slot);
}

static void
start(DestReceiver *destination, int operation, TupleDesc columns)
{
}

static void
end(DestReceiver *destination)
{
}

static ParamListInfo
make_parameters(const Statement *statement)
{
	ParamListInfo list = makeParamList(statement->count);

	for (int i = 0; i < statement->count; i++)
		list->params[i] = (ParamExternData)
	{
		.value = statement->values[i],.pflags = PARAM_FLAG_CONST,.ptype = statement->types[i]
	};
	return list;
}

/*
 * Each chunk by the index, in its order: what a planner without statistics
 * takes for a large part of the table is not one.  Returns the nest level.
 */
static int
begin_planning(void)
{
	static const char *const settings[] = {"enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"};
	int			nest_level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

/* SPI is connected. */
static void
execute(const Statement *statement, bool (*take) (void *argument, TupleTableSlot *slot), void *argument)
{
	/* of what kind it is matters to nobody, but that SPI takes a SELECT for another command when it is none */
	Receiver	receiver = {{receive, start, end, end, DestTuplestore}, take, argument};
	SPIExecuteOptions options = {.params = make_parameters(statement),.dest = &receiver.destination};
	int			nest_level = begin_planning();
	SPIPlanPtr	plan = SPI_prepare(statement->text.data, statement->count, statement->types);
	int			result;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", statement->text.data, SPI_result_code_string(SPI_result));
	result = SPI_execute_plan_extended(plan, &options);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" failed: %s", statement->text.data, SPI_result_code_string(result));
	SPI_freeplan(plan);
	AtEOXact_GUC(true, nest_level);
}

/* ---- Keys ------------------------------------------------------------------------------ */

/* The last key that was seen. */
typedef struct Search
{
	const NpRowsKey *key;
	MemoryContext context;		/* of its values */
	Datum	   *values;
	int64		count;			/* of those that were seen */
} Search;

static bool
take_key(void *argument, TupleTableSlot *slot)
{
	Search	   *search = argument;
	MemoryContext previous = MemoryContextSwitchTo(search->context);

	slot_getallattrs(slot);
	for (int i = 0; i < search->key->count; i++)
	{
		const NpRowsKeyColumn *column = &search->key->columns[i];

		if (search->count > 0 && !column->is_by_value)
			pfree(DatumGetPointer(search->values[i]));
		search->values[i] = datumCopy(slot->tts_values[i], column->is_by_value, column->length);
	}
	search->count++;
	MemoryContextSwitchTo(previous);
	return true;
}

/*
 * The last of the keys that come next, at most so many, palloc'd; *count is
 * how many there were.  NULL: there is none.
 */
Datum *
np_rows_find_last(Relation relation, const NpRowsKey *key, const Datum *after, int most, int64 *count)
{
	Search		search = {key, CurrentMemoryContext, palloc(sizeof(Datum) * key->count), 0};
	Statement	statement;

	begin_statement(&statement, relation, key);
	appendStringInfoString(&statement.text, "SELECT ");
	append_key(&statement, key);
	append_from(&statement, relation);
	append_bound(&statement, key, BTGreaterStrategyNumber, after);
	append_order(&statement, key);
	appendStringInfo(&statement.text, " LIMIT %d", most);
	execute(&statement, take_key, &search);
	*count = search.count;
	return search.count == 0 ? NULL : search.values;
}

/* ---- Rows ------------------------------------------------------------------------------- */

typedef struct Reading
{
	NpRowTaker	take;
	void	   *argument;
} Reading;

static bool
take_row(void *argument, TupleTableSlot *slot)
{
	const Reading *reading = argument;

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	return reading->take(reading->argument, slot->tts_values[0], DatumGetTransactionId(slot->tts_values[1]));
}

/*
 * Read the rows of a range that satisfy the condition, in the order of their
 * keys.  Locked, they stay as they are until the transaction has ended.
 */
void
np_rows_read(Relation relation, const NpRowsOptions *options, const NpRowsKey *key, const NpRowsRange *range,
			 bool locked, NpRowTaker take, void *argument)
{
	Reading		reading = {take, argument};
	Statement	statement;

	begin_statement(&statement, relation, key);
	/* a cast to its own type, for a column may have the name of the table */
	appendStringInfo(&statement.text, "SELECT (%s.*)::%s, %s.xmin", statement.name,
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												RelationGetRelationName(relation)), statement.name);
	append_from(&statement, relation);
	append_bound(&statement, key, BTGreaterStrategyNumber, range->after);
	append_bound(&statement, key, BTLessEqualStrategyNumber, range->last);
	append_condition(&statement, options);
	append_order(&statement, key);
	if (locked)
		appendStringInfo(&statement.text, " FOR SHARE OF %s", statement.name);
	execute(&statement, take_row, &reading);
}

static bool
take_count(void *argument, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	*(int64 *) argument = DatumGetInt64(slot->tts_values[0]);
	return true;
}

/* How many rows satisfy the condition. */
int64
np_rows_count(Relation relation, const NpRowsOptions *options)
{
	Statement	statement;
	int64		count = 0;

	begin_statement(&statement, relation, NULL);
	appendStringInfoString(&statement.text, "SELECT pg_catalog.count(*)");
	append_from(&statement, relation);
	append_condition(&statement, options);
	execute(&statement, take_count, &count);
	return count;
}
