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

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "encoding.h"
#include "outbox.h"

/* Arguments of the INSERT. */
enum
{
	INSERT_SUBJECT,
	INSERT_PAYLOAD,
	INSERT_HEADERS,
	INSERT_MSG_ID,
	INSERT_ARGUMENTS
};

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
	id = execute_insert(schema, message);
	SPI_finish();
	SetUserIdAndSecContext(user, context);
	return id;
}
