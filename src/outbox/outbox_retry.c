/*-------------------------------------------------------------------------
 *
 * outbox_retry.c
 *	  Messages of the outbox that are to be tried again now.
 *
 * What waits in nats_outbox becomes due; what is in nats_outbox_dead is moved
 * back.  The two tables can have two owners, and each owner's triggers are
 * executed: so each table is written by statements of its own, as its owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "outbox/outbox.h"
#include "outbox/outbox_retry.h"
#include "outbox/statement.h"

/* The columns of take_dead, which put_back has as arguments, and that one's last. */
#define DEAD_COLUMNS	7
#define ID_SEQUENCE		DEAD_COLUMNS

/* What is dead is only what is known of a change of the WAL, for its message could not be made. */
#define NO_MESSAGE	"(last_error IS NOT NULL AND pg_catalog.right(last_error::pg_catalog.text, pg_catalog.length('" NP_OUTBOX_NO_MESSAGE "'))" \
	" OPERATOR(pg_catalog.=) '" NP_OUTBOX_NO_MESSAGE "')"

/* The subject is written so that the table's trigger sees the row. */
static NpStatement make_due = {
	.text = "UPDATE %s.nats_outbox AS o SET attempts = 0,"
	" next_attempt_at = CASE WHEN next_attempt_at IS NOT NULL THEN pg_catalog.now() END, subject = subject"
	" WHERE o.id OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {INT8OID}
};

/* Of types that we know, whatever the owner has made of the columns. */
static NpStatement take_dead = {
	.text = "WITH dead AS (DELETE FROM %s.nats_outbox_dead AS d WHERE d.id OPERATOR(pg_catalog.=) $1 AND NOT " NO_MESSAGE " RETURNING d.*)"
	" SELECT id::pg_catalog.int8, subject::pg_catalog.text, payload::pg_catalog.bytea, headers::pg_catalog.jsonb,"
	" msg_id::pg_catalog.text, created_at::pg_catalog.timestamptz, last_error::pg_catalog.text FROM dead ORDER BY died_at, dead_id",
	.argument_count = 1,
	.types = {INT8OID}
};

/* Under its id, unless that was taken meanwhile. */
static NpStatement put_back = {
	.text = "INSERT INTO %1$s.nats_outbox (id, subject, payload, headers, msg_id, created_at, next_attempt_at, last_error)"
	" OVERRIDING SYSTEM VALUE SELECT CASE WHEN EXISTS (SELECT FROM %1$s.nats_outbox AS o WHERE o.id OPERATOR(pg_catalog.=) $1)"
	" THEN pg_catalog.nextval($8) ELSE $1 END, $2, $3, $4, $5, $6, pg_catalog.now(), $7",
	.argument_count = DEAD_COLUMNS + 1,
	.types = {INT8OID, TEXTOID, BYTEAOID, JSONBOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, REGCLASSOID}
};

static NpStatement list_dead = {
	.text = "SELECT pg_catalog.array_agg(DISTINCT id::pg_catalog.int8) FROM %s.nats_outbox_dead WHERE id IS NOT NULL AND NOT " NO_MESSAGE
};

static NpStatement find_no_message = {
	.text = "SELECT FROM %s.nats_outbox_dead WHERE id OPERATOR(pg_catalog.=) $1 AND " NO_MESSAGE,
	.argument_count = 1,
	.types = {INT8OID}
};

static NpStatement list_retried = {
	.text = "SELECT pg_catalog.array_agg(id::pg_catalog.int8) FROM %s.nats_outbox"
	" WHERE id IS NOT NULL AND next_attempt_at OPERATOR(pg_catalog.>) pg_catalog.now() AND " NP_OUTBOX_FAILED("")
};

/*
 * The plans are kept, and made when there may be next to nothing in the tables:
 * by their indexes all the same.  Returns the level of settings to leave.
 */
static int
go_by_indexes(void)
{
	/* costs of what is switched off would have each execution compiled */
	static const char *const settings[][2] = {{"enable_seqscan", "off"}, {"enable_indexscan", "on"}, {"jit", "off"}};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* ---- One ------------------------------------------------------------------------------- */

/* Write nats_outbox; returns how many rows. */
static uint64
write_waiting(NpStatement *statement, Oid schema, Datum *values, const char *nulls)
{
	NpUser		caller;
	uint64		count;

	np_statements_begin(&caller, schema, "nats_outbox");
	(void) np_statement_write(statement, schema, values, nulls);
	count = SPI_processed;
	np_statements_end(&caller);
	return count;
}

static uint64
retry_waiting(Oid schema, int64 id)
{
	Datum		value = Int64GetDatum(id);

	return write_waiting(&make_due, schema, &value, NULL);
}

static uint64
put_row(Oid schema, HeapTuple row, TupleDesc columns)
{
	Datum		values[DEAD_COLUMNS + 1];
	char		nulls[DEAD_COLUMNS + 1];
	bool		isnull;

	for (int i = 0; i < DEAD_COLUMNS; i++)
	{
		values[i] = SPI_getbinval(row, columns, i + 1, &isnull);
		nulls[i] = isnull ? 'n' : ' ';
	}
	values[ID_SEQUENCE] = ObjectIdGetDatum(get_relname_relid(NP_OUTBOX_SEQUENCE, schema));
	nulls[ID_SEQUENCE] = ' ';
	return write_waiting(&put_back, schema, values, nulls);
}

/* How many rows were moved.  Ids of dead messages can repeat. */
static uint64
retry_dead(Oid schema, int64 id)
{
	NpUser		caller;
	Datum		value = Int64GetDatum(id);
	SPITupleTable *rows;
	uint64		found;
	uint64		count = 0;

	np_statements_begin(&caller, schema, "nats_outbox_dead");
	(void) np_statement_write(&take_dead, schema, &value, NULL);
	rows = SPI_tuptable;
	found = SPI_processed;
	for (uint64 i = 0; i < found; i++)
		count += put_row(schema, rows->vals[i], rows->tupdesc);
	np_statements_end(&caller);
	return count;
}

static bool
is_no_message(Oid schema, int64 id)
{
	NpUser		caller;
	Datum		value = Int64GetDatum(id);
	bool		found;

	np_statements_begin(&caller, schema, "nats_outbox_dead");
	found = np_statement_read(&find_no_message, schema, &value, 1) > 0;
	np_statements_end(&caller);
	return found;
}

static bool
retry(Oid schema, int64 id)
{
	uint64		waiting = retry_waiting(schema, id);

	return retry_dead(schema, id) + waiting > 0;
}

/*
 * Let the relay publish a message now, whether it is dead, has failed, or is
 * for later.  False: none has that id.
 */
bool
np_outbox_retry(Oid schema, int64 id)
{
	int			level = go_by_indexes();
	bool		found = retry(schema, id);

	if (!found && is_no_message(schema, id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("message " INT64_FORMAT " cannot be tried again: of its change there is no message", id),
				 errhint("Mend what its last_error says, publish the row with nats_publish_rows(), and delete it from nats_outbox_dead.")));
	AtEOXact_GUC(true, level);
	return found;
}

/* ---- All ------------------------------------------------------------------------------- */

/* In the memory of the caller; NULL: there are none. */
static ArrayType *
list_ids(NpStatement *list, Oid schema, const char *table)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi;
	NpUser		caller;
	ArrayType  *ids;
	Datum		value;
	bool		isnull;

	np_statements_begin(&caller, schema, table);
	(void) np_statement_write(list, schema, NULL, NULL);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	spi = MemoryContextSwitchTo(context);
	ids = isnull ? NULL : DatumGetArrayTypePCopy(value);
	MemoryContextSwitchTo(spi);
	np_statements_end(&caller);
	return ids;
}

/* How many rows were written or moved. */
static int64
retry_each(Oid schema, const ArrayType *ids, uint64 (*retry_id) (Oid schema, int64 id))
{
	MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "nats_publish retry", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(one);
	int			count = ids == NULL ? 0 : ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
	int64		retried = 0;

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		retried += retry_id(schema, ((const int64 *) ARR_DATA_PTR(ids))[i]);
		MemoryContextReset(one);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(one);
	return retried;
}

/*
 * The same of all messages that are dead or have failed; how many those are.
 * What is for later under the id of a dead one stays so.
 */
int64
np_outbox_retry_all(Oid schema)
{
	int			level = go_by_indexes();
	ArrayType  *dead = list_ids(&list_dead, schema, "nats_outbox_dead");
	ArrayType  *failed = list_ids(&list_retried, schema, "nats_outbox");
	int64		retried = retry_each(schema, dead, retry_dead) + retry_each(schema, failed, retry_waiting);

	AtEOXact_GUC(true, level);
	return retried;
}
