/*-------------------------------------------------------------------------
 *
 * check.c
 *	  What the checks of the doctor have in common: asking, and noting what
 *	  was answered.
 *
 * Nothing is asked twice.  Who does not answer is not asked again, so that a
 * silent server costs one timeout and not one for each check.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "base/catch.h"
#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subtransaction.h"
#include "check/check.h"
#include "message/message.h"
#include "publish/current_session.h"
#include "publish/policy.h"
#include "publish/publisher.h"
#include "publish/request.h"
#include "publish/session.h"
#include "stats/stats.h"
#include "wire/server_info.h"

/* So long a table of this database is waited for that others have locked, milliseconds. */
#define MAX_LOCK_WAIT	1000

/*
 * Add a sentence to what a check has found, which is then at least as bad.
 */
void
np_find(NpFinding *finding, NpCheckStatus status, const char *format, ...)
{
	StringInfo	detail = &finding->detail;

	finding->status = Max(finding->status, status);
	if (detail->len > 0)
		appendStringInfoChar(detail, ' ');
	for (;;)
	{
		va_list		arguments;
		int			needed;

		va_start(arguments, format);
		needed = appendStringInfoVA(detail, format, arguments);
		va_end(arguments);
		if (needed == 0)
			return;
		enlargeStringInfo(detail, needed);
	}
}

/* A number with its noun. */
const char *
np_count_of(int64 count, const char *noun)
{
	return psprintf(INT64_FORMAT " %s%s", count, noun, count == 1 ? "" : "s");
}

/* Add what a failure says, as sentences. */
void
np_find_failure(NpFinding *finding, NpCheckStatus status, const NpFailure *failure)
{
	char	   *text = pstrdup(failure->text);

	text[0] = pg_ascii_toupper((unsigned char) text[0]);
	np_find(finding, status, "%s.", text);
	if (failure->detail != NULL)
		np_find(finding, status, "%s", failure->detail);
}

/* ---- Errors as findings ------------------------------------------------------------ */

/* Is the error about NATS, its settings or our tables, and not an interrupt or a lack of memory or disk? */
static bool
is_finding(int sqlstate)
{
	if (sqlstate == ERRCODE_INSUFFICIENT_RESOURCES || sqlstate == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED)
		return true;
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
		case ERRCODE_FDW_ERROR:
			return true;
		default:
			return false;
	}
}

/* A step of the examination. */
typedef struct Step
{
	NpExamine	function;
	NpExamination *examination;
	void	   *argument;
} Step;

static void
take_step(void *argument)
{
	const Step *step = argument;

	step->function(step->examination, step->argument);
}

/* Call a function that may raise.  False: what it has raised is in *failure (palloc'd). */
bool
np_check_attempt(NpExamine function, NpExamination *examination, void *argument, NpFailure *failure)
{
	Step		step = {function, examination, argument};
	const ErrorData *error = np_catch(take_step, &step, is_finding);

	if (error == NULL)
		return true;
	*failure = (NpFailure) {NP_FAULT_UNREACHABLE, error->message, error->detail, error->hint};
	return false;
}

/* With a lock that others hold for long, the answer is that. */
static void
take_step_here(void *argument)
{
	int			level = NewGUCNestLevel();

	if (LockTimeout == 0 || LockTimeout > MAX_LOCK_WAIT)
		(void) set_config_option("lock_timeout", psprintf("%d", MAX_LOCK_WAIT), PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	take_step(argument);
	AtEOXact_GUC(true, level);
}

/* The same for one that asks this database, whose tables can be locked, or without the rights that their owner needs. */
bool
np_check_attempt_here(NpExamine function, NpExamination *examination, void *argument, NpFailure *failure)
{
	Step		step = {function, examination, argument};
	ErrorData  *error = np_try_subtransaction(take_step_here, &step);

	if (error == NULL)
		return true;
	if (!is_finding(error->sqlerrcode))
		ReThrowError(error);
	*failure = (NpFailure) {NP_FAULT_UNKNOWN, error->message, error->detail, error->hint};
	return false;
}

/* ---- The connection ---------------------------------------------------------------- */

/*
 * Have a connection on which the server answers; raises why there is none.
 */
void
np_examine_connection(NpExamination *examination, void *unused)
{
	NpFailure	failure;

	np_stats_mode = NP_STATS_SYNC;
	examination->session = np_current_session();
	if (!np_session_ready(examination->session, true, &failure))
		np_raise(&failure);
	(void) np_round_trip(examination->session);
}

/* ---- The subject ------------------------------------------------------------------- */

/* Raises what publishing to the subject would. */
static void
check_subject(NpExamination *examination, void *unused)
{
	np_message_check_subject(examination->subject);
	if (examination->session != NULL)
		np_publisher_check_inbox(examination->session, examination->subject);
	np_policy_check_subject(examination->subject);
}

/*
 * Can the subject be published to?  After the connection has been looked for,
 * whose inbox is nothing to publish to.
 */
void
np_examine_subject(NpExamination *examination)
{
	NpFailure	failure;
	NpFinding	finding = {NP_CHECK_OK};

	if (examination->subject.data == NULL || np_check_attempt(check_subject, examination, NULL, &failure))
		return;
	initStringInfo(&finding.detail);
	np_find_failure(&finding, NP_CHECK_FAILED, &failure);
	if (failure.hint != NULL)
		np_find(&finding, NP_CHECK_FAILED, "%s", failure.hint);
	examination->bad_subject = finding.detail.data;
}

/* ---- Requests ---------------------------------------------------------------------- */

typedef struct Request
{
	const char *subject;
	NpSpan		body;
	bool		answered;
	NpSpan		reply;			/* until the next one */
	NpFailure	failure;
} Request;

static void
make_request(NpExamination *examination, void *argument)
{
	Request    *request = argument;

	request->answered = np_try_request(examination->session, request->subject, request->body, NP_FOREVER,
									   &request->reply, &request->failure);
}

/* As np_try_request, but raises nothing about NATS; the failure is palloc'd. */
static bool
ask(NpExamination *examination, const char *subject, const char *body, NpSpan *reply, NpFailure *failure)
{
	Request		request = {.subject = subject,.body = {body, strlen(body)}};

	if (!np_check_attempt(make_request, examination, &request, failure))
		return false;
	*reply = request.reply;
	if (!request.answered)
		*failure = np_failure_copy(&request.failure, CurrentMemoryContext);
	return request.answered;
}

/* ---- JetStream --------------------------------------------------------------------- */

/* Why a request has failed, as far as it matters to the next one. */
static void
record_failed_request(NpExamination *examination, const NpFailure *failure)
{
	if (failure->fault == NP_FAULT_NOT_PERMITTED)
		examination->api_refused = true;
	else
		examination->api_silence = failure->text;
}

/*
 * One request to the JetStream API, which is in UTF-8.  True: *answer is what
 * it says, palloc'd.  False: *failure is its error, or why there is no answer.
 */
bool
np_examine_api(NpExamination *examination, const char *api, const char *body, Jsonb **answer, NpFailure *failure)
{
	NpSpan		reply;

	if (examination->api_silence != NULL)
	{
		*failure = np_failure(NP_FAULT_UNKNOWN, "%s", examination->api_silence);
		return false;
	}
	if (!ask(examination, psprintf("$JS.API.%s", api), body, &reply, failure))
	{
		record_failed_request(examination, failure);
		return false;
	}
	*answer = np_json_parse(reply);
	if (*answer != NULL && JB_ROOT_IS_OBJECT(*answer))
		return !np_api_error_parse(reply, failure);
	*failure = np_failure(NP_FAULT_UNKNOWN, "the reply is not a JSON object");
	return false;
}

/* ---- The clock --------------------------------------------------------------------- */

/* Keep the time that a server has written into its reply to a request of a time before. */
void
np_examine_clock(NpExamination *examination, Jsonb *object, const char *field, TimestampTz before)
{
	char	   *time = object != NULL ? np_json_text(object, field) : NULL;

	if (time == NULL || examination->clock != NULL)
		return;
	examination->clock = time;
	examination->clock_before = before;
	examination->clock_after = GetCurrentTimestamp();
}

/* ---- The NATS user ----------------------------------------------------------------- */

/*
 * Ask who we are and what we may: servers since 2.10 answer, if they let us
 * ask.
 */
void
np_examine_user(NpExamination *examination)
{
	TimestampTz before = GetCurrentTimestamp();
	NpSpan		reply;
	Jsonb	   *answer;

	if (examination->asked_user)
		return;
	examination->asked_user = true;
	if (!ask(examination, "$SYS.REQ.USER.INFO", "", &reply, &examination->user_failure))
		return;
	answer = np_json_parse(reply);
	examination->user = answer != NULL && JB_ROOT_IS_OBJECT(answer) ? np_json_child(answer, "data") : NULL;
	if (examination->user == NULL)
	{
		examination->user_failure = np_failure(NP_FAULT_UNKNOWN, "the reply says nothing about a user");
		return;
	}
	np_examine_clock(examination, np_json_child(answer, "server"), "time", before);
}

/* ---- The stream -------------------------------------------------------------------- */

static char *
subject_as_json(NpSpan subject)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"subject\": ");
	escape_json(&json, pnstrdup(subject.data, subject.length));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Look at the stream; what can't be found out of it is said in stream_unknown. */
void
np_examine_stream_info(NpExamination *examination)
{
	NpSpan		name = np_to_utf8(examination->stream, strlen(examination->stream));
	char	   *api = psprintf("STREAM.INFO.%.*s", (int) name.length, name.data);
	TimestampTz before = GetCurrentTimestamp();
	NpFailure	failure;

	if (!np_examine_api(examination, api, "", &examination->stream_info, &failure))
	{
		examination->stream_failure = failure;
		examination->stream_unknown = psprintf("The stream \"%s\" could not be looked at: %s.",
											   examination->stream, failure.text);
		return;
	}
	examination->config = np_json_child(examination->stream_info, "config");
	examination->state = np_json_child(examination->stream_info, "state");
	examination->cluster = np_json_child(examination->stream_info, "cluster");
	if (examination->config == NULL || examination->state == NULL)
	{
		examination->config = NULL;
		examination->stream_unknown = "JetStream says nothing about the stream's configuration and state.";
	}
	np_examine_clock(examination, examination->stream_info, "ts", before);
}

/*
 * Find the streams that take the subject, and look at the first one.
 */
void
np_examine_streams(NpExamination *examination)
{
	Jsonb	   *answer;
	NpFailure	failure;

	if (examination->asked_streams)
		return;
	examination->asked_streams = true;
	examination->stream_unknown = "The stream is not known.";
	if (examination->bad_subject != NULL)
		examination->stream_unknown = examination->bad_subject;
	else if (!np_examine_api(examination, "STREAM.NAMES", subject_as_json(examination->subject), &answer, &failure))
		examination->stream_unknown = psprintf("JetStream could not be asked for the stream: %s.", failure.text);
	else
	{
		examination->streams = np_json_child(answer, "streams");
		if (np_json_count(examination->streams) > 0)
			examination->stream = np_json_element_text(examination->streams, 0);
		if (examination->stream != NULL)
			np_examine_stream_info(examination);
		else
		{
			examination->has_no_stream = true;
			examination->stream_unknown = "The account has no stream that takes the subject.";
		}
	}
}

/* What to do when no stream takes the subject. */
const char *
np_advice_without_stream(const NpExamination *examination)
{
	return examination->no_jetstream != NULL ? examination->no_jetstream : "Create a stream with nats_create_stream().";
}
