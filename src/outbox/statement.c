/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  SQL statements whose plans are kept, and as whom they are executed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "outbox/statement.h"

static bool is_ours;			/* the statement that is executed */

/* The plan of a statement for a schema, quoted; SPI is connected. */
SPIPlanPtr
np_statement_prepare(NpStatement *statement, const char *schema)
{
	SPIPlanPtr	plan;

	if (statement->plan != NULL && strcmp(statement->schema, schema) == 0)
		return statement->plan;
	plan = SPI_prepare(psprintf(statement->text, schema, schema), statement->argument_count, statement->types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", statement->text, SPI_result_code_string(SPI_result));
	if (statement->plan != NULL)
	{
		SPI_freeplan(statement->plan);
		pfree(statement->schema);
	}
	statement->schema = MemoryContextStrdup(TopMemoryContext, schema);
	statement->plan = plan;
	return plan;
}

/*
 * As whom a statement on a relation is executed.  Who could put another relation
 * in its place meanwhile is that one, or was a superuser.  Raises 42P01.
 */
Oid
np_statement_owner(Oid schema, const char *relation)
{
	HeapTuple	tuple = SearchSysCache2(RELNAMENSP, CStringGetDatum(relation), ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", get_namespace_name(schema), relation)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Connect to SPI as the owner of a relation, for whoever may not read or write
 * it.  The owner's code runs in the statements (triggers, policies), so it is a
 * restricted operation: nothing of it can be put off until who calls is
 * himself again.  An error restores the user: AbortTransaction and
 * AbortSubTransaction do.
 */
void
np_statements_begin(NpUser *caller, Oid schema, const char *relation)
{
	np_user_become_owner(caller, np_statement_owner(schema, relation));
	SPI_connect();
}

/* And leave it again. */
void
np_statements_end(const NpUser *caller)
{
	SPI_finish();
	np_user_return(caller);
}

/* Raises what SPI only returns. */
static int
execute(NpStatement *statement, Oid schema, Datum *values, const char *nulls, bool read_only, long limit)
{
	SPIPlanPtr	plan = np_statement_prepare(statement, quote_identifier(get_namespace_name(schema)));
	int			result = SPI_execute_plan(plan, values, nulls, read_only, limit);

	if (result < 0)
		elog(ERROR, "\"%s\" failed: %s", statement->text, SPI_result_code_string(result));
	return result;
}

/* In between, or connected to SPI otherwise, execute a statement for a schema; returns what SPI does. */
int
np_statement_execute(NpStatement *statement, Oid schema, Datum *values, const char *nulls)
{
	return execute(statement, schema, values, nulls, false, 0);
}

/* One that reads, with the snapshot that there is; returns how many rows it has found, at most limit, if that is not 0. */
uint64
np_statement_read(NpStatement *statement, Oid schema, Datum *values, long limit)
{
	(void) execute(statement, schema, values, NULL, true, limit);
	return SPI_processed;
}

/*
 * Execute one that fires triggers of the extension, which
 * let nobody else write in a restricted operation; returns what SPI does.
 */
int
np_statement_write(NpStatement *statement, Oid schema, Datum *values, const char *nulls)
{
	volatile int result = 0;
	bool		was_ours = is_ours;

	PG_TRY();
	{
		is_ours = true;
		result = np_statement_execute(statement, schema, values, nulls);
	}
	PG_FINALLY();
	{
		is_ours = was_ours;
	}
	PG_END_TRY();
	return result;
}

/*
 * Is that being done?  The owner's code in it is not told from ours; but the
 * owner needs no trigger's leave.
 */
bool
np_statement_is_ours(void)
{
	return is_ours;
}
