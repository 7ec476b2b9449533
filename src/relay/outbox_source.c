/*-------------------------------------------------------------------------
 *
 * outbox_source.c
 *	  The outbox as the relay sees it: rows to publish, and what became of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "publish/current_session.h"
#include "publish/delivery.h"
#include "relay/outbox_source.h"
#include "relay/relay_pause.h"
#include "relay/settled.h"
#include "relay/statement.h"

/* ---- Reading ------------------------------------------------------------------------------ */

/* The columns that it reads. */
enum
{
	READ_ID = 1,
	READ_SUBJECT,
	READ_PAYLOAD,
	READ_HEADERS,
	READ_MSG_ID,
	READ_ATTEMPTS,
	READ_IN_DOUBT,
	READ_TABLE
};

/* The SQLSTATE with which the last_error of a row begins for good once it may be stored. */
#define IN_DOUBT	"58030"

/* How many rows are fetched at a time: all of them are in memory before it is known how large they are. */
#define FETCH_ROWS	10

/* The longest time between two attempts, seconds. */
#define LAST_DELAY	30

/*
 * $1: rows behind this id.  In order, a row does not overtake an earlier one
 * of its subject that is to be tried again, whether its time has come or not.
 */
#define READ \
	"SELECT id, subject, payload, headers, msg_id, attempts, coalesce(starts_with(last_error, '" IN_DOUBT "'), false)," \
	" tableoid FROM %s.nats_outbox AS o" \
	" WHERE id > $1 AND (next_attempt_at IS NULL OR next_attempt_at <= now())"

static NpStatement read_any = {
	.text = READ " ORDER BY id",
	.argument_count = 1,
	.types = {INT8OID}
};

static NpStatement read_ordered = {
	.text = READ " AND NOT EXISTS (SELECT FROM %s.nats_outbox AS earlier"
	" WHERE earlier.next_attempt_at IS NOT NULL AND left(earlier.subject, 500) = left(o.subject, 500)"
	" AND earlier.subject = o.subject AND earlier.id < o.id"
	" AND (earlier.next_attempt_at > now() OR earlier.id <= $1)) ORDER BY id",
	.argument_count = 1,
	.types = {INT8OID}
};

static NpStatement find_schema = {
	.text = "SELECT pg_catalog.quote_ident(nspname) FROM pg_catalog.pg_extension"
	" JOIN pg_catalog.pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'nats_publish'"
};

static NpStatement find_table = {
	.text = "SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_extension ON extnamespace = relnamespace"
	" WHERE extname = 'nats_publish' AND relname = 'nats_outbox'"
};

static NpStatement read_last_id = {
	.text = "SELECT last_value OPERATOR(pg_catalog.-) (NOT is_called)::pg_catalog.int4 FROM %s.nats_outbox_id_seq"
};

/* Which rows wait to be tried again, in short. */
static NpStatement read_waiting = {
	.text = "SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(id)) FROM %s.nats_outbox"
	" WHERE next_attempt_at IS NOT NULL"
};

static NpStatement read_control = {.text = "SELECT pg_catalog.bool_or(paused) FROM %s.nats_control"};

static char *extension_schema;	/* quoted; as of the last np_outbox_read */
static char *waiting;			/* as of the last look from the first row on that filled a batch; NULL: none
								 * has */

/* Returns the memory context of the caller, which CommitTransactionCommand would leave. */
static MemoryContext
begin_transaction(void)
{
	MemoryContext previous = CurrentMemoryContext;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	return previous;
}

static void
end_transaction(MemoryContext previous)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(previous);
}

/* The only value of a query; NULL: there is no row.  In SPI's memory. */
static char *
query_value(NpStatement *statement, const char *schema)
{
	if (SPI_execute_plan(np_statement_prepare(statement, schema), NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" failed", statement->text);
	return SPI_processed == 0 ? NULL : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

static NpOutboxState
look_for_outbox(void)
{
	char	   *schema = query_value(&find_schema, "");
	char	   *paused;

	if (schema == NULL)
		return NP_OUTBOX_ABSENT;
	if (extension_schema == NULL || strcmp(extension_schema, schema) != 0)
		extension_schema = MemoryContextStrdup(TopMemoryContext, schema);
	paused = query_value(&read_control, schema);
	return (paused != NULL && paused[0] == 't') || np_pause_is_marked() ? NP_OUTBOX_PAUSED : NP_OUTBOX_THERE;
}

/*
 * Up to which id no row can appear any more that the next np_outbox_read can't
 * see; 0 until it is known, which takes more than one call.  In a transaction
 * of its own.
 */
int64
np_outbox_settled(void)
{
	MemoryContext previous = begin_transaction();
	char	   *table = query_value(&find_table, "");
	char	   *last_id = table == NULL ? NULL : query_value(&read_last_id, extension_schema);
	int64		settled = last_id == NULL ? 0 : np_settled(atooid(table), pg_strtoint64(last_id));

	end_transaction(previous);
	return settled;
}

static NpSpan
copy_text(HeapTuple tuple, int column)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &isnull));

	return np_to_utf8(pnstrdup(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)), VARSIZE_ANY_EXHDR(value));
}

static NpSpan
copy_payload(HeapTuple tuple)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, READ_PAYLOAD, &isnull);
	bytea	   *payload;

	if (isnull)
		return (NpSpan) {NULL, 0};
	payload = DatumGetByteaPCopy(value);
	return (NpSpan) {VARDATA(payload), VARSIZE(payload) - VARHDRSZ};
}

static void
build_message(HeapTuple tuple, NpMessage *message)
{
	NpMessageOptions options = {.headers = NULL};
	bool		isnull;
	Datum		headers = SPI_getbinval(tuple, SPI_tuptable->tupdesc, READ_HEADERS, &isnull);

	if (!isnull)
		options.headers = DatumGetJsonbP(headers);
	options.msg_id = copy_text(tuple, READ_MSG_ID);
	np_message_build(message, copy_text(tuple, READ_SUBJECT), copy_payload(tuple), &options);
	np_message_compact(message);
}

/*
 * Copy a row into the batch, in whose memory we are; returns its size.  What
 * can't be published (the table's check can be gone round) has failed.  The
 * error is caught without a subtransaction, as nothing that np_message_build
 * does has to be undone.
 */
static size_t
copy_row(HeapTuple tuple, NpOutboxRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	TupleDesc	columns = SPI_tuptable->tupdesc;
	bool		isnull;

	memset(row, 0, sizeof(*row));
	row->id = DatumGetInt64(SPI_getbinval(tuple, columns, READ_ID, &isnull));
	row->attempts = DatumGetInt32(SPI_getbinval(tuple, columns, READ_ATTEMPTS, &isnull));
	row->in_doubt = DatumGetBool(SPI_getbinval(tuple, columns, READ_IN_DOUBT, &isnull));
	PG_TRY();
	{
		build_message(tuple, &row->message);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		np_relay_row_refuse(row, pstrdup(unpack_sql_state(error->sqlerrcode)), error->message);
	}
	PG_END_TRY();
	return row->message.payload.length + row->message.headers.length;
}

/* Take the fetched rows, of which there are some; returns their size. */
static size_t
copy_rows(NpOutboxBatch *batch)
{
	MemoryContext previous = MemoryContextSwitchTo(batch->context);
	size_t		bytes = 0;
	bool		isnull;

	batch->table = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, READ_TABLE, &isnull));
	for (uint64 i = 0; i < SPI_processed; i++)
		bytes += copy_row(SPI_tuptable->vals[i], &batch->rows[batch->count++]);
	MemoryContextSwitchTo(previous);
	SPI_freetuptable(SPI_tuptable);
	return bytes;
}

static void
fetch_batch(NpOutboxBatch *batch, int64 after, bool ordered)
{
	Datum		values[] = {Int64GetDatum(after)};
	SPIPlanPtr	plan = np_statement_prepare(ordered ? &read_ordered : &read_any, extension_schema);
	Portal		cursor = SPI_cursor_open(NULL, plan, values, NULL, true);
	size_t		bytes = 0;

	batch->rows = MemoryContextAllocHuge(batch->context, sizeof(NpOutboxRow) * np_relay_batch_size);
	while (batch->count < np_relay_batch_size && bytes < (size_t) np_max_pending_bytes * 1024)
	{
		SPI_cursor_fetch(cursor, true, Min(FETCH_ROWS, np_relay_batch_size - batch->count));
		if (SPI_processed == 0)
			break;
		bytes += copy_rows(batch);
	}
	SPI_cursor_close(cursor);
}

/* InvalidOid: there is no such table. */
static Oid
file_of(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			file;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	file = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
	ReleaseSysCache(tuple);
	return file;
}

static bool
is_waiting_as_before(void)
{
	return waiting != NULL && strcmp(waiting, query_value(&read_waiting, extension_schema)) == 0;
}

static void
remember_waiting(void)
{
	if (waiting != NULL)
		pfree(waiting);
	waiting = MemoryContextStrdup(TopMemoryContext, query_value(&read_waiting, extension_schema));
}

/*
 * In order, behind a row that waits all of its subject wait, too, and looks
 * that begin behind them pass them by.  So when that row waits no more, the
 * next look must begin with the first one.  All of this sees the same rows:
 * SPI uses the transaction's active snapshot.
 */
static NpOutboxState
read_in_order(NpOutboxBatch *batch, int64 after)
{
	if (after > 0 && !is_waiting_as_before())
		return NP_OUTBOX_CHANGED;
	fetch_batch(batch, after, true);
	if (after == 0 && batch->count == np_relay_batch_size)
		remember_waiting();
	return NP_OUTBOX_THERE;
}

/*
 * Read rows to publish, behind the id `after`, in a transaction of its own;
 * batch->context must be set, and be reset after use.  NP_OUTBOX_CHANGED is
 * only returned when after is not 0.
 *
 * Raises what reading a table raises; the transaction is then the caller's to abort.
 */
NpOutboxState
np_outbox_read(NpOutboxBatch *batch, int64 after, bool ordered)
{
	NpOutboxState state;
	MemoryContext previous = begin_transaction();

	batch->count = 0;
	state = look_for_outbox();
	if (state == NP_OUTBOX_THERE)
	{
		/* here, for it may be looked up in the catalogs */
		batch->session = np_current_session();
		if (ordered)
			state = read_in_order(batch, after);
		else
			fetch_batch(batch, after, false);
		if (batch->count > 0)
			batch->file = file_of(batch->table);
	}
	end_transaction(previous);
	return state;
}

/* ---- Settling ----------------------------------------------------------------------------- */

static NpStatement delete_rows = {
	.text = "DELETE FROM %s.nats_outbox WHERE id = ANY ($1)",
	.argument_count = 1,
	.types = {INT8ARRAYOID}
};

static NpStatement put_off_row = {
	.text = "UPDATE %s.nats_outbox SET attempts = attempts + 1, last_error = $2,"
	" next_attempt_at = pg_catalog.now() + $3 * interval '1 second' WHERE id = $1",
	.argument_count = 3,
	.types = {INT8OID, TEXTOID, FLOAT8OID}
};

static NpStatement record_doubt = {
	.text = "UPDATE %s.nats_outbox SET last_error = $2 WHERE id = $1",
	.argument_count = 2,
	.types = {INT8OID, TEXTOID}
};

static NpStatement dead_letter_row = {
	.text = "WITH dead AS (DELETE FROM %s.nats_outbox WHERE id = $1 RETURNING *)"
	" INSERT INTO %s.nats_outbox_dead (id, subject, payload, headers, msg_id, created_at, attempts, last_error)"
	" SELECT id, subject, payload, headers, msg_id, created_at, attempts + 1, $2 FROM dead",
	.argument_count = 2,
	.types = {INT8OID, TEXTOID}
};

static void
execute(NpStatement *statement, Datum *values)
{
	int			result = SPI_execute_plan(np_statement_prepare(statement, extension_schema), values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "\"%s\" failed: %s", statement->text, SPI_result_code_string(result));
}

static void
delete_stored(const NpOutboxBatch *batch, NpOutboxOutcome *outcome)
{
	Datum	   *ids = palloc(sizeof(Datum) * batch->count);
	Datum		values[1];

	for (int i = 0; i < batch->count; i++)
		if (batch->rows[i].state == NP_ROW_STORED)
			ids[outcome->published++] = Int64GetDatum(batch->rows[i].id);
	if (outcome->published == 0)
		return;
	values[0] = PointerGetDatum(construct_array(ids, outcome->published, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	execute(&delete_rows, values);
}

/* The last_error of a row, palloc'd. */
static char *
describe(const NpOutboxRow *row)
{
	if (row->in_doubt && strcmp(row->sqlstate, IN_DOUBT) != 0)
		return psprintf("%s: %s; an earlier attempt may have stored it", IN_DOUBT, row->error);
	return psprintf("%s: %s", row->sqlstate, row->error);
}

static NpStatement *
statement_for(const NpOutboxRow *row)
{
	if (row->state != NP_ROW_FAILED)
		return &record_doubt;
	return row->is_hopeless ? &dead_letter_row : &put_off_row;
}

/* A row that failed: when it is tried again, or where it ends.  One that came into doubt: that it has. */
static void
settle_row(const NpOutboxRow *row)
{
	Datum		values[3];
	double		delay = row->attempts < 5 ? 1 << row->attempts : LAST_DELAY;

	values[0] = Int64GetDatum(row->id);
	values[1] = CStringGetTextDatum(describe(row));
	values[2] = Float8GetDatum(np_jittered((NpTime) (delay * USECS_PER_SEC)) / (double) USECS_PER_SEC);
	execute(statement_for(row), values);
}

static void
settle_rows(const NpOutboxBatch *batch, NpOutboxOutcome *outcome)
{
	delete_stored(batch, outcome);
	for (int i = 0; i < batch->count; i++)
	{
		const NpOutboxRow *row = &batch->rows[i];

		if (row->error == NULL)
			continue;
		settle_row(row);
		if (row->state != NP_ROW_FAILED)
			continue;
		if (row->is_hopeless)
			outcome->dead++;
		else
			outcome->failed++;
		if (outcome->error == NULL)
			outcome->error = row->error;
	}
}

/*
 * Write down what became of a batch, in a transaction of its own: stored rows
 * are deleted, failed ones wait or are dead.
 *
 * Only while the table is the one that they were read from: after DROP and
 * CREATE EXTENSION, or TRUNCATE RESTART IDENTITY, their ids are those of other
 * messages.
 *
 * Raises what writing a table raises; the transaction is then the caller's to abort.
 */
NpOutboxOutcome
np_outbox_settle(const NpOutboxBatch *batch)
{
	NpOutboxOutcome outcome = {0};
	MemoryContext previous = begin_transaction();

	LockRelationOid(batch->table, RowExclusiveLock);
	if (file_of(batch->table) == batch->file)
		settle_rows(batch, &outcome);
	end_transaction(previous);
	return outcome;
}
