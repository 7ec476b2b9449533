/*-------------------------------------------------------------------------
 *
 * sql_publish.c
 *	  The SQL functions that publish, and those for futures.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "commit/transaction.h"
#include "message/message.h"
#include "outbox/outbox.h"
#include "publish/await.h"
#include "publish/policy.h"
#include "publish/publisher.h"
#include "stats/stats.h"

PG_FUNCTION_INFO_V1(nats_publish_text);
PG_FUNCTION_INFO_V1(nats_publish_bytea);
PG_FUNCTION_INFO_V1(nats_publish_jsonb);
PG_FUNCTION_INFO_V1(nats_publish_async_text);
PG_FUNCTION_INFO_V1(nats_publish_async_bytea);
PG_FUNCTION_INFO_V1(nats_publish_async_jsonb);
PG_FUNCTION_INFO_V1(nats_publish_on_commit_text);
PG_FUNCTION_INFO_V1(nats_publish_on_commit_bytea);
PG_FUNCTION_INFO_V1(nats_publish_on_commit_jsonb);
PG_FUNCTION_INFO_V1(nats_publish_outbox_text);
PG_FUNCTION_INFO_V1(nats_publish_outbox_bytea);
PG_FUNCTION_INFO_V1(nats_publish_outbox_jsonb);
PG_FUNCTION_INFO_V1(nats_await);
PG_FUNCTION_INFO_V1(nats_flush);
PG_FUNCTION_INFO_V1(nats_futures);
PG_FUNCTION_INFO_V1(nats_session_stats);

/* The arguments that all publish functions begin with. */
enum
{
	ARG_SUBJECT,
	ARG_PAYLOAD,
	ARG_HEADERS,
	ARG_MSG_ID,
	ARG_EXPECT_STREAM,			/* from here on, not of the outbox */
	ARG_EXPECT_LAST_SEQ,
	ARG_EXPECT_LAST_SUBJECT_SEQ,
	ARG_TTL,
	ARG_CRITICAL				/* of the asynchronous ones */
};

/* Those that they end with, behind what calls by position gave before there were these. */
enum
{
	LATER_ROLLUP,
	LATER_EXPECT_SUBJECT,
	LATER_INCREMENT,
	LATER_DELIVER_AT,			/* of the outbox, too */
	LATER_ARGUMENTS
};

/* The columns of nats_puback. */
enum
{
	PUBACK_STREAM,
	PUBACK_SEQ,
	PUBACK_DUPLICATE,
	PUBACK_DOMAIN,
	PUBACK_VALUE,
	PUBACK_COLUMNS
};

/* The columns of nats_futures(). */
enum
{
	FUTURE_NUMBER,
	FUTURE_SUBJECT,
	FUTURE_MSG_ID,
	FUTURE_STATUS,
	FUTURE_STREAM,
	FUTURE_SEQ,
	FUTURE_DUPLICATE,
	FUTURE_SQLSTATE,
	FUTURE_ERROR,
	FUTURE_COLUMNS
};

/* ---- Arguments ----------------------------------------------------------- */

typedef NpSpan (*PayloadReader) (Datum value);

static NpSpan
read_bytea(Datum value)
{
	bytea	   *data = DatumGetByteaPP(value);

	return (NpSpan) {VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)};
}

/* text and json, which are the same inside */
static NpSpan
read_text(Datum value)
{
	NpSpan		text = read_bytea(value);

	return np_to_utf8(text.data, text.length);
}

static NpSpan
read_jsonb(Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	char	   *text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));

	return np_to_utf8(text, strlen(text));
}

static NpSpan
get_text_or_null(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? (NpSpan) {NULL, 0} : read_text(PG_GETARG_DATUM(argument));
}

static int
later_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_NARGS() - LATER_ARGUMENTS + argument;
}

static bool
is_of_outbox(FunctionCallInfo fcinfo)
{
	return PG_NARGS() <= ARG_TTL;
}

/* False: at once. */
static bool
get_deliver_at(FunctionCallInfo fcinfo, TimestampTz *time)
{
	int			argument = later_argument(fcinfo, LATER_DELIVER_AT);

	if (PG_ARGISNULL(argument))
		return false;
	*time = PG_GETARG_TIMESTAMPTZ(argument);
	return true;
}

static void
get_options(FunctionCallInfo fcinfo, NpMessageOptions *options)
{
	memset(options, 0, sizeof(*options));
	options->is_annotated = true;
	if (!PG_ARGISNULL(ARG_HEADERS))
		options->headers = PG_GETARG_JSONB_P(ARG_HEADERS);
	options->msg_id = get_text_or_null(fcinfo, ARG_MSG_ID);
	if (is_of_outbox(fcinfo))
		return;
	options->expect_stream = get_text_or_null(fcinfo, ARG_EXPECT_STREAM);
	options->has_expect_last_seq = !PG_ARGISNULL(ARG_EXPECT_LAST_SEQ);
	if (options->has_expect_last_seq)
		options->expect_last_seq = PG_GETARG_INT64(ARG_EXPECT_LAST_SEQ);
	options->has_expect_last_subject_seq = !PG_ARGISNULL(ARG_EXPECT_LAST_SUBJECT_SEQ);
	if (options->has_expect_last_subject_seq)
		options->expect_last_subject_seq = PG_GETARG_INT64(ARG_EXPECT_LAST_SUBJECT_SEQ);
	if (!PG_ARGISNULL(ARG_TTL))
		options->ttl = PG_GETARG_INTERVAL_P(ARG_TTL);
	options->rollup = get_text_or_null(fcinfo, later_argument(fcinfo, LATER_ROLLUP));
	options->expect_subject = get_text_or_null(fcinfo, later_argument(fcinfo, LATER_EXPECT_SUBJECT));
	if (!PG_ARGISNULL(later_argument(fcinfo, LATER_INCREMENT)))
		options->increment = PG_GETARG_NUMERIC(later_argument(fcinfo, LATER_INCREMENT));
	options->has_deliver_at = get_deliver_at(fcinfo, &options->deliver_at);
}

/* False: the call is to be skipped. */
static bool
get_message(FunctionCallInfo fcinfo, PayloadReader read, NpStatsMode mode, NpMessage *message)
{
	NpMessageOptions options;
	NpSpan		payload = {NULL, 0};

	if (np_policy_skips_calls(mode))
		return false;
	get_options(fcinfo, &options);
	if (!PG_ARGISNULL(ARG_PAYLOAD))
		payload = read(PG_GETARG_DATUM(ARG_PAYLOAD));
	np_message_build(message, get_text_or_null(fcinfo, ARG_SUBJECT), payload, &options);
	return np_policy_admits(message, mode);
}

/* When a wait with this timeout ends; NULL is NP_FOREVER. */
static NpTime
get_limit(FunctionCallInfo fcinfo, int argument)
{
	Interval   *timeout;
	double		microseconds;

	if (PG_ARGISNULL(argument))
		return NP_FOREVER;
	timeout = PG_GETARG_INTERVAL_P(argument);
	microseconds = timeout->time + (timeout->day + timeout->month * (double) DAYS_PER_MONTH) * USECS_PER_DAY;
	if (microseconds < 0)
		np_raise_input("timeout must not be negative");
	return np_now() + (NpTime) Min(microseconds, (double) USECS_PER_DAY * 365);
}

/* ---- Results --------------------------------------------------------------- */

static Datum
text_or_null(NpSpan utf8, bool *isnull)
{
	*isnull = utf8.data == NULL;
	return *isnull ? (Datum) 0 : CStringGetTextDatum(np_from_utf8(utf8));
}

static Datum
string_or_null(const char *string, bool *isnull)
{
	*isnull = string == NULL;
	return *isnull ? (Datum) 0 : CStringGetTextDatum(string);
}

static Datum
number_or_null(NpSpan digits, bool *isnull)
{
	*isnull = digits.data == NULL;
	return *isnull ? (Datum) 0 :
		DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(digits.data, digits.length)), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* An acknowledgment as nats_puback. */
static Datum
make_puback(FunctionCallInfo fcinfo, const NpPubAck *ack)
{
	TupleDesc	columns;
	Datum		values[PUBACK_COLUMNS] = {0};
	bool		nulls[PUBACK_COLUMNS] = {false};

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[PUBACK_STREAM] = text_or_null(ack->stream, &nulls[PUBACK_STREAM]);
	values[PUBACK_SEQ] = Int64GetDatum((int64) ack->sequence);
	values[PUBACK_DUPLICATE] = BoolGetDatum(ack->duplicate);
	values[PUBACK_DOMAIN] = text_or_null(ack->domain, &nulls[PUBACK_DOMAIN]);
	values[PUBACK_VALUE] = number_or_null(ack->value, &nulls[PUBACK_VALUE]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

static void
put_future(const NpResult *result, const char *status, ReturnSetInfo *rsinfo)
{
	Datum		values[FUTURE_COLUMNS] = {0};
	bool		nulls[FUTURE_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	values[FUTURE_NUMBER] = Int64GetDatum((int64) result->token);
	nulls[FUTURE_NUMBER] = false;
	values[FUTURE_SUBJECT] = text_or_null(result->subject, &nulls[FUTURE_SUBJECT]);
	values[FUTURE_MSG_ID] = text_or_null(result->id, &nulls[FUTURE_MSG_ID]);
	values[FUTURE_STATUS] = string_or_null(status, &nulls[FUTURE_STATUS]);
	if (result->acked)
	{
		values[FUTURE_STREAM] = text_or_null(result->ack.stream, &nulls[FUTURE_STREAM]);
		values[FUTURE_SEQ] = Int64GetDatum((int64) result->ack.sequence);
		values[FUTURE_DUPLICATE] = BoolGetDatum(result->ack.duplicate);
		nulls[FUTURE_SEQ] = nulls[FUTURE_DUPLICATE] = false;
	}
	else if (result->failure.fault != NP_FAULT_NONE)
	{
		values[FUTURE_SQLSTATE] = string_or_null(np_failure_sqlstate(&result->failure),
												 &nulls[FUTURE_SQLSTATE]);
		values[FUTURE_ERROR] = string_or_null(result->failure.text, &nulls[FUTURE_ERROR]);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_complete_future(const NpResult *result, void *rsinfo)
{
	put_future(result, result->acked ? "acked" : "failed", rsinfo);
}

static void
put_pending_future(const NpResult *result, void *rsinfo)
{
	put_future(result, "pending", rsinfo);
}

/* ---- Publishing -------------------------------------------------------------- */

static Datum
publish(FunctionCallInfo fcinfo, PayloadReader read)
{
	NpMessage	message;
	NpResult	result;

	np_transaction_join();
	if (!get_message(fcinfo, read, NP_STATS_SYNC, &message))
		PG_RETURN_NULL();
	np_publish(&message, &result);
	return make_puback(fcinfo, &result.ack);
}

static Datum
publish_async(FunctionCallInfo fcinfo, PayloadReader read)
{
	NpMessage	message;
	bool		critical = PG_ARGISNULL(ARG_CRITICAL) || PG_GETARG_BOOL(ARG_CRITICAL);

	np_transaction_join();
	if (!get_message(fcinfo, read, NP_STATS_ASYNC, &message))
		PG_RETURN_NULL();
	return Int64GetDatum((int64) np_publish_async(&message, critical));
}

static Datum
publish_on_commit(FunctionCallInfo fcinfo, PayloadReader read)
{
	NpMessage	message;

	np_transaction_join();
	if (get_message(fcinfo, read, NP_STATS_ON_COMMIT, &message))
		np_publish_on_commit(&message);
	PG_RETURN_VOID();
}

static Datum
publish_outbox(FunctionCallInfo fcinfo, PayloadReader read)
{
	NpMessage	message;
	TimestampTz deliver_at = NP_AT_ONCE;
	int64		id;

	np_transaction_join();
	(void) get_deliver_at(fcinfo, &deliver_at);
	if (!get_message(fcinfo, read, NP_STATS_OUTBOX, &message) ||
		!np_outbox_insert(get_func_namespace(fcinfo->flinfo->fn_oid), &message, deliver_at, &id))
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}

/* nats_publish(subject, payload text or json, ...) */
Datum
nats_publish_text(PG_FUNCTION_ARGS)
{
	return publish(fcinfo, read_text);
}

/* nats_publish(subject, payload bytea, ...) */
Datum
nats_publish_bytea(PG_FUNCTION_ARGS)
{
	return publish(fcinfo, read_bytea);
}

/* nats_publish(subject, payload jsonb, ...) */
Datum
nats_publish_jsonb(PG_FUNCTION_ARGS)
{
	return publish(fcinfo, read_jsonb);
}

/* nats_publish_async(subject, payload text or json, ...) */
Datum
nats_publish_async_text(PG_FUNCTION_ARGS)
{
	return publish_async(fcinfo, read_text);
}

/* nats_publish_async(subject, payload bytea, ...) */
Datum
nats_publish_async_bytea(PG_FUNCTION_ARGS)
{
	return publish_async(fcinfo, read_bytea);
}

/* nats_publish_async(subject, payload jsonb, ...) */
Datum
nats_publish_async_jsonb(PG_FUNCTION_ARGS)
{
	return publish_async(fcinfo, read_jsonb);
}

/* nats_publish_on_commit(subject, payload text or json, ...) */
Datum
nats_publish_on_commit_text(PG_FUNCTION_ARGS)
{
	return publish_on_commit(fcinfo, read_text);
}

/* nats_publish_on_commit(subject, payload bytea, ...) */
Datum
nats_publish_on_commit_bytea(PG_FUNCTION_ARGS)
{
	return publish_on_commit(fcinfo, read_bytea);
}

/* nats_publish_on_commit(subject, payload jsonb, ...) */
Datum
nats_publish_on_commit_jsonb(PG_FUNCTION_ARGS)
{
	return publish_on_commit(fcinfo, read_jsonb);
}

/* nats_publish_outbox(subject, payload text or json, headers, msg_id) */
Datum
nats_publish_outbox_text(PG_FUNCTION_ARGS)
{
	return publish_outbox(fcinfo, read_text);
}

/* nats_publish_outbox(subject, payload bytea, headers, msg_id) */
Datum
nats_publish_outbox_bytea(PG_FUNCTION_ARGS)
{
	return publish_outbox(fcinfo, read_bytea);
}

/* nats_publish_outbox(subject, payload jsonb, headers, msg_id) */
Datum
nats_publish_outbox_jsonb(PG_FUNCTION_ARGS)
{
	return publish_outbox(fcinfo, read_jsonb);
}

/* ---- Futures -------------------------------------------------------------------- */

/* nats_await(future, timeout): the acknowledgment, or the message's error */
Datum
nats_await(PG_FUNCTION_ARGS)
{
	NpResult	result;

	np_transaction_join();
	if (PG_ARGISNULL(0) && np_publishing != NP_PUBLISHING_ON)
		PG_RETURN_NULL();		/* of a call that was skipped */
	if (PG_ARGISNULL(0))
		np_raise_input("future must not be null");
	np_await_future((uint64) PG_GETARG_INT64(0), get_limit(fcinfo, 1), &result);
	if (!result.acked)
		np_raise_message(&result.failure, np_from_utf8(result.subject));
	return make_puback(fcinfo, &result.ack);
}

/* nats_flush(timeout): how many messages were waited for */
Datum
nats_flush(PG_FUNCTION_ARGS)
{
	np_transaction_join();
	PG_RETURN_INT64(np_await_all(get_limit(fcinfo, 0)));
}

/* nats_futures(): the transaction's, complete ones first */
Datum
nats_futures(PG_FUNCTION_ARGS)
{
	np_transaction_join();
	np_report_unawaited();
	InitMaterializedSRF(fcinfo, 0);
	np_futures_each(put_complete_future, fcinfo->resultinfo);
	np_each_pending_future(put_pending_future, fcinfo->resultinfo);
	return (Datum) 0;
}

/* nats_session_stats(): what this session has counted */
Datum
nats_session_stats(PG_FUNCTION_ARGS)
{
	NpStats		stats = np_stats_of_session();
	const int64 counters[] = {
		stats.published, stats.acked, stats.duplicates, stats.failed, stats.failed_uncritical, stats.retried,
		stats.resent, stats.bytes, stats.connects, stats.connections_lost, stats.suppressed
	};
	TupleDesc	columns;
	Datum		values[lengthof(counters)];
	bool		nulls[lengthof(counters)] = {false};

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < lengthof(counters); i++)
		values[i] = Int64GetDatum(counters[i]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}
