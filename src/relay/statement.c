/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  SQL statements whose plans are kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "relay/statement.h"

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
