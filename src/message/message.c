/*-------------------------------------------------------------------------
 *
 * message.c
 *	  A message as the user gave it, checked and ready to be sent.
 *
 * Nothing here talks to the server.  Headers become one block of text at
 * once (ADR-4); that block is what goes out, and goes out again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/percent.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subject.h"
#include "message/annotations.h"
#include "message/argument.h"
#include "message/header.h"
#include "message/header_json.h"
#include "message/message.h"
#include "message/message_id.h"
#include "message/protocol.h"
#include "message/schedule.h"

#define HEADER_VERSION	"NATS/1.0\r\n"
#define ID_HEADER		"Nats-Msg-Id"
#define STREAM_HEADER	"Nats-Expected-Stream"
#define LAST_ID_HEADER	"Nats-Expected-Last-Msg-Id"

/* All that begins so is the server's. */
#define SERVER_PREFIX	"Nats-"

/* The headers that are an argument, too; the places of known_headers. */
enum
{
	HEADER_ID,
	HEADER_EXPECT_STREAM,
	HEADER_EXPECT_LAST_SEQ,
	HEADER_EXPECT_LAST_SUBJECT_SEQ,
	HEADER_EXPECT_SUBJECT,
	HEADER_TTL,
	HEADER_ROLLUP,
	HEADER_INCREMENT,
	HEADER_SCHEDULE,
	HEADER_SCHEDULE_TARGET,
	HEADER_SCHEDULE_TTL,
	HEADERS_OF_ARGUMENTS
};

typedef struct KnownHeader
{
	const char *name;
	const char *argument;		/* that sets it, or NULL */
	NpHeaderPower power;
	NpFeature	needs;
} KnownHeader;

/*
 * The headers of the server that can be given, with what they can do
 * (nats-server 2.15, server/stream.go).  Any other one is refused, as what a newer server does
 * with it is not known.  Left out are Nats-Expected-Last-Msg-Id, as a wrong
 * one freezes a replicated stream on current servers (2.14 and 2.15), and
 * Nats-Trace-*, as what is traced is told to any subject, or not stored.
 *
 * The server compares names byte by byte, so we write them as it does: what
 * is another header to it now may not be one to its next version.
 */
static const KnownHeader known_headers[] = {
	[HEADER_ID] = {ID_HEADER, "msg_id", NP_HEADER_OF_MESSAGE, NP_FEATURE_NONE},
	[HEADER_EXPECT_STREAM] = {STREAM_HEADER, "expect_stream", NP_HEADER_OF_MESSAGE, NP_FEATURE_NONE},
	[HEADER_EXPECT_LAST_SEQ] = {"Nats-Expected-Last-Sequence", "expect_last_seq", NP_HEADER_OF_MESSAGE, NP_FEATURE_NONE},
	[HEADER_EXPECT_LAST_SUBJECT_SEQ] = {"Nats-Expected-Last-Subject-Sequence", "expect_last_subject_seq", NP_HEADER_OF_MESSAGE, NP_FEATURE_NONE},
	/* the errors tell of its sequence */
	[HEADER_EXPECT_SUBJECT] = {"Nats-Expected-Last-Subject-Sequence-Subject", "expect_last_subject_seq_subject", NP_HEADER_READS_SUBJECTS, NP_FEATURE_EXPECT_SUBJECT},
	[HEADER_TTL] = {"Nats-TTL", "ttl", NP_HEADER_OF_MESSAGE, NP_FEATURE_TTL},
	[HEADER_ROLLUP] = {"Nats-Rollup", "rollup", NP_HEADER_REMOVES, NP_FEATURE_NONE},
	[HEADER_INCREMENT] = {"Nats-Incr", "increment", NP_HEADER_OF_MESSAGE, NP_FEATURE_COUNTER},
	[HEADER_SCHEDULE] = {"Nats-Schedule", "deliver_at", NP_HEADER_OF_MESSAGE, NP_FEATURE_SCHEDULE},
	[HEADER_SCHEDULE_TARGET] = {"Nats-Schedule-Target", "deliver_at", NP_HEADER_WRITES_SUBJECT, NP_FEATURE_SCHEDULE},
	[HEADER_SCHEDULE_TTL] = {"Nats-Schedule-TTL", "ttl", NP_HEADER_OF_MESSAGE, NP_FEATURE_SCHEDULE},
	{"Nats-Schedule-Time-Zone", NULL, NP_HEADER_OF_MESSAGE, NP_FEATURE_LATER_SCHEDULE},
	{"Nats-Schedule-Source", NULL, NP_HEADER_READS_SUBJECT, NP_FEATURE_LATER_SCHEDULE},
	{"Nats-Schedule-Rollup", NULL, NP_HEADER_REMOVES, NP_FEATURE_LATER_SCHEDULE},
	/* "purge": the schedule of Nats-Scheduler */
	{"Nats-Schedule-Next", NULL, NP_HEADER_OF_MESSAGE, NP_FEATURE_SCHEDULE},
	/* whose messages Nats-Schedule-Next removes */
	{"Nats-Scheduler", NULL, NP_HEADER_WRITES_SUBJECT, NP_FEATURE_SCHEDULE}
};

/* ---- Encoding and checking --------------------------------------------- */

/* Raises 22023 for a subject of the server's own, or of inboxes under a prefix. */
void
np_message_check_reserved(NpSpan subject, const char *inbox_prefix)
{
	if (np_subject_is_reserved(subject, (NpSpan) {inbox_prefix, strlen(inbox_prefix)}))
		np_raise_input("subject is reserved: nothing can be published under \"$JS\", \"$SYS\" or \"%s\"",
					   inbox_prefix);
}

/* Raises 22023 for what no message can be published to. */
void
np_message_check_subject(NpSpan subject)
{
	size_t		position;

	switch (np_subject_check(subject, &position))
	{
		case NP_TEXT_OK:
			break;
		case NP_TEXT_EMPTY:
			np_raise_input("subject is empty");
		case NP_TEXT_TOO_LONG:
			np_raise_input("subject is %zu bytes long, the limit is %d",
						   subject.length, NP_MAX_SUBJECT_LENGTH);
		case NP_TEXT_BAD_BYTE:
			np_raise_input("subject has the invalid byte 0x%02x at position %zu",
						   (unsigned char) subject.data[position], position + 1);
		case NP_TEXT_EMPTY_TOKEN:
			np_raise_input("subject has an empty token at position %zu", position + 1);
		case NP_TEXT_WILDCARD:
			np_raise_input("subject has a wildcard at position %zu", position + 1);
	}
	np_message_check_reserved(subject, np_inbox_prefix);
}

/* ---- Headers ------------------------------------------------------------ */

/*
 * Servers before 2.11.11 and 2.12.2 look for the first place where a name stands,
 * and when that is in another name or in a value, they see no such header
 * (nats-server#7465): a message would be stored twice, or against what it expects.
 * So theirs come first, and of those the id last, as its text can be anything.
 */
typedef enum Rank
{
	RANK_OF_SERVER,
	RANK_ID,
	RANK_OF_USER
} Rank;

typedef struct HeaderBlock
{
	StringInfoData text;
	bool		seen[lengthof(known_headers)];
	const NpMessageOptions *options;
	Rank		rank;			/* of the headers that are being appended */
} HeaderBlock;

static bool
is_of_server(NpSpan name)
{
	return name.length >= strlen(SERVER_PREFIX) && pg_strncasecmp(name.data, SERVER_PREFIX, strlen(SERVER_PREFIX)) == 0;
}

static const KnownHeader *
find_known_header(NpSpan name)
{
	for (int i = 0; i < lengthof(known_headers) && is_of_server(name); i++)
		if (strlen(known_headers[i].name) == name.length &&
			pg_strncasecmp(known_headers[i].name, name.data, name.length) == 0)
			return &known_headers[i];
	return NULL;
}

/* What a header of a message that was built can do. */
NpHeaderPower
np_message_header_power(NpSpan name)
{
	const KnownHeader *known = find_known_header(name);

	return known != NULL ? known->power : NP_HEADER_OF_MESSAGE;
}

/* In any case, as the server takes it. */
static bool
is_any_of(NpSpan value, const char *one, const char *other)
{
	char	   *text = pnstrdup(value.data, value.length);

	return pg_strcasecmp(text, one) == 0 || pg_strcasecmp(text, other) == 0;
}

/* What holds for the headers of the server alone. */
static void
check_known_value(const KnownHeader *known, NpSpan value)
{
	size_t		position;

	if (value.length == 0)
		np_raise_input("header \"%s\" is empty", known->name);
	if (strchr(" \t", value.data[0]) || strchr(" \t", value.data[value.length - 1]))
		np_raise_input("header \"%s\" begins or ends with a blank", known->name);
	if (known->power == NP_HEADER_WRITES_SUBJECT &&
		(np_subject_check(value, &position) != NP_TEXT_OK ||
		 np_subject_is_reserved(value, (NpSpan) {np_inbox_prefix, strlen(np_inbox_prefix)})))
		np_raise_input("header \"%s\" does not name a subject that can be published to", known->name);
	if (known->power == NP_HEADER_READS_SUBJECTS && np_pattern_problem(value) != NULL)
		np_raise_input("header \"%s\" does not name a subject: %s", known->name, np_pattern_problem(value));
	if (known->power == NP_HEADER_REMOVES && !is_any_of(value, "sub", "all"))
		np_raise_input("header \"%s\" is neither \"sub\" nor \"all\"", known->name);
}

static void
append_header(HeaderBlock *block, const char *name, NpSpan value)
{
	const KnownHeader *known = find_known_header((NpSpan) {name, strlen(name)});

	np_header_require_value(name, value);
	if (known != NULL)
	{
		check_known_value(known, value);
		block->seen[known - known_headers] = true;
	}
	appendStringInfoString(&block->text, name);
	appendStringInfoString(&block->text, ": ");
	appendBinaryStringInfo(&block->text, value.data, value.length);
	appendStringInfoString(&block->text, "\r\n");
}

static bool
argument_is_given(const NpMessageOptions *options, int header)
{
	switch (header)
	{
		case HEADER_ID:
			return options->msg_id.data != NULL;
		case HEADER_EXPECT_STREAM:
			return options->expect_stream.data != NULL;
		case HEADER_EXPECT_LAST_SEQ:
			return options->has_expect_last_seq;
		case HEADER_EXPECT_LAST_SUBJECT_SEQ:
			return options->has_expect_last_subject_seq;
		case HEADER_EXPECT_SUBJECT:
			return options->expect_subject.data != NULL;
		case HEADER_TTL:
			return options->ttl != NULL && !options->has_deliver_at;
		case HEADER_ROLLUP:
			return options->rollup.data != NULL;
		case HEADER_INCREMENT:
			return options->increment != NULL;
		case HEADER_SCHEDULE:
		case HEADER_SCHEDULE_TARGET:
			return options->has_deliver_at;
		case HEADER_SCHEDULE_TTL:
			return options->ttl != NULL && options->has_deliver_at;
		default:
			return false;
	}
}

/* Check a header name that the user gave; returns how it is to be written. */
static const char *
check_header_name(HeaderBlock *block, const char *name, size_t length)
{
	const KnownHeader *known;

	np_header_require_name(name, length);
	if (!is_of_server((NpSpan) {name, length}))
		return name;
	known = find_known_header((NpSpan) {name, length});
	if (known == NULL)
		np_raise_input("header \"%s\" is reserved", name);
	if (argument_is_given(block->options, known - known_headers))
		np_raise_input("header \"%s\" and the argument %s are both given", name, known->argument);
	if (block->seen[known - known_headers])
		np_raise_input("header \"%s\" is given twice", name);
	return known->name;
}

static void
append_scalar(HeaderBlock *block, const char *name, const JsonbValue *value)
{
	char	   *number;

	switch (value->type)
	{
		case jbvString:
			append_header(block, name,
						  np_to_utf8(value->val.string.val, value->val.string.len));
			break;
		case jbvNumeric:
			number = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(value->val.numeric)));
			append_header(block, name, (NpSpan) {number, strlen(number)});
			break;
		case jbvBool:
			append_header(block, name, value->val.boolean ? (NpSpan) {"true", 4} : (NpSpan) {"false", 5});
			break;
		case jbvNull:
			np_raise_input("value of header \"%s\" is null", name);
		default:
			np_raise_input("value of header \"%s\" is nested", name);
	}
}

/* One header, or as many as its array has elements. */
static void
append_json_header(HeaderBlock *block, const char *name, const JsonbValue *value)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	element;
	int			count = 0;

	if (value->type != jbvBinary)
	{
		append_scalar(block, name, value);
		return;
	}
	if (!JsonContainerIsArray(value->val.binary.data))
		np_raise_input("value of header \"%s\" is nested", name);
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (element.type == jbvBinary)
			np_raise_input("value of header \"%s\" is nested", name);
		if (++count > 1 && is_of_server((NpSpan) {name, strlen(name)}))
			np_raise_input("header \"%s\" is given twice", name);
		append_scalar(block, name, &element);
	}
}

static Rank
rank_of(NpSpan name)
{
	if (!is_of_server(name))
		return RANK_OF_USER;
	return find_known_header(name) == &known_headers[HEADER_ID] ? RANK_ID : RANK_OF_SERVER;
}

static void
append_of_rank(void *argument, NpSpan name, const JsonbValue *value)
{
	HeaderBlock *block = argument;

	if (rank_of(name) == block->rank)
		append_json_header(block, check_header_name(block, pnstrdup(name.data, name.length), name.length), value);
}

static void
append_json_headers(HeaderBlock *block, Rank rank)
{
	Jsonb	   *headers = block->options->headers;

	if (headers == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(headers))
		np_raise_input("headers must be a JSON object");
	block->rank = rank;
	np_headers_each(headers, append_of_rank, block);
}

/* One that is known, with the value of its argument. */
static void
append_known(HeaderBlock *block, int header, NpSpan value)
{
	append_header(block, known_headers[header].name, value);
}

static void
append_expectations(HeaderBlock *block)
{
	const NpMessageOptions *options = block->options;

	if (options->expect_stream.data != NULL && options->expect_stream.length == 0)
		np_raise_input("expect_stream is empty");
	if (options->expect_stream.data != NULL)
		append_known(block, HEADER_EXPECT_STREAM, options->expect_stream);
	if (options->has_expect_last_seq)
		append_known(block, HEADER_EXPECT_LAST_SEQ, np_argument_sequence("expect_last_seq", options->expect_last_seq));
	if (options->has_expect_last_subject_seq)
		append_known(block, HEADER_EXPECT_LAST_SUBJECT_SEQ,
					 np_argument_sequence("expect_last_subject_seq", options->expect_last_subject_seq));
	if (options->expect_subject.data != NULL && !options->has_expect_last_subject_seq)
		np_raise_input("expect_last_subject_seq_subject is given without expect_last_subject_seq");
	if (options->expect_subject.data != NULL)
		append_known(block, HEADER_EXPECT_SUBJECT, options->expect_subject);
}

/* The time to live is that of the message, not of the one that waits in its place. */
static void
append_schedule(HeaderBlock *block, NpSpan target)
{
	const NpMessageOptions *options = block->options;

	if (options->has_deliver_at)
	{
		append_known(block, HEADER_SCHEDULE, np_argument_schedule(options->deliver_at));
		append_known(block, HEADER_SCHEDULE_TARGET, target);
	}
	if (options->ttl != NULL)
		append_known(block, options->has_deliver_at ? HEADER_SCHEDULE_TTL : HEADER_TTL, np_argument_ttl(options->ttl));
}

static void
append_arguments(HeaderBlock *block, NpSpan subject)
{
	const NpMessageOptions *options = block->options;

	append_expectations(block);
	append_schedule(block, subject);
	if (options->rollup.data != NULL)
		append_known(block, HEADER_ROLLUP, np_argument_rollup(options->rollup));
	if (options->increment != NULL)
		append_known(block, HEADER_INCREMENT, np_argument_increment(options->increment));
}

static void
exclude(const HeaderBlock *block, int header, const int *others, int count)
{
	for (int i = 0; i < count; i++)
		if (block->seen[others[i]])
			np_raise_input("%s and %s exclude each other", known_headers[header].argument, known_headers[others[i]].argument);
}

/* What the server would refuse as a bad number, or ask of the wrong subject. */
static void
check_together(const HeaderBlock *block, NpSpan payload)
{
	static const int not_counted[] = {HEADER_EXPECT_STREAM, HEADER_EXPECT_LAST_SEQ, HEADER_EXPECT_LAST_SUBJECT_SEQ, HEADER_EXPECT_SUBJECT, HEADER_ROLLUP, HEADER_SCHEDULE};
	static const int not_later[] = {HEADER_EXPECT_LAST_SEQ, HEADER_EXPECT_LAST_SUBJECT_SEQ, HEADER_EXPECT_SUBJECT, HEADER_ROLLUP};

	if (block->options->increment != NULL && payload.length > 0)
		np_raise_input("a message with increment must have no payload");
	if (block->options->increment != NULL)
		exclude(block, HEADER_INCREMENT, not_counted, lengthof(not_counted));
	if (block->options->has_deliver_at)
		exclude(block, HEADER_SCHEDULE, not_later, lengthof(not_later));
}

/* The block of a message without headers of its own: an automatic id or nothing. */
static void
build_automatic_headers(NpMessage *message)
{
	static char block[] = HEADER_VERSION ID_HEADER ": ......................\r\n\r\n";
	char	   *id = block + sizeof(HEADER_VERSION ID_HEADER ": ") - 1;

	if (!np_auto_msg_id)
		return;
	memcpy(id, np_message_next_id().data, NP_MESSAGE_ID_LENGTH);
	message->headers = (NpSpan) {block, sizeof(block) - 1};
	message->id = (NpSpan) {id, NP_MESSAGE_ID_LENGTH};
	message->has_automatic_id = true;
}

static bool
has_header(const HeaderBlock *block, const char *name)
{
	NpSpan		rest = {block->text.data, block->text.len};
	NpSpan		found;
	NpSpan		value;

	while (np_header_next(&rest, &found, &value))
		if (found.length == strlen(name) && pg_strncasecmp(found.data, name, found.length) == 0)
			return true;
	return false;
}

/* A header of the message's own counts more than an annotation. */
static void
append_annotation(void *block, NpSpan name, const JsonbValue *value)
{
	char	   *text = pnstrdup(name.data, name.length);

	if (value->type != jbvNull && !has_header(block, text))
		append_scalar(block, text, value);
}

/* palloc'd */
static NpSpan
encode_header(NpSpan value)
{
	char	   *encoded = palloc(NP_ENCODED_SIZE(value.length));

	return (NpSpan) {encoded, np_encode_header(value, encoded)};
}

/* The id that is given, or an automatic one. */
static void
append_id(HeaderBlock *block, NpMessage *message)
{
	NpSpan		id = block->options->msg_id;

	if (id.data != NULL && id.length == 0)
		np_raise_input("msg_id is empty");
	if (id.data != NULL)
		append_header(block, ID_HEADER, id);
	append_json_headers(block, RANK_ID);
	if (block->seen[HEADER_ID] || !np_auto_msg_id)
		return;
	append_header(block, ID_HEADER, np_message_next_id());
	message->has_automatic_id = true;
}

/* The header that shall have the id, too, or one of its own where there is none. */
static void
append_id_header(HeaderBlock *block)
{
	NpSpan		id;

	if (block->options->id_header == NULL)
		return;
	id = block->seen[HEADER_ID] ? np_message_header((NpSpan) {block->text.data, block->text.len}, ID_HEADER) : np_message_next_id();
	append_header(block, block->options->id_header, encode_header(id));
}

static void
build_headers(NpMessage *message, const NpMessageOptions *options)
{
	HeaderBlock block = {.options = options};
	Jsonb	   *annotations = options->is_annotated ? np_annotations_current() : options->annotations;

	initStringInfo(&block.text);
	appendStringInfoString(&block.text, HEADER_VERSION);
	append_arguments(&block, message->subject);
	append_json_headers(&block, RANK_OF_SERVER);
	append_id(&block, message);
	append_json_headers(&block, RANK_OF_USER);
	appendBinaryStringInfo(&block.text, options->lines.data, options->lines.length);
	if (annotations != NULL)
		np_headers_each(annotations, append_annotation, &block);
	append_id_header(&block);
	if (block.text.len == sizeof(HEADER_VERSION) - 1)
		return;					/* an empty object, and no id */
	appendStringInfoString(&block.text, "\r\n");

	check_together(&block, message->payload);
	message->headers = (NpSpan) {block.text.data, block.text.len};
	if (block.seen[HEADER_ID])
		message->id = np_message_header(message->headers, ID_HEADER);
	if (block.seen[HEADER_EXPECT_STREAM])
		message->expect_stream = np_message_header(message->headers, STREAM_HEADER);
	for (int i = 0; i < lengthof(known_headers); i++)
	{
		if (!block.seen[i])
			continue;
		message->has_conditions |= i != HEADER_ID && i != HEADER_TTL;
		message->has_power |= known_headers[i].power != NP_HEADER_OF_MESSAGE;
		message->needs = Max(message->needs, known_headers[i].needs);
	}
	if (block.text.len > NP_MAX_HEADERS_LENGTH)
	{
		NpFailure	failure = np_failure(NP_FAULT_SIZE, "headers are %d bytes long, the limit is %d",
										 block.text.len, NP_MAX_HEADERS_LENGTH);

		np_raise(&failure);
	}
}

static bool
options_are_empty(const NpMessageOptions *options)
{
	for (int i = 0; i < HEADERS_OF_ARGUMENTS; i++)
		if (argument_is_given(options, i))
			return false;
	return options->headers == NULL && options->lines.data == NULL && options->id_header == NULL &&
		options->annotations == NULL && !(options->is_annotated && np_annotations_current() != NULL);
}

/*
 * Build a message.  The subject (absent for SQL's NULL) is in UTF-8, and so is
 * the payload if it is text; it is absent for NULL.
 *
 * One that is to be delivered later is a message to the subject where it waits.
 * Raises 22004 for a NULL subject, 22023 for whatever must not go out, 54000
 * for too many headers.
 */
void
np_message_build(NpMessage *message, NpSpan subject, NpSpan payload,
				 const NpMessageOptions *options)
{
	memset(message, 0, sizeof(*message));
	if (subject.data == NULL)
	{
		NpFailure	failure = np_failure(NP_FAULT_NULL, "subject must not be null");

		np_raise(&failure);
	}
	message->subject = subject;
	message->payload = payload;
	np_message_check_subject(message->subject);
	if (options_are_empty(options))
		build_automatic_headers(message);
	else
		build_headers(message, options);
	if (options->has_deliver_at)
	{
		message->subject = np_schedule_subject(subject, message->id.data != NULL ? message->id : np_message_next_id());
		np_message_check_subject(message->subject);
	}
}

static char *
append_span(char *place, NpSpan span)
{
	memcpy(place, span.data, span.length);
	return place + span.length;
}

#define append_literal(place, text)	append_span(place, (NpSpan) {text, sizeof(text) - 1})

/*
 * The same message with a header that has it stored right behind the one with
 * this id, or not at all.  The block is palloc'd; it begins with what is added,
 * for old servers (see Rank), so the id must not have a text that can be a name.
 */
void
np_message_expect(NpMessage *result, const NpMessage *message, NpSpan last_id)
{
	size_t		version = strlen(HEADER_VERSION);
	NpSpan		rest = {message->headers.data + version, message->headers.length - version};
	char	   *block = palloc(message->headers.length + NP_EXPECTATION_SIZE(last_id.length));
	char	   *place = append_literal(block, HEADER_VERSION LAST_ID_HEADER ": ");

	*result = *message;
	place = append_span(place, last_id);
	place = append_literal(place, "\r\n");
	result->id.data = place + (message->id.data - rest.data);
	place = append_span(place, rest);
	result->headers = (NpSpan) {block, place - block};
}
