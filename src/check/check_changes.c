/*-------------------------------------------------------------------------
 *
 * check_changes.c
 *	  The doctor's check of the published tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "check/check.h"
#include "outbox/statement.h"

/* How many broken triggers are named. */
#define MAX_NAMED	3

/* The columns of read_triggers. */
enum
{
	TRIGGER_TABLE = 1,
	TRIGGER_NAME,
	TRIGGER_ERROR,
	TRIGGER_IS_OF_WAL
};

static NpStatement read_triggers = {
	.text = "SELECT relation::pg_catalog.text, trigger_name::pg_catalog.text, error, CASE WHEN delivery OPERATOR(pg_catalog.=) 'wal' THEN '' END FROM %1$s.nats_published_tables"
	" WHERE enabled OPERATOR(pg_catalog.<>) 'disabled' OR delivery OPERATOR(pg_catalog.=) 'wal' ORDER BY error IS NULL, 1, 2"
};

static void
find_errors(NpFinding *finding)
{
	uint64		broken = 0;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	columns = SPI_tuptable->tupdesc;
		char	   *error = SPI_getvalue(row, columns, TRIGGER_ERROR);

		if (error != NULL && broken++ < MAX_NAMED)
			np_find(finding, NP_CHECK_FAILED, SPI_getvalue(row, columns, TRIGGER_IS_OF_WAL) == NULL ?
					"Writes to %s fail because of trigger \"%s\": %s." : "Changes of %s are not all published because of trigger \"%s\": %s.",
					SPI_getvalue(row, columns, TRIGGER_TABLE), SPI_getvalue(row, columns, TRIGGER_NAME), error);
	}
	if (broken > MAX_NAMED)
		np_find(finding, NP_CHECK_FAILED, "%s more: see nats_published_tables.error.",
				np_count_of(broken - MAX_NAMED, "trigger"));
	if (broken > 0)
		np_find(finding, NP_CHECK_FAILED, "Call nats_publish_table() again with options that fit, or drop the trigger.");
	else if (SPI_processed > 0)
		np_find(finding, NP_CHECK_OK, "All triggers that publish changes fit their tables: %s.", np_count_of(SPI_processed, "trigger"));
	else
		np_find(finding, NP_CHECK_OK, "No table is published.");
}

void
np_check_changes(NpExamination *examination, NpFinding *finding)
{
	NpStatementCaller caller;
	MemoryContext context = CurrentMemoryContext;

	np_statements_begin(&caller, examination->schema, "nats_published_tables");
	if (SPI_execute_plan(np_statement_prepare(&read_triggers, quote_identifier(get_namespace_name(examination->schema))),
						 NULL, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look into nats_published_tables");
	MemoryContextSwitchTo(context);
	find_errors(finding);
	np_statements_end(&caller);
}
