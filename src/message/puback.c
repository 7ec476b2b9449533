/*-------------------------------------------------------------------------
 *
 * puback.c
 *	  What JetStream answers to a message.
 *
 * The plain acknowledgment is parsed by protocol.c; everything else here,
 * with PostgreSQL's JSON parser.  Nothing that is answered is an ERROR: that
 * would hit whoever receives it, and he need not have sent the message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "base/catch.h"
#include "base/compat.h"
#include "base/encoding.h"
#include "message/puback.h"

/* JetStream answers a message with some hundred bytes; what is longer than any message by default is not looked at. */
#define MAX_ANSWER		(1024 * 1024)

/* No stream and no domain has a longer name, but one byte; so what is cut to that is none's. */
#define MAX_NAME		256

/* Before the point of PostgreSQL's numeric. */
#define MAX_DIGITS		131072

/* The fields of an answer, as far as we know them. */
typedef struct Answer
{
	/* where the parser is */
	int			depth;			/* of objects and arrays */
	const char *field;			/* at depth 1, the one whose value comes */
	const char *error_field;	/* likewise inside "error" */

	bool		has_error;
	int			code;
	int			error_code;
	char	   *description;
	char	   *stream;
	char	   *domain;
	uint64		sequence;
	bool		has_sequence;
	bool		duplicate;
	char	   *value;
	char	   *batch;
	uint64		count;
} Answer;

static NP_JSON_ACTION
on_open(void *state)
{
	Answer	   *answer = state;

	answer->depth++;
	if (answer->depth == 2 && answer->field != NULL && strcmp(answer->field, "error") == 0)
		answer->has_error = true;
	NP_JSON_ACTION_RETURN;
}

static NP_JSON_ACTION
on_close(void *state)
{
	((Answer *) state)->depth--;
	NP_JSON_ACTION_RETURN;
}

static NP_JSON_ACTION
on_field(void *state, char *name, bool isnull)
{
	Answer	   *answer = state;

	if (answer->depth == 1)
		answer->field = name;
	else if (answer->depth == 2)
		answer->error_field = name;
	NP_JSON_ACTION_RETURN;
}

static void
take_error_scalar(Answer *answer, char *value)
{
	if (strcmp(answer->error_field, "code") == 0)
		answer->code = atoi(value);
	else if (strcmp(answer->error_field, "err_code") == 0)
		answer->error_code = atoi(value);
	else if (strcmp(answer->error_field, "description") == 0)
		answer->description = value;
}

static void
take_scalar(Answer *answer, char *value, JsonTokenType type)
{
	if (strcmp(answer->field, "stream") == 0 && type == JSON_TOKEN_STRING)
		answer->stream = value;
	else if (strcmp(answer->field, "domain") == 0 && type == JSON_TOKEN_STRING)
		answer->domain = value;
	else if (strcmp(answer->field, "seq") == 0 && type == JSON_TOKEN_NUMBER)
	{
		char	   *end;

		errno = 0;
		answer->sequence = strtoll(value, &end, 10);
		answer->has_sequence = errno == 0 && *end == '\0' && value[0] != '-';
	}
	else if (strcmp(answer->field, "val") == 0 && type == JSON_TOKEN_STRING)
		answer->value = value;
	else if (strcmp(answer->field, "batch") == 0 && type == JSON_TOKEN_STRING)
		answer->batch = value;
	else if (strcmp(answer->field, "count") == 0 && type == JSON_TOKEN_NUMBER)
		answer->count = strtoull(value, NULL, 10);
	else if (strcmp(answer->field, "duplicate") == 0)
		answer->duplicate = type == JSON_TOKEN_TRUE;
}

static NP_JSON_ACTION
on_scalar(void *state, char *value, JsonTokenType type)
{
	Answer	   *answer = state;

	if (answer->depth == 1 && answer->field != NULL)
		take_scalar(answer, value, type);
	else if (answer->depth == 2 && answer->has_error && answer->error_field != NULL &&
			 strcmp(answer->field, "error") == 0)
		take_error_scalar(answer, value);
	NP_JSON_ACTION_RETURN;
}

/* A text, and what is made of it. */
typedef struct Parsing
{
	NpSpan		json;
	JsonSemAction *actions;
	bool		is_done;
} Parsing;

static void
parse(void *argument)
{
	Parsing    *parsing = argument;
	JsonLexContext *lexer = np_compat_json_lexer(parsing->json.data, parsing->json.length);

	parsing->is_done = pg_parse_json(lexer, parsing->actions) == JSON_SUCCESS;
}

/* All that the parser throws about JSON: it is nested too deeply. */
static bool
is_too_deep(int sqlstate)
{
	return sqlstate == ERRCODE_STATEMENT_TOO_COMPLEX;
}

/* False: it is no JSON, or none that JetStream would answer. */
static bool
try_parse(NpSpan json, JsonSemAction *actions)
{
	Parsing		parsing = {.json = json,.actions = actions};

	(void) np_catch(parse, &parsing, is_too_deep);
	return parsing.is_done;
}

/* False: it is not a JSON object. */
static bool
parse_answer(NpSpan json, Answer *answer)
{
	JsonSemAction actions = {
		.semstate = answer,
		.object_start = on_open,
		.object_end = on_close,
		.array_start = on_open,
		.array_end = on_close,
		.object_field_start = on_field,
		.scalar = on_scalar
	};

	memset(answer, 0, sizeof(*answer));
	return json.length > 0 && json.data[0] == '{' &&
		pg_verify_mbstr(PG_UTF8, json.data, json.length, true) &&
		try_parse(np_json_unescape(json), &actions);
}

/* Nobody keeps more of a name than names have. */
static void
cut_name(NpSpan *name)
{
	if (name->length > MAX_NAME)
		name->length = pg_encoding_mbcliplen(PG_UTF8, name->data, name->length, MAX_NAME);
}

/* What is no number, or too long for PostgreSQL's, is none of a counter: headers, of whose numbers it is the sum, are shorter. */
static void
keep_number(NpSpan *value)
{
	NpSpan		digits = *value;

	if (digits.length > 0 && digits.data[0] == '-')
		digits.data++, digits.length--;
	for (size_t i = 0; i < digits.length; i++)
		if (digits.data[i] < '0' || digits.data[i] > '9')
			digits.length = 0;
	if (digits.length == 0 || digits.length > MAX_DIGITS)
		*value = (NpSpan) {NULL, 0};
}

static NpSpan
span_of(const char *text)
{
	return (NpSpan) {text, text != NULL ? strlen(text) : 0};
}

static NpFailure
answer_failure(const Answer *answer)
{
	const char *description = answer->description != NULL ? answer->description : "no description";

	return np_failure_from_server(answer->code, answer->error_code,
								  np_string_from_utf8(description));
}

/*
 * Errors after which the same message, sent again, can be stored:
 * nothing was stored, or the first copy is still on its way.
 */
static bool
is_transient(const Answer *answer)
{
	switch (answer->error_code)
	{
		case 10158:				/* duplicate message id is in process */
		case 10167:				/* too many requests */
		case 10008:				/* JetStream system temporarily unavailable */
		case 10009:				/* JetStream cluster not available */
		case 10118:				/* stream is offline */
		case 10194:
		case 10210:				/* too many inflight atomic batches, of the stream ... */
		case 10211:				/* ... or of the server */
			return true;
		default:
			return answer->code == 429;
	}
}

/* What is not a plain acknowledgment. */
static void
parse_unusual(NpSpan json, NpReply *reply)
{
	Answer		answer;

	reply->kind = NP_REPLY_FAILURE;
	if (json.length > MAX_ANSWER || !parse_answer(json, &answer) ||
		(!answer.has_error && (answer.stream == NULL || answer.stream[0] == '\0' || !answer.has_sequence)))
	{
		reply->failure = np_failure(NP_FAULT_UNKNOWN,
									"the reply is not an acknowledgment of JetStream");
		return;
	}
	if (answer.has_error)
	{
		reply->failure = answer_failure(&answer);
		reply->error_code = answer.error_code;
		reply->stream = span_of(answer.stream);
		if (is_transient(&answer))
			reply->kind = NP_REPLY_RETRY;
		return;
	}
	reply->kind = NP_REPLY_ACK;
	reply->ack.stream = span_of(answer.stream);
	reply->ack.domain = span_of(answer.domain);
	reply->batch = span_of(answer.batch);
	reply->batch_count = answer.count;
	reply->ack.sequence = answer.sequence;
	reply->ack.duplicate = answer.duplicate;
	reply->ack.value = span_of(answer.value);
}

/*
 * Take an answer apart.  Everything is palloc'd, or points into the operation.
 *
 * What is not an answer of JetStream is a failure, never an ack: somebody
 * else has replied, and nothing is known of the message.  Texts are cut to
 * what JetStream's can have, for they are kept for each message.
 */
void
np_reply_parse(const NpOperation *operation, NpReply *reply)
{
	memset(reply, 0, sizeof(*reply));
	if (operation->status == 503 && operation->payload.length == 0)
	{
		reply->kind = NP_REPLY_NO_RESPONDERS;
		return;
	}
	if (operation->status == 0 && operation->payload.length == 0)
	{
		reply->kind = NP_REPLY_STAGED;
		return;
	}
	if (np_puback_parse(operation->payload, &reply->ack))
		reply->kind = NP_REPLY_ACK;
	else
		parse_unusual(operation->payload, reply);
	cut_name(&reply->ack.stream);
	cut_name(&reply->ack.domain);
	cut_name(&reply->stream);
	keep_number(&reply->ack.value);
	if (reply->kind == NP_REPLY_ACK && reply->ack.sequence == 0)
	{
		/* servers before 2.11: the first copy is not stored yet */
		reply->kind = NP_REPLY_RETRY;
		reply->failure = np_failure(NP_FAULT_UNKNOWN, "a message with this id is still being stored");
	}
}

/*
 * Is this answer of the JetStream API an error?  Then *failure is it, palloc'd.
 */
bool
np_api_error_parse(NpSpan json, NpFailure *failure)
{
	Answer		answer;

	if (!parse_answer(json, &answer))
	{
		*failure = np_failure(NP_FAULT_JETSTREAM, "the reply is not a JSON object");
		return true;
	}
	if (!answer.has_error)
		return false;
	*failure = answer_failure(&answer);
	return true;
}
