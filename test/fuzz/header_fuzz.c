/*
 * header_fuzz.c
 *		A message's block of headers is what was asked for, line by line, whatever the names and values are.
 *
 * The input: FIELD | FIELD ...
 * where a FIELD is a header, NAME = TYPE VALUE (see take_value), or an argument, ! LETTER VALUE (see
 * take_argument).
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "backend.h"
#include "fuzz.h"
#include "message/annotations.h"
#include "message/header_json.h"
#include "message/message.h"
#include "message/protocol.h"
#include "base/settings.h"

#define MAX_HEADERS		64

char	   *np_inbox_prefix = "_INBOX";
bool		np_auto_msg_id;
char	   *np_schedule_prefix = "schedule";

/* No input has a time, and none is chained. */
int
timestamp2tm(Timestamp time, int *zone, struct pg_tm *tm, fsec_t *fraction, const char **name, pg_tz *zone_of)
{
	abort();
}

int
pg_ulltoa_n(uint64 number, char *text)
{
	abort();
}

Jsonb *
np_annotations_current(void)
{
	return NULL;
}

/* ---- A jsonb object: what there is of one here ------------------------------ */

/* Keys and values of the object in 0, elements of its arrays from MAX_HEADERS on. */
static JsonbValue keys[MAX_HEADERS];
static JsonbValue values[MAX_HEADERS * 2];
static int	header_count;
static int	element_count;

/* A container here has two children: where its values begin, and how many they are. */
static JsonbContainer *
make_container(uint32 flag, int first, int count)
{
	JsonbContainer *container = palloc(offsetof(JsonbContainer, children) + 2 * sizeof(JEntry));

	container->header = flag | count;
	container->children[0] = first;
	container->children[1] = count;
	return container;
}

typedef struct FakeIterator
{
	JsonbContainer *container;
	uint32		step;			/* the tokens that it has returned */
} FakeIterator;

JsonbIterator *
JsonbIteratorInit(JsonbContainer *container)
{
	FakeIterator *iterator = palloc0(sizeof(FakeIterator));

	iterator->container = container;
	return (JsonbIterator *) iterator;
}

/* As with skipNested, always. */
JsonbIteratorToken
JsonbIteratorNext(JsonbIterator **state, JsonbValue *value, bool skip_nested)
{
	FakeIterator *iterator = (FakeIterator *) *state;
	bool		is_array = JsonContainerIsArray(iterator->container);
	uint32		first = iterator->container->children[0];
	uint32		tokens = iterator->container->children[1] * (is_array ? 1 : 2);
	uint32		step = iterator->step++;

	if (step == 0)
		return is_array ? WJB_BEGIN_ARRAY : WJB_BEGIN_OBJECT;
	if (step > tokens)
		return step == tokens + 1 ? (is_array ? WJB_END_ARRAY : WJB_END_OBJECT) : WJB_DONE;
	step--;
	if (is_array)
		*value = values[first + step];
	else
		*value = step % 2 == 0 ? keys[first + step / 2] : values[first + step / 2];
	return is_array ? WJB_ELEM : step % 2 == 0 ? WJB_KEY : WJB_VALUE;
}

/* A numeric here is its text. */
Datum
numeric_out(PG_FUNCTION_ARGS)
{
	return (Datum) 0;
}

Datum
DirectFunctionCall1Coll(PGFunction function, Oid collation, Datum argument)
{
	return argument;
}

void
escape_json(StringInfo json, const char *text)
{
	appendStringInfoChar(json, '"');
	for (; *text != '\0'; text++)
		if (*text == '"' || *text == '\\' || (unsigned char) *text < ' ')
			appendStringInfo(json, "\\u%04x", *text);
		else
			appendStringInfoChar(json, *text);
	appendStringInfoChar(json, '"');
}

/* The same in every run. */
bool
pg_strong_random(void *buffer, size_t length)
{
	memset(buffer, 7, length);
	return true;
}

/* ---- The input ---------------------------------------------------------------- */

static JsonbValue
make_string(NpSpan text)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, text.data);
	value.val.string.len = (int) text.length;
	return value;
}

static JsonbValue take_value(NpSpan text);

/* Elements with commas between them, each with its type; an array in an array is an object here. */
static JsonbValue
take_array(NpSpan text)
{
	JsonbValue	value = {.type = jbvBinary};
	int			first = element_count;

	while (text.length > 0 && element_count < MAX_HEADERS)
	{
		NpSpan		element = fuzz_take(&text, ',');

		if (fuzz_begins(element, "a"))
			element = fuzz_text("o");
		values[MAX_HEADERS + element_count++] = take_value(element);
	}
	value.val.binary.data = make_container(JB_FARRAY, MAX_HEADERS + first, element_count - first);
	return value;
}

/* The first byte is the type. */
static JsonbValue
take_value(NpSpan text)
{
	JsonbValue	value = {.type = jbvNull};
	char		type = text.length > 0 ? text.data[0] : '0';

	if (text.length > 0)
		text.data++, text.length--;
	switch (type)
	{
		case 's':
			return make_string(text);
		case 'n':
			value.type = jbvNumeric;
			value.val.numeric = (Numeric) pnstrdup("-12.5e7", text.length);
			break;
		case 't':
		case 'f':
			value.type = jbvBool;
			value.val.boolean = type == 't';
			break;
		case 'a':
			return take_array(text);
		case 'o':
			value.type = jbvBinary;
			value.val.binary.data = make_container(JB_FOBJECT, 0, 0);
			break;
	}
	return value;
}

/* The keys of a jsonb object are unique. */
static void
take_header(NpSpan field)
{
	NpSpan		name = fuzz_take(&field, '=');

	if (header_count == MAX_HEADERS)
		return;
	for (int i = 0; i < header_count; i++)
		if (fuzz_equal((NpSpan) {keys[i].val.string.val, keys[i].val.string.len}, name))
			return;
	keys[header_count] = make_string(name);
	values[header_count++] = take_value(field);
}

static void
take_argument(NpSpan field, NpMessageOptions *options, NpSpan *subject)
{
	char		letter = field.length > 0 ? *field.data : '\0';
	NpSpan		value = field.length > 0 ? (NpSpan) {field.data + 1, field.length - 1} : field;
	int64		number = strtoll(pnstrdup(value.data, value.length), NULL, 10);

	switch (letter)
	{
		case 'a':
			np_auto_msg_id = true;
			break;
		case 'c':
			options->id_header = "ce-id";
			break;
		case 'i':
			options->msg_id = value;
			break;
		case 'e':
			options->expect_stream = value;
			break;
		case 'l':
			options->has_expect_last_seq = true;
			options->expect_last_seq = number;
			break;
		case 'u':
			options->has_expect_last_subject_seq = true;
			options->expect_last_subject_seq = number;
			break;
		case 't':
			options->ttl = palloc0(sizeof(Interval));
			options->ttl->time = number;
			options->ttl->day = (int32) (number % 7);
			break;
		case 'r':
			options->rollup = value;
			break;
		case 'n':
			options->increment = (Numeric) pnstrdup(value.data, value.length);
			break;
		case 'x':
			options->expect_subject = value;
			break;
		case 's':
			*subject = value;
			break;
	}
}

static void
take_input(NpSpan input, NpMessageOptions *options, NpSpan *subject)
{
	Jsonb	   *headers;

	header_count = element_count = 0;
	np_auto_msg_id = false;
	*subject = fuzz_text("s");
	while (input.length > 0)
	{
		NpSpan		field = fuzz_take(&input, '|');

		if (!fuzz_begins(field, "!"))
			take_header(field);
		else
			take_argument((NpSpan) {field.data + 1, field.length - 1}, options, subject);
	}
	if (header_count == 0)
		return;
	headers = palloc(sizeof(Jsonb) + 2 * sizeof(JEntry));
	memcpy(&headers->root, make_container(JB_FOBJECT, 0, header_count),
		   offsetof(JsonbContainer, children) + 2 * sizeof(JEntry));
	options->headers = headers;
}

/* ---- The checks ------------------------------------------------------------------ */

/* The text of a scalar, without the blanks that a reader does not see. */
static NpSpan
text_of(const JsonbValue *value)
{
	NpSpan		text;

	if (value->type == jbvBool)
		return value->val.boolean ? fuzz_text("true") : fuzz_text("false");
	if (value->type == jbvNumeric)
		return (NpSpan) {(char *) value->val.numeric, strlen((char *) value->val.numeric)};
	FUZZ_CHECK(value->type == jbvString);
	text = (NpSpan) {value->val.string.val, value->val.string.len};
	while (text.length > 0 && strchr(" \t", text.data[0]) != NULL && text.data[0] != '\0')
		text.data++, text.length--;
	while (text.length > 0 && strchr(" \t", text.data[text.length - 1]) != NULL)
		text.length--;
	return text;
}

/* The next line of a block must be this header. */
static void
check_next(NpSpan *block, const JsonbValue *key, const JsonbValue *value)
{
	NpSpan		name;
	NpSpan		text;

	FUZZ_CHECK(np_header_next(block, &name, &text));
	FUZZ_CHECK(name.length == key->val.string.len);
	/* the server's own ones are written as it does */
	FUZZ_CHECK(pg_strncasecmp(name.data, key->val.string.val, name.length) == 0);
	FUZZ_CHECK(fuzz_equal(text, text_of(value)));
}

/* The headers of the server come first, and of these the id last. */
enum
{
	OF_SERVER,
	ID,
	OF_USER
};

static int
rank_of(const JsonbValue *key)
{
	if (key->val.string.len < 5 || pg_strncasecmp(key->val.string.val, "Nats-", 5) != 0)
		return OF_USER;
	return key->val.string.len == 11 && pg_strncasecmp(key->val.string.val, "Nats-Msg-Id", 11) == 0 ? ID : OF_SERVER;
}

/* What the JSON object asked for of this rank, in its order; returns how many that are. */
static int
check_rank(NpSpan *block, int rank)
{
	int			count = 0;

	for (int i = 0; i < header_count; i++)
	{
		const JsonbContainer *array = values[i].val.binary.data;

		if (rank_of(&keys[i]) != rank)
			continue;
		if (values[i].type != jbvBinary)
			check_next(block, &keys[i], &values[i]), count++;
		else
			for (uint32 j = 0; j < array->children[1]; j++, count++)
				check_next(block, &keys[i], &values[array->children[0] + j]);
	}
	return count;
}

static void
check_name(NpSpan *block, const char *expected)
{
	NpSpan		name;
	NpSpan		text;

	FUZZ_CHECK(np_header_next(block, &name, &text));
	FUZZ_CHECK(fuzz_equal(name, fuzz_text(expected)));
}

/* All headers but those of arguments, of which the id is one. */
static void
check_headers(NpSpan block, bool has_id)
{
	check_rank(&block, OF_SERVER);
	if ((check_rank(&block, ID) == 0 && np_auto_msg_id) || has_id)
		check_name(&block, "Nats-Msg-Id");
	check_rank(&block, OF_USER);
	if (memcmp(block.data, "\r\n", 2) != 0)
		check_name(&block, "ce-id");
	FUZZ_CHECK(memcmp(block.data, "\r\n", 2) == 0);
}

/* No line more than headers; of those of the server there are only these, and each once. */
static int
count_headers(NpSpan block)
{
	static const char *const once[] = {"Nats-Msg-Id", "Nats-Expected-Stream", "Nats-TTL",
		"Nats-Expected-Last-Sequence", "Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Subject-Sequence-Subject",
		"Nats-Incr", "Nats-Rollup", "Nats-Schedule", "Nats-Schedule-TTL", "Nats-Schedule-Time-Zone", "Nats-Schedule-Next",
		"Nats-Schedule-Source", "Nats-Schedule-Target", "Nats-Schedule-Rollup", "Nats-Scheduler"
	};
	int			seen[lengthof(once)] = {0};
	int			count = 0;
	NpSpan		name;
	NpSpan		value;

	for (NpSpan rest = block; np_header_next(&rest, &name, &value); count++)
	{
		const char *text = pnstrdup(name.data, name.length);
		bool		is_known = false;

		for (int i = 0; i < lengthof(once); i++)
		{
			if (pg_strcasecmp(text, once[i]) != 0)
				continue;
			FUZZ_CHECK(++seen[i] == 1 && strcmp(text, once[i]) == 0 && value.length > 0);
			is_known = true;
		}
		FUZZ_CHECK(is_known || pg_strncasecmp(text, "Nats-", 5) != 0);
	}
	return count;
}

static int
count_arguments(const NpMessageOptions *options)
{
	return (options->expect_stream.data != NULL) + options->has_expect_last_seq + options->has_expect_last_subject_seq + (options->ttl != NULL) +
		(options->increment != NULL) + (options->rollup.data != NULL) + (options->expect_subject.data != NULL);
}

static void
check_message(const NpMessage *message, const NpMessageOptions *options)
{
	NpSpan		block = message->headers;
	NpSpan		rest = block;
	NpSpan		skipped;

	FUZZ_CHECK(fuzz_is_inside(message->id, block) && fuzz_is_inside(message->expect_stream, block));
	FUZZ_CHECK(fuzz_equal(message->id, np_message_header(block, "Nats-Msg-Id")));
	FUZZ_CHECK(fuzz_equal(message->expect_stream, np_message_header(block, "Nats-Expected-Stream")));
	FUZZ_CHECK(message->needs >= NP_FEATURE_TTL || np_message_header(block, "Nats-TTL").data == NULL);
	if (block.data == NULL)
		return;
	FUZZ_CHECK(block.length <= NP_MAX_HEADERS_LENGTH && fuzz_begins(block, "NATS/1.0\r\n"));
	FUZZ_CHECK(memcmp(block.data + block.length - 4, "\r\n\r\n", 4) == 0);
	FUZZ_CHECK(fuzz_count(block, '\0') == 0 && fuzz_count(block, '\r') == fuzz_count(block, '\n'));
	FUZZ_CHECK(fuzz_count(block, '\n') == (size_t) count_headers(block) + 2);
	for (int i = count_arguments(options); i >= 0; i--)
		skipped = fuzz_take(&rest, '\n');
	FUZZ_CHECK(skipped.data[skipped.length - 1] == '\r');
	check_headers(rest, options->msg_id.data != NULL);
}

/* A block that somebody else has stored: it becomes JSON, whatever it is. */
static void
check_foreign_block(NpSpan block)
{
	FUZZ_CHECK(backend_is_json(np_message_headers_to_json(block)));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	NpSpan		input = fuzz_copy((NpSpan) {(const char *) data, size});
	NpMessageOptions options = {0};
	NpSpan		subject;
	jmp_buf		raised;

	check_foreign_block(input);
	take_input(input, &options, &subject);
	backend_catch = &raised;
	if (setjmp(raised) == 0)
	{
		NpMessage	message;

		np_message_build(&message, subject, fuzz_text("p"), &options);
		check_message(&message, &options);
	}
	backend_catch = NULL;
	fuzz_free(input);
	backend_free_all();
	return 0;
}
