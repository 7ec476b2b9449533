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
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "outbox/statement.h"

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

static Oid
owner_of(Oid schema, const char *relation)
{
	HeapTuple	tuple = SearchSysCache2(RELNAMENSP, CStringGetDatum(relation), ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find relation %s in schema %u", relation, schema);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Connect to SPI as the owner of a relation, for whoever may not read or write
 * it.  An error restores the user: AbortTransaction and AbortSubTransaction do.
 */
void
np_statements_begin(NpStatementCaller *caller, Oid schema, const char *relation)
{
	GetUserIdAndSecContext(&caller->user, &caller->context);
	SetUserIdAndSecContext(owner_of(schema, relation), caller->context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
}

/* And leave it again. */
void
np_statements_end(const NpStatementCaller *caller)
{
	SPI_finish();
	SetUserIdAndSecContext(caller->user, caller->context);
}
