/*-------------------------------------------------------------------------
 *
 * rows_run.c
 *	  How far the rows of a table have been published.
 *
 * A run of a table has a row in nats_publish_rows_runs, written in the
 * transaction that publishes a chunk: it says what is published, and the call
 * that finds it goes on behind that.  A chunk of which COMMIT was not reached
 * is read and published once more, with ids that are the same where the rows
 * are.  While a run goes on, its session has a lock, which is gone when that
 * is, however it has ended.
 *
 * The table is its owner's; who publishes rows need not be able to write it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/report.h"
#include "change/rows_run.h"
#include "message/message_id.h"
#include "outbox/statement.h"

PG_FUNCTION_INFO_V1(nats_publish_rows_stop);

#define RUNS_TABLE		"nats_publish_rows_runs"

/* The fourth field of the lock, as the view nats_publish_rows_progress has it; PostgreSQL's functions have 1 and 2. */
#define RUN_LOCK		3

/* ---- The lock ------------------------------------------------------------------ */

/* Take it for this session, which keeps it when a transaction ends; false: another one has it. */
bool
np_rows_run_lock(LOCKTAG *tag, Oid schema, Oid relation)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, get_relname_relid(RUNS_TABLE, schema), relation, RUN_LOCK);
	return LockAcquire(tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* Give it back; the transaction may have failed. */
void
np_rows_run_unlock(const LOCKTAG *tag)
{
	(void) LockRelease(tag, ExclusiveLock, true);
}

/* ---- Statements ------------------------------------------------------------------- */

/* The columns of find_run. */
enum
{
	RUN_ID = 1,
	RUN_LAST_KEY,
	RUN_READ,
	RUN_PUBLISHED,
	RUN_LEFT_OUT,
	RUN_EXPECTED,
	RUN_IS_FINISHED,
	RUN_IS_SAME
};

static NpStatement find_run = {
	.text = "SELECT run, last_key::pg_catalog.text[], rows_read::pg_catalog.int8, rows_published::pg_catalog.int8,"
	" rows_left_out::pg_catalog.int8, rows_expected::pg_catalog.int8, finished IS NOT NULL,"
	" arguments::pg_catalog.jsonb OPERATOR(pg_catalog.=) $2 FROM %s." RUNS_TABLE " WHERE relation OPERATOR(pg_catalog.=) $1",
	.argument_count = 2,
	.types = {OIDOID, JSONBOID}
};

static NpStatement go_on = {
	.text = "UPDATE %s." RUNS_TABLE " SET resumed = pg_catalog.clock_timestamp(), rows_before = rows_read, stop = false, error = NULL"
	" WHERE relation OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {OIDOID}
};

/* Those of tables that are gone, too. */
static NpStatement forget = {
	.text = "DELETE FROM %s." RUNS_TABLE " WHERE relation OPERATOR(pg_catalog.=) $1"
	" OR NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation)",
	.argument_count = 1,
	.types = {OIDOID}
};

static NpStatement begin_anew = {
	.text = "INSERT INTO %s." RUNS_TABLE " (relation, run, role, arguments, rows_expected) SELECT $1, $2, $3, $4, coalesce("
	"(SELECT pg_catalog.sum(c.reltuples) FROM pg_catalog.pg_partition_tree($1) AS p JOIN pg_catalog.pg_class AS c"
	" ON c.oid OPERATOR(pg_catalog.=) p.relid WHERE p.isleaf AND c.reltuples OPERATOR(pg_catalog.>=) 0),"
	"(SELECT c.reltuples FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) $1"
	" AND c.reltuples OPERATOR(pg_catalog.>=) 0))::pg_catalog.int8",
	.argument_count = 4,
	.types = {REGCLASSOID, TEXTOID, OIDOID, JSONBOID}
};

static NpStatement save = {
	.text = "UPDATE %s." RUNS_TABLE " SET last_key = $2, rows_read = $3, rows_published = $4, rows_left_out = $5,"
	" updated = pg_catalog.clock_timestamp(), finished = CASE WHEN $6 THEN pg_catalog.clock_timestamp() END"
	" WHERE relation OPERATOR(pg_catalog.=) $1 RETURNING stop::pg_catalog.bool",
	.argument_count = 6,
	.types = {OIDOID, TEXTARRAYOID, INT8OID, INT8OID, INT8OID, BOOLOID}
};

static NpStatement fail = {
	.text = "UPDATE %s." RUNS_TABLE " SET error = $2 WHERE relation OPERATOR(pg_catalog.=) $1",
	.argument_count = 2,
	.types = {OIDOID, TEXTOID}
};

static NpStatement find_role = {
	.text = "SELECT role::pg_catalog.oid FROM %s." RUNS_TABLE " WHERE relation OPERATOR(pg_catalog.=) $1 AND finished IS NULL",
	.argument_count = 1,
	.types = {OIDOID}
};

static NpStatement stop = {
	.text = "UPDATE %s." RUNS_TABLE " SET stop = true WHERE relation OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {OIDOID}
};

/* Of the first row; NULL is 0. */
static Datum
get_value(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

/* ---- Beginning, and going on ---------------------------------------------------------- */

static void
append_string(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, "\"%s\":", name);
	if (value == NULL)
		appendStringInfoString(json, "null");
	else
		escape_json(json, value);
	appendStringInfoChar(json, ',');
}

/* What must be the same for a run to go on: other rows are passed with others. */
static Datum
make_arguments(const NpRowsOptions *options, const char *order, Oid role)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	append_string(&json, "condition", options->condition);
	append_string(&json, "subject", options->subject);
	append_string(&json, "trigger", options->trigger);
	append_string(&json, "key", order);
	appendStringInfo(&json, "\"role\":%u,\"only_missing\":%s}", role, options->only_missing ? "true" : "false");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* Of a row of find_run. */
static void
read_run(NpRowsRun *run, MemoryContext context)
{
	MemoryContext previous = MemoryContextSwitchTo(context);
	bool		isnull;
	Datum		value;

	run->id = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, RUN_ID);
	value = get_value(RUN_LAST_KEY, &isnull);
	run->last_key = isnull ? NULL : DatumGetArrayTypePCopy(value);
	run->read = run->before = DatumGetInt64(get_value(RUN_READ, &isnull));
	run->published = DatumGetInt64(get_value(RUN_PUBLISHED, &isnull));
	run->left_out = DatumGetInt64(get_value(RUN_LEFT_OUT, &isnull));
	value = get_value(RUN_EXPECTED, &isnull);
	run->expected = isnull ? -1 : DatumGetInt64(value);
	MemoryContextSwitchTo(previous);
}

/* Is there a run to go on with?  Raises 55006 for one that has done something with other arguments. */
static bool
find(NpRowsRun *run, Datum arguments, MemoryContext context)
{
	Datum		values[] = {ObjectIdGetDatum(run->relation), arguments};
	NpFailure	failure;
	bool		isnull;

	(void) np_statement_execute(&find_run, run->schema, values, NULL);
	if (SPI_processed == 0 || DatumGetBool(get_value(RUN_IS_FINISHED, &isnull)))
		return false;
	read_run(run, context);
	if (DatumGetBool(get_value(RUN_IS_SAME, &isnull)))
		return true;
	if (run->last_key != NULL)
	{
		failure = np_failure(NP_FAULT_RUN, "rows of table \"%s\" are published in part, by a call with other arguments or of another role, or in the order of another key",
							 get_rel_name(run->relation));
		failure.hint = "Repeat that call to go on, or use restart => true to start over.";
		np_raise(&failure);
	}
	return false;
}

static void
begin(NpRowsRun *run, Datum arguments, Oid role)
{
	NpSpan		id = np_message_next_id();
	Datum		values[] = {
		ObjectIdGetDatum(run->relation), PointerGetDatum(cstring_to_text_with_len(id.data, id.length)),
		ObjectIdGetDatum(role), arguments
	};

	(void) np_statement_execute(&forget, run->schema, values, NULL);
	(void) np_statement_execute(&begin_anew, run->schema, values, NULL);
}

/*
 * Begin a run, or go on with the one that was not finished, unless it is to
 * begin anew.  The caller has the lock.  Raises 55006 when it was another one.
 */
void
np_rows_run_begin(NpRowsRun *run, const NpRowsOptions *options, const NpRowsKey *key, bool anew)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			role = GetUserId();
	NpUser		caller;
	Datum		arguments;
	Datum		relation = ObjectIdGetDatum(options->relation);

	*run = (NpRowsRun) {.schema = options->schema,.relation = options->relation,.order = np_rows_key_order(key)};
	np_statements_begin(&caller, options->schema, RUNS_TABLE);
	arguments = make_arguments(options, run->order, role);
	if (!anew && find(run, arguments, context))
		(void) np_statement_execute(&go_on, run->schema, &relation, NULL);
	else
	{
		begin(run, arguments, role);
		(void) find(run, arguments, context);
	}
	np_statements_end(&caller);
}

/* ---- Going on ---------------------------------------------------------------------------- */

/* Write down how far it is. */
NpRowsWish
np_rows_run_save(const NpRowsRun *run, bool is_finished)
{
	NpUser		caller;
	Datum		values[] = {
		ObjectIdGetDatum(run->relation), PointerGetDatum(run->last_key), Int64GetDatum(run->read),
		Int64GetDatum(run->published), Int64GetDatum(run->left_out), BoolGetDatum(is_finished)
	};
	char		nulls[] = {' ', run->last_key == NULL ? 'n' : ' ', ' ', ' ', ' ', ' '};
	NpRowsWish	wish = NP_ROWS_FORGET;
	bool		isnull;

	np_statements_begin(&caller, run->schema, RUNS_TABLE);
	(void) np_statement_execute(&save, run->schema, values, nulls);
	if (SPI_processed > 0)
		wish = DatumGetBool(get_value(1, &isnull)) ? NP_ROWS_STOP : NP_ROWS_GO_ON;
	np_statements_end(&caller);
	return wish;
}

/* Write down what has ended it. */
void
np_rows_run_fail(const NpRowsRun *run, const char *error)
{
	NpUser		caller;
	Datum		values[] = {ObjectIdGetDatum(run->relation), CStringGetTextDatum(error)};

	np_statements_begin(&caller, run->schema, RUNS_TABLE);
	(void) np_statement_execute(&fail, run->schema, values, NULL);
	np_statements_end(&caller);
}

/* ---- Stopping it -------------------------------------------------------------------------- */

/* Raises 42501 for who is not of the role that has begun the run; of one that is gone, superusers are. */
static void
check_role(Oid relation, Oid user)
{
	bool		isnull;
	NpFailure	failure;

	if (has_privs_of_role(user, DatumGetObjectId(get_value(1, &isnull))))
		return;
	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied to stop publishing the rows of table \"%s\"", get_rel_name(relation));
	failure.hint = "Only the role that publishes them and its members may do so.";
	np_raise(&failure);
}

/*
 * nats_publish_rows_stop(relation, forget): lets the call that publishes a
 * table's rows end after its chunk; forget: it is not to be gone on with.
 * False: there is no run that is not finished.
 */
Datum
nats_publish_rows_stop(PG_FUNCTION_ARGS)
{
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	Datum		relation = PG_GETARG_DATUM(0);
	NpUser		caller;
	bool		is_there;

	np_statements_begin(&caller, schema, RUNS_TABLE);
	(void) np_statement_execute(&find_role, schema, &relation, NULL);
	is_there = SPI_processed > 0;
	if (is_there)
	{
		check_role(DatumGetObjectId(relation), caller.id);
		(void) np_statement_execute(PG_GETARG_BOOL(1) ? &forget : &stop, schema, &relation, NULL);
	}
	np_statements_end(&caller);
	PG_RETURN_BOOL(is_there);
}
