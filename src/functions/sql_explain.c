/*-------------------------------------------------------------------------
 *
 * sql_explain.c
 *	  nats_explain(): what would be published, and where to.
 *
 * What is wrong with the message is an ERROR, as it is when it is published;
 * what is wrong with the connection is only said.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "check/check.h"
#include "commit/transaction.h"
#include "message/message.h"
#include "publish/await.h"
#include "publish/policy.h"
#include "publish/publisher.h"
#include "publish/session.h"

PG_FUNCTION_INFO_V1(nats_explain);

enum
{
	ARG_SUBJECT,
	ARG_PAYLOAD,
	ARG_HEADERS,
	ARG_MSG_ID,
	ARG_DELIVER_AT
};

/* The columns of nats_explain(). */
enum
{
	EXPLAIN_ITEM,
	EXPLAIN_VALUE,
	EXPLAIN_COLUMNS
};

static void
put(const ReturnSetInfo *result, const char *item, const char *value)
{
	Datum		values[EXPLAIN_COLUMNS];
	bool		nulls[EXPLAIN_COLUMNS] = {false};

	values[EXPLAIN_ITEM] = CStringGetTextDatum(item);
	values[EXPLAIN_VALUE] = CStringGetTextDatum(value);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_size(const ReturnSetInfo *result, const char *item, int64 size)
{
	put(result, item, psprintf(INT64_FORMAT, size));
}

/* ---- The message ----------------------------------------------------------------------- */

static NpSpan
get_utf8(FunctionCallInfo fcinfo, int argument)
{
	return np_text_to_utf8(PG_ARGISNULL(argument) ? NULL : PG_GETARG_TEXT_PP(argument));
}

static void
put_id(const ReturnSetInfo *result, const NpMessage *message)
{
	if (message->has_automatic_id)
		put(result, "msg_id", "made automatically");
	else
		put(result, "msg_id", message->id.data != NULL ? np_from_utf8(message->id) : "none");
}

/* One row for each line; an automatic id is another one each time. */
static void
put_headers(const ReturnSetInfo *result, const NpMessage *message)
{
	NpSpan		rest = message->headers;
	NpSpan		name;
	NpSpan		value;

	while (rest.data != NULL && np_header_next(&rest, &name, &value))
	{
		if (!message->has_automatic_id || value.data != message->id.data)
			put(result, psprintf("header %s", np_from_utf8(name)), np_from_utf8(value));
	}
}

/* ---- What is allowed ------------------------------------------------------------------- */

static const char *
publishing_name(void)
{
	switch (np_publishing)
	{
		case NP_PUBLISHING_OFF:
			return "off: it would be skipped";
		case NP_PUBLISHING_DRY_RUN:
			return "dry_run: it would be checked, then skipped";
		default:
			return "on";
	}
}

static void
check_policy(NpExamination *examination, void *message)
{
	np_policy_check_message(message);
}

static void
put_allowed(const ReturnSetInfo *result, NpExamination *examination, NpMessage *message)
{
	NpFailure	failure;

	put(result, "allowed", np_check_attempt(check_policy, examination, message, &failure) ? "yes" :
		psprintf("no: %s", failure.text));
}

/* ---- The server ------------------------------------------------------------------------ */

/* NULL: there is a connection; else why there is none. */
static char *
connect_or_say(NpExamination *examination)
{
	NpFailure	failure;

	if (np_check_attempt(np_examine_connection, examination, NULL, &failure))
		return NULL;
	return psprintf("unknown: %s%s%s", failure.text, failure.detail != NULL ? ": " : "",
					failure.detail != NULL ? failure.detail : "");
}

static const char *
describe_limit(const NpExamination *examination, int64 size)
{
	int64		limit = np_connection_max_payload(examination->session->connection);

	return psprintf(INT64_FORMAT "%s", limit, size <= limit ? "" : ": the message is over it");
}

static const char *
describe_stream(NpExamination *examination)
{
	np_examine_taker(examination);
	if (examination->stream != NULL)
		return examination->stream;
	if (examination->answers != NULL && examination->answers->nobody)
		return "none: No stream takes the subject.";
	return psprintf("unknown: %s", examination->stream_unknown);
}

static void
ask_for_schedules(NpExamination *examination, void *knows_schedules)
{
	*(bool *) knows_schedules = np_session_knows(examination->session, NP_FEATURE_SCHEDULE);
}

/* Who delivers it at its time? */
static const char *
describe_delivery(NpExamination *examination)
{
	NpConnection *connection = examination->session->connection;
	NpFailure	failure;
	bool		knows_schedules;

	if (!np_check_attempt(ask_for_schedules, examination, &knows_schedules, &failure))
		return psprintf("unknown: %s", failure.text);
	if (!knows_schedules)
		return psprintf("by nobody: nats-server %d.%d does not do it, nats_publish_outbox() does", np_connection_version(connection)->major,
						np_connection_version(connection)->minor);
	if (examination->config == NULL)
		return "unknown: the stream can't be looked at";
	if (!np_json_is_true(examination->config, "allow_msg_schedules"))
		return "by nobody: the stream has no allow_msg_schedules; nats_publish_outbox() delivers later, too";
	return "by the stream";
}

/* nats_explain(subject, payload, headers, msg_id, deliver_at): what nats_publish() would do with it */
Datum
nats_explain(PG_FUNCTION_ARGS)
{
	NpExamination examination = {.subject = get_utf8(fcinfo, ARG_SUBJECT)};
	NpMessageOptions options = {.headers = PG_ARGISNULL(ARG_HEADERS) ? NULL : PG_GETARG_JSONB_P(ARG_HEADERS)};
	NpMessage	message;
	int64		size;
	const char *unknown;
	const ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	np_transaction_join();
	np_report_unawaited();
	options.is_annotated = true;
	options.msg_id = get_utf8(fcinfo, ARG_MSG_ID);
	options.has_deliver_at = !PG_ARGISNULL(ARG_DELIVER_AT);
	if (options.has_deliver_at)
		options.deliver_at = PG_GETARG_TIMESTAMPTZ(ARG_DELIVER_AT);
	np_message_build(&message, examination.subject, get_utf8(fcinfo, ARG_PAYLOAD), &options);
	examination.subject = message.subject;
	size = message.headers.length + message.payload.length;
	unknown = connect_or_say(&examination);
	if (examination.session != NULL)
		np_publisher_check_inbox(examination.session, examination.subject);

	InitMaterializedSRF(fcinfo, 0);
	put(result, "subject", np_from_utf8(message.subject));
	put_id(result, &message);
	put_headers(result, &message);
	put_size(result, "payload_size", message.payload.length);
	put_size(result, "message_size", size);
	put(result, "max_payload", unknown != NULL ? unknown : describe_limit(&examination, size));
	put(result, "publishing", publishing_name());
	put_allowed(result, &examination, &message);
	put(result, "server", unknown != NULL ? unknown : np_connection_identity(examination.session->connection).url);
	put(result, "stream", unknown != NULL ? unknown : describe_stream(&examination));
	if (options.has_deliver_at)
		put(result, "delivered", unknown != NULL ? unknown : describe_delivery(&examination));
	if (examination.answers != NULL && examination.answers->failure.fault == NP_FAULT_NONE)
		put_size(result, "subscribers", examination.answers->subscribers);
	return (Datum) 0;
}
