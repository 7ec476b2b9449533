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

#include "access/htup_details.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/report.h"
#include "base/settings.h"
#include "message/header_json.h"
#include "message/message_id.h"
#include "outbox/outbox.h"
#include "outbox/relay_pause.h"
#include "outbox/statement.h"
#include "outbox/wal_message.h"

/* Arguments of the INSERT. */
enum
{
	INSERT_SUBJECT,
	INSERT_PAYLOAD,
	INSERT_HEADERS,
	INSERT_MSG_ID,
	INSERT_TIME,
	INSERT_ARGUMENTS
};

/* ---- Writing ------------------------------------------------------------------------- */

static bool inserting;			/* a message that has been checked */
static bool diverting;			/* the relay of the WAL moves messages here */

static NpStatement insert_message = {
	.text = "INSERT INTO %s.nats_outbox (subject, payload, headers, msg_id, next_attempt_at) VALUES ($1, $2, $3, $4, $5) RETURNING id::pg_catalog.int8",
	.argument_count = INSERT_ARGUMENTS,
	.types = {TEXTOID, BYTEAOID, JSONBOID, TEXTOID, TIMESTAMPTZOID}
};

/* A payload as the table has it. */
Datum
np_outbox_make_payload(NpSpan bytes)
{
	bytea	   *value = palloc(VARHDRSZ + bytes.length);

	SET_VARSIZE(value, VARHDRSZ + bytes.length);
	if (bytes.length > 0)
		memcpy(VARDATA(value), bytes.data, bytes.length);
	return PointerGetDatum(value);
}

/* All headers but the id, which has a column; NULL: there are no others. */
Datum
np_outbox_make_headers(const NpMessage *message, bool *isnull)
{
	Jsonb	   *headers;

	*isnull = true;
	if (message->headers.data == NULL)
		return (Datum) 0;
	headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												 CStringGetDatum(np_message_headers_to_json(message->headers))));
	headers = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(headers),
												 CStringGetTextDatum("Nats-Msg-Id")));
	if (JB_ROOT_COUNT(headers) == 0)
		return (Datum) 0;
	*isnull = false;
	return JsonbPGetDatum(headers);
}

static bool
execute_insert(Oid schema, const NpMessage *message, TimestampTz deliver_at, int64 *id_of_row)
{
	NpSpan		id = message->id.data != NULL ? message->id : np_message_next_id();
	Datum		values[INSERT_ARGUMENTS];
	char		nulls[INSERT_ARGUMENTS] = {' ', ' ', ' ', ' ', ' '};
	bool		isnull;

	values[INSERT_SUBJECT] = CStringGetTextDatum(np_from_utf8(message->subject));
	values[INSERT_MSG_ID] = CStringGetTextDatum(np_from_utf8(id));
	values[INSERT_TIME] = TimestampTzGetDatum(deliver_at);
	if (deliver_at <= GetCurrentTimestamp())
		nulls[INSERT_TIME] = 'n';
	values[INSERT_HEADERS] = np_outbox_make_headers(message, &isnull);
	if (isnull)
		nulls[INSERT_HEADERS] = 'n';
	if (message->payload.data != NULL)
		values[INSERT_PAYLOAD] = np_outbox_make_payload(message->payload);
	else
		nulls[INSERT_PAYLOAD] = 'n';
	if (np_statement_write(&insert_message, schema, values, nulls) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "the INSERT into nats_outbox failed");
	if (SPI_processed == 0)
		return false;
	*id_of_row = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return true;
}

/*
 * Put a message into the table of the extension in that schema.  One without
 * an id gets one.  The relay leaves it there until deliver_at.  False: there is
 * no row of it, as a trigger of the administrator keeps it out; else *id is the
 * row's.
 *
 * Raises what an INSERT raises: 25006 in a read-only transaction.
 */
bool
np_outbox_insert_row(Oid schema, const NpMessage *message, TimestampTz deliver_at, int64 *id)
{
	NpUser		caller;
	volatile bool inserted = false;

	np_statements_begin(&caller, schema, "nats_outbox");
	PG_TRY();
	{
		inserting = true;
		inserted = execute_insert(schema, message, deliver_at, id);
	}
	PG_FINALLY();
	{
		inserting = false;
	}
	PG_END_TRY();
	np_statements_end(&caller);
	return inserted;
}

/*
 * The same, or into the WAL, of which there is no row, where the setting says
 * so; but one that is for later waits in the table.  Raises 22023 for a time
 * that never comes, too, and what np_wal_write does.
 */
bool
np_outbox_insert(Oid schema, const NpMessage *message, TimestampTz deliver_at, int64 *id)
{
	if (TIMESTAMP_IS_NOEND(deliver_at))
		np_raise_input("deliver_at is infinity");
	if (np_outbox_storage != NP_STORAGE_WAL || deliver_at > GetCurrentTimestamp())
		return np_outbox_insert_row(schema, message, deliver_at, id);
	np_wal_write(schema, message);
	return false;
}

/* Is the row that is being inserted the one of np_outbox_insert?  Only once for each. */
bool
np_outbox_row_is_checked(void)
{
	bool		result = inserting;

	inserting = false;
	return result;
}

/*
 * The relay of the WAL begins to move messages here, or has ended that, also
 * by an error.  It wakes the other relay itself.
 */
void
np_outbox_set_diverting(bool is_diverting)
{
	diverting = is_diverting;
}

bool
np_outbox_is_diverting(void)
{
	return diverting;
}

/* ---- Looking ----------------------------------------------------------------------------- */

/* The columns of read_content. */
enum
{
	CONTENT_WAITING = 1,
	CONTENT_SCHEDULED,
	CONTENT_OLDEST,
	CONTENT_LATE,
	CONTENT_RETRYING,
	CONTENT_SUBJECT,
	CONTENT_ERROR
};

/* It waits for its time, and has not failed; likewise in the view nats_relay. */
#define SCHEDULED	"(last_error IS NULL AND attempts OPERATOR(pg_catalog.=) 0 AND next_attempt_at OPERATOR(pg_catalog.>) pg_catalog.now())"

/* A commit wakes the relay, and so does a time: what has waited for a minute has a reason. */
static NpStatement read_content = {
	.text = "SELECT (SELECT pg_catalog.count(*) FROM %1$s.nats_outbox WHERE " SCHEDULED " IS NOT TRUE),"
	" (SELECT pg_catalog.count(*) FROM %1$s.nats_outbox WHERE " SCHEDULED "),"
	" pg_catalog.date_trunc('second', oldest.age), oldest.age OPERATOR(pg_catalog.>) '1 minute'::pg_catalog.interval,"
	" (SELECT pg_catalog.count(*) FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") "), retried.subject, retried.last_error"
	" FROM (VALUES (1)) AS one LEFT JOIN (SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)"
	" least(pg_catalog.clock_timestamp(), greatest('epoch', created_at, CASE WHEN last_error IS NULL THEN next_attempt_at END))"
	" FROM %1$s.nats_outbox WHERE " SCHEDULED " IS NOT TRUE ORDER BY id LIMIT 1) AS oldest (age) ON true"
	" LEFT JOIN (SELECT subject, last_error FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") " ORDER BY id LIMIT 1) AS retried ON true"
};

static NpStatement count_dead = {
	.text = "SELECT pg_catalog.count(*) FROM %s.nats_outbox_dead"
};

static NpStatement read_pause = {
	.text = "SELECT (EXISTS (SELECT FROM %s.nats_control WHERE paused))::pg_catalog.int4::pg_catalog.int8"
};

/* In the memory of the caller, which SPI's is not. */
static char *
copy_value(MemoryContext caller, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(caller, value);
}

/* It returns one row. */
static void
read_one(NpStatement *statement, Oid schema)
{
	if (np_statement_read(statement, schema, NULL, 1) != 1)
		elog(ERROR, "could not look into the outbox");
}

static NpOutboxContent
execute_content(Oid schema, MemoryContext caller)
{
	NpOutboxContent content = {0};
	HeapTuple	row;
	TupleDesc	columns;
	bool		isnull;

	read_one(&read_content, schema);
	row = SPI_tuptable->vals[0];
	columns = SPI_tuptable->tupdesc;
	content.waiting = DatumGetInt64(SPI_getbinval(row, columns, CONTENT_WAITING, &isnull));
	content.scheduled = DatumGetInt64(SPI_getbinval(row, columns, CONTENT_SCHEDULED, &isnull));
	content.oldest = copy_value(caller, CONTENT_OLDEST);
	content.is_late = DatumGetBool(SPI_getbinval(row, columns, CONTENT_LATE, &isnull)) && !isnull;
	content.retrying = DatumGetInt64(SPI_getbinval(row, columns, CONTENT_RETRYING, &isnull));
	content.subject = copy_value(caller, CONTENT_SUBJECT);
	content.error = copy_value(caller, CONTENT_ERROR);
	return content;
}

/* Of another table, which can be somebody else's. */
static int64
read_number(NpStatement *statement, Oid schema, const char *table)
{
	NpUser		caller;
	int64		number;
	bool		isnull;

	np_statements_begin(&caller, schema, table);
	read_one(statement, schema);
	number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	np_statements_end(&caller);
	return number;
}

/*
 * What is in the outbox of the extension in that schema, for whoever may not
 * read it; the texts are palloc'd.
 */
NpOutboxContent
np_outbox_content(Oid schema)
{
	NpOutboxContent content;
	MemoryContext context = CurrentMemoryContext;
	NpUser		caller;

	np_statements_begin(&caller, schema, "nats_outbox");
	content = execute_content(schema, context);
	np_statements_end(&caller);
	content.dead = read_number(&count_dead, schema, "nats_outbox_dead");
	content.is_paused = read_number(&read_pause, schema, "nats_control") != 0 ||
		np_pause_is_marked(get_extension_oid("nats_publish", false));
	return content;
}

/* How many ids a session takes of the sequence at once; 0: there is no such sequence. */
int64
np_outbox_id_cache(Oid sequence)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	int64		cache;

	if (!HeapTupleIsValid(tuple))
		return 0;
	cache = ((Form_pg_sequence) GETSTRUCT(tuple))->seqcache;
	ReleaseSysCache(tuple);
	return cache;
}
