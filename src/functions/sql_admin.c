/*-------------------------------------------------------------------------
 *
 * sql_admin.c
 *	  The SQL functions about the server and its streams.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subject.h"
#include "commit/transaction.h"
#include "message/header_json.h"
#include "message/message.h"
#include "message/puback.h"
#include "message/schedule.h"
#include "publish/policy.h"
#include "publish/publisher.h"
#include "publish/request.h"
#include "publish/session.h"
#include "stats/stats.h"
#include "wire/server_info.h"

PG_FUNCTION_INFO_V1(nats_server_info);
PG_FUNCTION_INFO_V1(nats_disconnect);
PG_FUNCTION_INFO_V1(nats_jetstream);
PG_FUNCTION_INFO_V1(nats_create_stream);
PG_FUNCTION_INFO_V1(nats_stream_info);
PG_FUNCTION_INFO_V1(nats_get_message);
PG_FUNCTION_INFO_V1(nats_unschedule);

#define API_PREFIX	"$JS.API."

/* ---- Requests --------------------------------------------------------------- */

static void
raise_bad_reply(const char *what)
{
	NpFailure	failure = np_failure(NP_FAULT_JETSTREAM, "the reply of JetStream %s", what);

	np_raise(&failure);
}

/*
 * One request to the API.  NULL: *failure is its error (palloc'd); what keeps
 * it from being answered is raised.
 */
static Jsonb *
try_request(const char *api, const char *body, NpFailure *failure)
{
	char	   *utf8_api = pg_server_to_any(api, strlen(api), PG_UTF8);
	char	   *utf8_body = body == NULL ? "" : pg_server_to_any(body, strlen(body), PG_UTF8);
	size_t		position;
	NpSpan		reply;
	Jsonb	   *answer;

	if (np_subject_check((NpSpan) {utf8_api, strlen(utf8_api)}, &position) != NP_TEXT_OK)
		np_raise_input("JetStream API \"%s\" is not a valid subject", api);
	reply = np_request(psprintf("%s%s", API_PREFIX, utf8_api), (NpSpan) {utf8_body, strlen(utf8_body)});
	if (np_api_error_parse(reply, failure))
	{
		failure->text = psprintf("JetStream request \"%s%s\" failed: %s", API_PREFIX, api, failure->text);
		return NULL;
	}
	answer = np_json_parse(reply);
	if (answer == NULL)
		raise_bad_reply("is not valid JSON");
	return answer;
}

/* The same; its error is raised, too. */
static Jsonb *
request(const char *api, const char *body)
{
	NpFailure	failure;
	Jsonb	   *answer = try_request(api, body, &failure);

	if (answer == NULL)
		np_raise(&failure);
	return answer;
}

static char *
jsonb_to_string(Jsonb *jsonb)
{
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* A name that becomes one token of an API subject, and in which servers allow no wildcard or path. */
static char *
get_stream_name(FunctionCallInfo fcinfo, int argument)
{
	char	   *name;
	char	   *utf8;

	if (PG_ARGISNULL(argument))
		np_raise_input("stream name must not be null");
	name = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	utf8 = pg_server_to_any(name, strlen(name), PG_UTF8);
	if (!np_is_stream_name((NpSpan) {utf8, strlen(utf8)}))
		np_raise_input("stream name \"%s\" is not valid", name);
	return name;
}

/* nats_jetstream(api, request): one request to $JS.API */
Datum
nats_jetstream(PG_FUNCTION_ARGS)
{
	np_transaction_join();
	if (PG_ARGISNULL(0))
		np_raise_input("api must not be null");
	PG_RETURN_JSONB_P(request(text_to_cstring(PG_GETARG_TEXT_PP(0)),
							  PG_ARGISNULL(1) ? NULL : jsonb_to_string(PG_GETARG_JSONB_P(1))));
}

/* ---- Streams ------------------------------------------------------------------ */

static void
append_subjects(StringInfo json, ArrayType *subjects)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(subjects, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	appendStringInfoString(json, "[");
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			np_raise_input("subjects must not be null");
		if (i > 0)
			appendStringInfoString(json, ", ");
		escape_json(json, TextDatumGetCString(elements[i]));
	}
	appendStringInfoString(json, "]");
}

/* The request that creates a stream: the options, and over them name and subjects. */
static Jsonb *
make_stream_config(const char *name, ArrayType *subjects, Jsonb *options)
{
	StringInfoData json;
	Datum		config;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"name\": ");
	escape_json(&json, name);
	if (subjects != NULL)
	{
		appendStringInfoString(&json, ", \"subjects\": ");
		append_subjects(&json, subjects);
	}
	appendStringInfoString(&json, "}");
	config = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	if (options != NULL)
	{
		if (!JB_ROOT_IS_OBJECT(options))
			np_raise_input("options must be a JSON object");
		config = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(options), config);
	}
	return DatumGetJsonbP(config);
}

static bool
is_string(const JsonbValue *value, const char *text)
{
	return value->type == jbvString && value->val.string.len == strlen(text) && memcmp(value->val.string.val, text, strlen(text)) == 0;
}

/* Values that servers leave out of their replies. */
static bool
is_empty_value(const JsonbValue *key, const JsonbValue *value)
{
	/* of what servers keep as a number that is left out when it is 0, this is the only text */
	if (is_string(key, "persist_mode") && is_string(value, "default"))
		return true;

	switch (value->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return !value->val.boolean;
		case jbvString:
			return value->val.string.len == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(value->val.numeric),
													DirectFunctionCall1(int4_numeric, Int32GetDatum(0))));
		case jbvBinary:
			return JsonContainerSize(value->val.binary.data) == 0;
		default:
			return false;
	}
}

/*
 * The first option that the created stream does not have, or NULL.
 *
 * Servers before 2.12 drop what they do not know without a word.
 */
static char *
find_option_not_taken(Jsonb *options, Jsonb *config)
{
	JsonbIterator *iterator = JsonbIteratorInit(&options->root);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	wanted;
	JsonbValue	taken;

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &wanted, true);
		if (!is_empty_value(&key, &wanted) &&
			getKeyJsonValueFromContainer(&config->root, key.val.string.val, key.val.string.len,
										 &taken) == NULL)
			return pnstrdup(key.val.string.val, key.val.string.len);
	}
	return NULL;
}

static void
undo_stream(const char *name, const char *option)
{
	NpFailure	failure;

	(void) request(psprintf("STREAM.DELETE.%s", name), NULL);
	failure = np_failure(NP_FAULT_FEATURE, "the server does not know the stream option \"%s\"", option);
	failure.detail = "The stream was created without it, and has been deleted again.";
	np_raise(&failure);
}

/* A name that was checked, in UTF-8. */
static bool
stream_exists(const char *name)
{
	NpSpan		reply = np_request(psprintf("%sSTREAM.INFO.%s", API_PREFIX, name), (NpSpan) {"", 0});
	NpFailure	failure;

	if (!np_api_error_parse(reply, &failure))
		return true;
	if (failure.fault != NP_FAULT_NO_STREAM)
		np_raise(&failure);
	return false;
}

/* Nobody has published to it yet? */
static bool
is_empty_stream(Jsonb *reply)
{
	Jsonb	   *state = np_json_child(reply, "state");

	return state != NULL && np_json_int64(state, "messages", -1) == 0;
}

/*
 * nats_create_stream(name, subjects, options): the server's reply
 *
 * Creating a stream that exists with the same options is no error, and older
 * servers then call it created: so we look before.
 */
Datum
nats_create_stream(PG_FUNCTION_ARGS)
{
	char	   *name = get_stream_name(fcinfo, 0);
	char	   *utf8_name = pg_server_to_any(name, strlen(name), PG_UTF8);
	ArrayType  *subjects = PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1);
	Jsonb	   *options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	Jsonb	   *wanted = make_stream_config(name, subjects, options);
	bool		existed;
	Jsonb	   *reply;
	Jsonb	   *config;

	np_transaction_join();
	existed = stream_exists(utf8_name);
	reply = request(psprintf("STREAM.CREATE.%s", name), jsonb_to_string(wanted));
	config = np_json_child(reply, "config");
	if (config != NULL)
	{
		char	   *missing = find_option_not_taken(wanted, config);

		if (missing != NULL && !existed && is_empty_stream(reply))
			undo_stream(name, missing);
		if (missing != NULL)
			np_raise_input("stream \"%s\" exists, without the option \"%s\"", name, missing);
	}
	PG_RETURN_JSONB_P(reply);
}

/* nats_stream_info(stream): the server's reply */
Datum
nats_stream_info(PG_FUNCTION_ARGS)
{
	np_transaction_join();
	PG_RETURN_JSONB_P(request(psprintf("STREAM.INFO.%s", get_stream_name(fcinfo, 0)), NULL));
}

/* ---- Messages ------------------------------------------------------------------- */

enum
{
	MESSAGE_STREAM,
	MESSAGE_SUBJECT,
	MESSAGE_SEQ,
	MESSAGE_TIME,
	MESSAGE_HEADERS,
	MESSAGE_PAYLOAD,
	MESSAGE_COLUMNS
};

static Datum
decode_headers(const char *text)
{
	bytea	   *block = np_base64_decode(text);
	char	   *json = np_message_headers_to_json((NpSpan) {VARDATA_ANY(block), VARSIZE_ANY_EXHDR(block)});

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static Datum
decode_time(const char *text)
{
	return DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* nats_get_message(stream, seq): one stored message */
Datum
nats_get_message(PG_FUNCTION_ARGS)
{
	char	   *stream = get_stream_name(fcinfo, 0);
	Datum		values[MESSAGE_COLUMNS] = {0};
	bool		nulls[MESSAGE_COLUMNS] = {false};
	TupleDesc	columns;
	Jsonb	   *reply;
	Jsonb	   *message;
	char	   *subject;
	char	   *time;
	char	   *headers;
	char	   *payload;

	np_transaction_join();
	if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0)
		np_raise_input("seq must be a positive number");
	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	reply = request(psprintf("STREAM.MSG.GET.%s", stream),
					psprintf("{\"seq\": " INT64_FORMAT "}", PG_GETARG_INT64(1)));
	message = np_json_child(reply, "message");
	if (message == NULL)
		raise_bad_reply("lacks a message");
	subject = np_json_text(message, "subject");
	time = np_json_text(message, "time");
	headers = np_json_text(message, "hdrs");
	payload = np_json_text(message, "data");
	if (subject == NULL || time == NULL)
		raise_bad_reply("lacks a message");

	values[MESSAGE_STREAM] = CStringGetTextDatum(stream);
	values[MESSAGE_SUBJECT] = CStringGetTextDatum(subject);
	values[MESSAGE_SEQ] = PG_GETARG_DATUM(1);
	values[MESSAGE_TIME] = decode_time(time);
	nulls[MESSAGE_HEADERS] = headers == NULL;
	if (headers != NULL)
		values[MESSAGE_HEADERS] = decode_headers(headers);
	values[MESSAGE_PAYLOAD] = PointerGetDatum(np_base64_decode(payload != NULL ? payload : ""));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

/* ---- Schedules --------------------------------------------------------------------- */

/* A request whose one field is a subject (in UTF-8). */
static char *
about_subject(const char *field, NpSpan subject)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"%s\": ", field);
	escape_json(&json, np_from_utf8(subject));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Is what a subject holds a message that waits?  Nothing else is to be removed. */
static bool
holds_schedule(const char *stream, NpSpan subject)
{
	NpFailure	failure;
	Jsonb	   *answer = try_request(psprintf("STREAM.MSG.GET.%s", stream), about_subject("last_by_subj", subject), &failure);
	Jsonb	   *message = answer == NULL ? NULL : np_json_child(answer, "message");
	char	   *headers = message == NULL ? NULL : np_json_text(message, "hdrs");
	bytea	   *block;

	if (answer == NULL && failure.fault != NP_FAULT_NO_STREAM)
		np_raise(&failure);
	if (headers == NULL)
		return false;
	block = np_base64_decode(headers);
	return np_message_header((NpSpan) {VARDATA_ANY(block), VARSIZE_ANY_EXHDR(block)}, "Nats-Schedule").data != NULL;
}

/*
 * nats_unschedule(subject, msg_id): was there such a message?
 *
 * What waits is removed from where np_schedule_subject has put it; then the
 * server does not deliver it.  NULL: nothing is published here, and so nothing
 * is taken back, either, of what somebody else may have published.
 */
Datum
nats_unschedule(PG_FUNCTION_ARGS)
{
	NpSpan		target = np_text_to_utf8(PG_GETARG_TEXT_PP(0));
	NpSpan		subject;
	Jsonb	   *streams;
	char	   *stream;

	np_transaction_join();
	if (np_policy_skips_calls(NP_STATS_SYNC))
		PG_RETURN_NULL();
	np_message_check_subject(target);
	subject = np_schedule_subject(target, np_text_to_utf8(PG_GETARG_TEXT_PP(1)));
	np_message_check_subject(subject);
	np_policy_check_subject(target);
	np_policy_check_subject(subject);
	if (np_publishing != NP_PUBLISHING_ON)
	{
		np_stats_of(NP_STATS_SYNC)->suppressed++;
		PG_RETURN_NULL();
	}
	streams = np_json_child(request("STREAM.NAMES", about_subject("subject", subject)), "streams");
	stream = np_json_count(streams) > 0 ? np_json_element_text(streams, 0) : NULL;
	if (stream == NULL || !holds_schedule(stream, subject))
		PG_RETURN_BOOL(false);
	/* it can have been delivered meanwhile */
	PG_RETURN_BOOL(np_json_int64(request(psprintf("STREAM.PURGE.%s", stream), about_subject("filter", subject)), "purged", 0) > 0);
}

/* ---- The connection --------------------------------------------------------------- */

enum
{
	INFO_URL,
	INFO_SERVER_NAME,
	INFO_SERVER_ID,
	INFO_VERSION,
	INFO_API_LEVEL,
	INFO_CLUSTER,
	INFO_MAX_PAYLOAD,
	INFO_TLS,
	INFO_JETSTREAM,
	INFO_CLIENT_ID,
	INFO_CLIENT_IP,
	INFO_RTT,
	INFO_CONNECTED_AT,
	INFO_COLUMNS
};

static Datum
text_field(Jsonb *info, const char *field, bool *isnull)
{
	char	   *text = np_json_text(info, field);

	*isnull = text == NULL;
	return *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

/* nats_server_info(): the server that this session is connected to */
Datum
nats_server_info(PG_FUNCTION_ARGS)
{
	Datum		values[INFO_COLUMNS] = {0};
	bool		nulls[INFO_COLUMNS] = {false};
	TupleDesc	columns;
	NpSession  *session;
	NpConnectionIdentity identity;
	Jsonb	   *info;
	char	   *level;
	Interval   *round_trip = palloc0(sizeof(Interval));

	np_transaction_join();
	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	session = np_publisher_connect();
	round_trip->time = np_round_trip(session);
	info = np_server_info(session->connection);
	identity = np_connection_identity(session->connection);
	level = np_json_text(info, "api_lvl");

	values[INFO_URL] = CStringGetTextDatum(identity.url);
	values[INFO_SERVER_NAME] = text_field(info, "server_name", &nulls[INFO_SERVER_NAME]);
	values[INFO_SERVER_ID] = CStringGetTextDatum(identity.server_id);
	values[INFO_VERSION] = text_field(info, "version", &nulls[INFO_VERSION]);
	nulls[INFO_API_LEVEL] = level == NULL;
	if (level != NULL)
		values[INFO_API_LEVEL] = Int32GetDatum(atoi(level));
	values[INFO_CLUSTER] = text_field(info, "cluster", &nulls[INFO_CLUSTER]);
	values[INFO_MAX_PAYLOAD] = Int64GetDatum(identity.max_payload);
	values[INFO_TLS] = BoolGetDatum(identity.tls);
	values[INFO_JETSTREAM] = BoolGetDatum(np_json_is_true(info, "jetstream"));
	nulls[INFO_CLIENT_ID] = identity.client_id == 0;
	values[INFO_CLIENT_ID] = Int64GetDatum((int64) identity.client_id);
	nulls[INFO_CLIENT_IP] = identity.client_ip == NULL;
	if (identity.client_ip != NULL)
		values[INFO_CLIENT_IP] = CStringGetTextDatum(identity.client_ip);
	values[INFO_RTT] = IntervalPGetDatum(round_trip);
	values[INFO_CONNECTED_AT] = TimestampTzGetDatum(identity.connected_at);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

/* nats_disconnect(): was there a connection? */
Datum
nats_disconnect(PG_FUNCTION_ARGS)
{
	np_transaction_join();
	PG_RETURN_BOOL(np_publisher_disconnect());
}
