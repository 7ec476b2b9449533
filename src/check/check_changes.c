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

/* Of a trigger that nats_publish_table() has created, for the events of rows. */
#define OUR_NAME	"'^nats_publish_(row|insert|update|delete)$'"

/* The columns of read_triggers. */
enum
{
	TRIGGER_TABLE = 1,
	TRIGGER_NAME,
	TRIGGER_ERROR,
	TRIGGER_HINT,
	TRIGGER_FIRES
};

static NpStatement read_triggers = {
	.text = "SELECT relation::pg_catalog.text, trigger_name::pg_catalog.text, error, hint, CASE WHEN delivery OPERATOR(pg_catalog.=) 'wal' THEN 'wal' ELSE enabled END"
	" FROM %1$s.nats_published_tables"
	" WHERE enabled OPERATOR(pg_catalog.<>) 'disabled' OR delivery OPERATOR(pg_catalog.=) 'wal' ORDER BY error IS NULL, 1, 2"
};

/*
 * A partition, and a table above it: ATTACH PARTITION allows that.  At level
 * statement, each has its own statements.  Who names a trigger himself knows
 * what he does.
 */
static NpStatement read_doubled = {
	.text = "SELECT DISTINCT part.relation::pg_catalog.text, whole.relation::pg_catalog.text"
	" FROM %1$s.nats_published_tables AS part, pg_catalog.pg_partition_ancestors(part.relation) AS above (relation), %1$s.nats_published_tables AS whole"
	" WHERE whole.relation OPERATOR(pg_catalog.=) above.relation AND whole.relation OPERATOR(pg_catalog.<>) part.relation"
	" AND 'row' OPERATOR(pg_catalog.=) ANY (ARRAY[part.level, whole.level])"
	" AND part.events OPERATOR(pg_catalog.&&) pg_catalog.array_remove(whole.events, 'truncate')"
	" AND (part.enabled OPERATOR(pg_catalog.<>) 'disabled' OR part.delivery OPERATOR(pg_catalog.=) 'wal')"
	" AND (whole.enabled OPERATOR(pg_catalog.<>) 'disabled' OR whole.delivery OPERATOR(pg_catalog.=) 'wal')"
	" AND part.trigger_name OPERATOR(pg_catalog.~) " OUR_NAME " AND whole.trigger_name OPERATOR(pg_catalog.~) " OUR_NAME " ORDER BY 1, 2"
};

static char *
value(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static void
find_doubled(NpFinding *finding)
{
	for (uint64 i = 0; i < SPI_processed && i < MAX_NAMED; i++)
		np_find(finding, NP_CHECK_WARNING, "Changes of %s are published twice: as its own, and as those of %s. Call nats_unpublish_table() for one of them.",
				value(i, 1), value(i, 2));
}

static void
find_error(uint64 row, NpFinding *finding)
{
	const char *hint = value(row, TRIGGER_HINT);
	const char *fires = value(row, TRIGGER_FIRES);
	bool		is_of_wal = strcmp(fires, "wal") == 0;

	np_find(finding, NP_CHECK_FAILED, "%s %s %s because of trigger \"%s\": %s.",
			is_of_wal ? "Changes of" : strcmp(fires, "replica") == 0 ? "Writes of replication to" : "Writes to",
			value(row, TRIGGER_TABLE), is_of_wal ? "are not all published" : "fail", value(row, TRIGGER_NAME), value(row, TRIGGER_ERROR));
	np_find(finding, NP_CHECK_FAILED, "%s",
			hint != NULL ? hint : "Call nats_publish_table() again with options that fit, or drop the trigger.");
}

static void
find_errors(NpFinding *finding)
{
	uint64		broken = 0;

	for (uint64 i = 0; i < SPI_processed; i++)
		if (value(i, TRIGGER_ERROR) != NULL && broken++ < MAX_NAMED)
			find_error(i, finding);
	if (broken > MAX_NAMED)
		np_find(finding, NP_CHECK_FAILED, "%s more: see nats_published_tables.error.",
				np_count_of(broken - MAX_NAMED, "trigger"));
	if (broken > 0)
		return;
	if (SPI_processed > 0)
		np_find(finding, NP_CHECK_OK, "All triggers that publish changes fit their tables: %s.", np_count_of(SPI_processed, "trigger"));
	else
		np_find(finding, NP_CHECK_OK, "No table is published.");
}

/* Findings are the caller's memory, which SPI's is not. */
static void
look(const NpExamination *examination, NpStatement *statement, void (*find) (NpFinding *finding), NpFinding *finding)
{
	NpUser		caller;
	MemoryContext context = CurrentMemoryContext;

	np_statements_begin(&caller, examination->schema, "nats_published_tables");
	(void) np_statement_read(statement, examination->schema, NULL, 0);
	MemoryContextSwitchTo(context);
	find(finding);
	np_statements_end(&caller);
}

void
np_check_changes(NpExamination *examination, NpFinding *finding)
{
	look(examination, &read_triggers, find_errors, finding);
	look(examination, &read_doubled, find_doubled, finding);
}
