/*-------------------------------------------------------------------------
 *
 * outbox.c
 *	  The table in which messages wait for the relay.
 *
 * Who may publish to the outbox need not be able to write its table: rows are
 * inserted as the table's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "delivery.h"
#include "encoding.h"
#include "outbox.h"
#include "settings.h"

/* Arguments of the INSERT. */
enum
{
	INSERT_SUBJECT,
	INSERT_PAYLOAD,
	INSERT_HEADERS,
	INSERT_MSG_ID,
	INSERT_ARGUMENTS
};

/* ---- Writing ------------------------------------------------------------------------- */

static bool inserting;			/* a message that has been checked */

static Oid
table_owner(Oid schema)
{
	Oid			table = get_relname_relid("nats_outbox", schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find table nats_outbox in schema %u", schema);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The INSERT, kept for the session; SPI is connected. */
static SPIPlanPtr
insert_plan(Oid schema)
{
	static SPIPlanPtr kept = NULL;
	static Oid	kept_schema = InvalidOid;
	Oid			types[INSERT_ARGUMENTS] = {TEXTOID, BYTEAOID, JSONBOID, TEXTOID};
	SPIPlanPtr	plan;

	if (kept_schema == schema)
		return kept;
	plan = SPI_prepare(psprintf("INSERT INTO %s (subject, payload, headers, msg_id)"
								" VALUES ($1, $2, $3, $4) RETURNING id",
								quote_qualified_identifier(get_namespace_name(schema), "nats_outbox")),
					   INSERT_ARGUMENTS, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare the INSERT into nats_outbox");
	if (kept != NULL)
		SPI_freeplan(kept);
	kept = plan;
	kept_schema = schema;
	return plan;
}

static Datum
make_bytea(NpSpan bytes)
{
	bytea	   *value = palloc(VARHDRSZ + bytes.length);

	SET_VARSIZE(value, VARHDRSZ + bytes.length);
	memcpy(VARDATA(value), bytes.data, bytes.length);
	return PointerGetDatum(value);
}

/* All headers but the id, which has a column; NULL: there are no others. */
static Datum
make_headers(const NpMessage *message, char *isnull)
{
	Jsonb	   *headers;

	*isnull = 'n';
	if (message->headers.data == NULL)
		return (Datum) 0;
	headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												 CStringGetDatum(np_message_headers_to_json(message->headers))));
	headers = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(headers),
												 CStringGetTextDatum("Nats-Msg-Id")));
	if (JB_ROOT_COUNT(headers) == 0)
		return (Datum) 0;
	*isnull = ' ';
	return JsonbPGetDatum(headers);
}

static int64
execute_insert(Oid schema, const NpMessage *message)
{
	NpSpan		id = message->id.data != NULL ? message->id : np_message_next_id();
	Datum		values[INSERT_ARGUMENTS];
	char		nulls[INSERT_ARGUMENTS] = {' ', ' ', ' ', ' '};
	bool		isnull;

	values[INSERT_SUBJECT] = CStringGetTextDatum(np_from_utf8(message->subject));
	values[INSERT_MSG_ID] = CStringGetTextDatum(np_from_utf8(id));
	values[INSERT_HEADERS] = make_headers(message, &nulls[INSERT_HEADERS]);
	if (message->payload.data != NULL)
		values[INSERT_PAYLOAD] = make_bytea(message->payload);
	else
		nulls[INSERT_PAYLOAD] = 'n';
	if (SPI_execute_plan(insert_plan(schema), values, nulls, false, 0) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "the INSERT into nats_outbox failed");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Put a message into the outbox of the extension in that schema; returns the
 * row's id.  A message without an id gets one.
 *
 * Raises what an INSERT raises: 25006 in a read-only transaction.
 */
int64
np_outbox_insert(Oid schema, const NpMessage *message)
{
	Oid			user;
	int			context;
	int64		id;

	/* an error restores the user, AbortTransaction and AbortSubTransaction do */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(table_owner(schema), context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	PG_TRY();
	{
		inserting = true;
		id = execute_insert(schema, message);
	}
	PG_FINALLY();
	{
		inserting = false;
	}
	PG_END_TRY();
	SPI_finish();
	SetUserIdAndSecContext(user, context);
	return id;
}

/* Is the row that is being inserted one of np_outbox_insert's? */
bool
np_outbox_is_inserting(void)
{
	return inserting;
}

/* ---- The relay: reading ------------------------------------------------------------------ */

/* The columns that it reads. */
enum
{
	READ_ID = 1,
	READ_SUBJECT,
	READ_PAYLOAD,
	READ_HEADERS,
	READ_MSG_ID,
	READ_ATTEMPTS
};

/* How many rows are fetched at a time, to stop when there are enough bytes. */
#define FETCH_ROWS	100

/* The longest time between two attempts, seconds. */
#define LAST_DELAY	30

/*
 * $1: rows behind this id.  In order, a row does not overtake an earlier one
 * of its subject that is to be tried again, whether its time has come or not.
 */
#define READ \
	"SELECT id, subject, payload, headers, msg_id, attempts FROM %s.nats_outbox AS o" \
	" WHERE id > $1 AND (next_attempt_at IS NULL OR next_attempt_at <= now())"
#define READ_ANY READ " ORDER BY id"
#define READ_ORDERED READ \
	" AND NOT EXISTS (SELECT FROM %s.nats_outbox AS earlier" \
	" WHERE earlier.next_attempt_at IS NOT NULL AND earlier.subject = o.subject AND earlier.id < o.id" \
	" AND (earlier.next_attempt_at > now() OR earlier.id <= $1)) ORDER BY id"

static char *extension_schema;	/* quoted; as of the last np_outbox_read */

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
}

static void
end_transaction(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* The only value of a query; NULL: there is no row.  In SPI's memory. */
static char *
query_value(const char *query)
{
	if (SPI_execute(query, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" failed", query);
	return SPI_processed == 0 ? NULL : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

static NpOutboxState
look_for_outbox(void)
{
	char	   *schema = query_value("SELECT pg_catalog.quote_ident(nspname) FROM pg_catalog.pg_extension"
									 " JOIN pg_catalog.pg_namespace AS n ON n.oid = extnamespace"
									 " WHERE extname = 'nats_publish'");
	char	   *paused;

	if (schema == NULL)
		return NP_OUTBOX_ABSENT;
	if (extension_schema == NULL || strcmp(extension_schema, schema) != 0)
		extension_schema = MemoryContextStrdup(TopMemoryContext, schema);
	paused = query_value(psprintf("SELECT paused FROM %s.nats_relay_control", schema));
	return paused != NULL && paused[0] == 't' ? NP_OUTBOX_PAUSED : NP_OUTBOX_THERE;
}

static NpSpan
copy_text(HeapTuple tuple, int column)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &isnull));

	return np_to_utf8(pnstrdup(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)), VARSIZE_ANY_EXHDR(value));
}

/* Copy a row into the batch, in whose memory we are; returns its size. */
static size_t
copy_row(HeapTuple tuple, NpOutboxRow *row)
{
	TupleDesc	columns = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value;

	memset(row, 0, sizeof(*row));
	row->id = DatumGetInt64(SPI_getbinval(tuple, columns, READ_ID, &isnull));
	row->attempts = DatumGetInt32(SPI_getbinval(tuple, columns, READ_ATTEMPTS, &isnull));
	row->subject = copy_text(tuple, READ_SUBJECT);
	row->msg_id = copy_text(tuple, READ_MSG_ID);
	value = SPI_getbinval(tuple, columns, READ_HEADERS, &isnull);
	if (!isnull)
		row->headers = DatumGetJsonbPCopy(value);
	value = SPI_getbinval(tuple, columns, READ_PAYLOAD, &isnull);
	if (!isnull)
	{
		bytea	   *payload = DatumGetByteaPCopy(value);

		row->payload = (NpSpan) {VARDATA(payload), VARSIZE(payload) - VARHDRSZ};
	}
	return row->payload.length;
}

/* Take the fetched rows; returns their size. */
static size_t
copy_rows(NpOutboxBatch *batch)
{
	MemoryContext previous = MemoryContextSwitchTo(batch->context);
	size_t		bytes = 0;

	for (uint64 i = 0; i < SPI_processed; i++)
		bytes += copy_row(SPI_tuptable->vals[i], &batch->rows[batch->count++]);
	MemoryContextSwitchTo(previous);
	SPI_freetuptable(SPI_tuptable);
	return bytes;
}

static void
fetch_batch(NpOutboxBatch *batch, int64 after, bool ordered)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(after)};
	const char *query = psprintf(ordered ? READ_ORDERED : READ_ANY, extension_schema, extension_schema);
	Portal		cursor = SPI_cursor_open_with_args(NULL, query, 1, types, values, NULL, true, 0);
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

/*
 * Read rows to publish, behind the id `after`, in a transaction of its own;
 * batch->context must be set, and be reset after use.
 *
 * Raises what reading a table raises; the transaction is then the caller's to abort.
 */
NpOutboxState
np_outbox_read(NpOutboxBatch *batch, int64 after, bool ordered)
{
	NpOutboxState state;

	batch->count = 0;
	begin_transaction();
	state = look_for_outbox();
	if (state == NP_OUTBOX_THERE)
		fetch_batch(batch, after, ordered);
	end_transaction();
	return state;
}

/* ---- The relay: settling ------------------------------------------------------------------- */

static void
execute(const char *command, int count, Oid *types, Datum *values)
{
	int			result = SPI_execute_with_args(command, count, types, values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "\"%s\" failed: %s", command, SPI_result_code_string(result));
}

static void
delete_stored(const NpOutboxBatch *batch, NpOutboxOutcome *outcome)
{
	Datum	   *ids = palloc(sizeof(Datum) * batch->count);
	Oid			types[] = {INT8ARRAYOID};
	Datum		values[1];

	for (int i = 0; i < batch->count; i++)
		if (batch->rows[i].state == NP_ROW_STORED)
			ids[outcome->published++] = Int64GetDatum(batch->rows[i].id);
	if (outcome->published == 0)
		return;
	values[0] = PointerGetDatum(construct_array(ids, outcome->published, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	execute(psprintf("DELETE FROM %s.nats_outbox WHERE id = ANY ($1)", extension_schema), 1, types, values);
}

/* A row that failed: when it is tried again, or where it ends. */
static void
settle_failed(const NpOutboxRow *row)
{
	Oid			types[] = {INT8OID, TEXTOID, FLOAT8OID};
	Datum		values[3];
	double		delay = row->attempts < 5 ? 1 << row->attempts : LAST_DELAY;

	values[0] = Int64GetDatum(row->id);
	values[1] = CStringGetTextDatum(psprintf("%s: %s", row->sqlstate, row->error));
	values[2] = Float8GetDatum(np_jittered((NpTime) (delay * USECS_PER_SEC)) / (double) USECS_PER_SEC);
	if (row->is_hopeless)
		execute(psprintf("WITH dead AS (DELETE FROM %s.nats_outbox WHERE id = $1 RETURNING *)"
						 " INSERT INTO %s.nats_outbox_dead (id, subject, payload, headers, msg_id, created_at, attempts, last_error)"
						 " SELECT id, subject, payload, headers, msg_id, created_at, attempts + 1, $2 FROM dead",
						 extension_schema, extension_schema), 2, types, values);
	else
		execute(psprintf("UPDATE %s.nats_outbox SET attempts = attempts + 1, last_error = $2,"
						 " next_attempt_at = pg_catalog.now() + $3 * interval '1 second' WHERE id = $1",
						 extension_schema), 3, types, values);
}

/*
 * Write down what became of a batch, in a transaction of its own: stored rows
 * are deleted, failed ones wait or are dead.
 *
 * Raises what writing a table raises; the transaction is then the caller's to abort.
 */
NpOutboxOutcome
np_outbox_settle(const NpOutboxBatch *batch)
{
	NpOutboxOutcome outcome = {0};

	begin_transaction();
	delete_stored(batch, &outcome);
	for (int i = 0; i < batch->count; i++)
	{
		const NpOutboxRow *row = &batch->rows[i];

		if (row->state != NP_ROW_FAILED)
			continue;
		settle_failed(row);
		if (row->is_hopeless)
			outcome.dead++;
		else
			outcome.failed++;
		if (outcome.error == NULL)
			outcome.error = row->error;
	}
	end_transaction();
	return outcome;
}
