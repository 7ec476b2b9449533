/*
 * protocol_fuzz.c
 *		Whatever a server sends, and in whatever pieces it arrives, is read the same and never beyond its end.
 *
 * The input: 8 bytes that decide on the pieces, then what the server sends
 */
#include "fuzz.h"

#include "message/protocol.h"

/* An operation, by places in the stream. */
typedef struct Step
{
	NpParseResult result;
	NpOperation operation;
	size_t		start;
	size_t		consumed;
} Step;

static void
check_headers(NpSpan headers)
{
	NpSpan		rest = headers;
	NpSpan		name;
	NpSpan		value;

	while (np_header_next(&rest, &name, &value))
	{
		FUZZ_CHECK(fuzz_is_inside(name, headers) && fuzz_is_inside(value, headers));
		FUZZ_CHECK(fuzz_is_inside(rest, headers));
		FUZZ_CHECK(name.length > 0 && !fuzz_has_any(name, ":\n", 2) && fuzz_count(value, '\n') == 0);
	}
}

/* What is taken for a token of ours is exactly what we write. */
static void
check_token(NpSpan text)
{
	char		again[NP_TOKEN_LENGTH];
	uint64_t	token;

	if (np_token_decode(text, &token))
		FUZZ_CHECK(fuzz_equal((NpSpan) {again, np_token_encode(token, again)}, text));
}

static void
check_info(NpSpan text)
{
	NpSpan		json = fuzz_copy(text);
	int64_t		max_payload;
	int			major;
	int			minor;
	NpSpan		rest;
	NpSpan		url;

	if (np_info_max_payload(json, &max_payload))
		FUZZ_CHECK(max_payload > 0 && max_payload < INT32_MAX);
	FUZZ_CHECK(fuzz_is_inside(np_info_server_name(json), json));
	if (np_info_version(json, &major, &minor))
		FUZZ_CHECK(major >= 0 && minor >= 0);
	if (np_info_connect_urls(json, &rest))
		while (np_info_next_url(&rest, &url))
			FUZZ_CHECK(fuzz_is_inside(rest, json) && fuzz_is_inside(url, json) && fuzz_count(url, '"') == 0);
	fuzz_free(json);
}

static void
check_operation(const NpOperation *operation, NpSpan whole)
{
	FUZZ_CHECK(fuzz_is_inside(operation->subject, whole) && fuzz_is_inside(operation->text, whole));
	FUZZ_CHECK(fuzz_is_inside(operation->headers, whole) && fuzz_is_inside(operation->payload, whole));
	FUZZ_CHECK((operation->kind == NP_OP_MESSAGE) == (operation->subject.data != NULL));
	FUZZ_CHECK(!fuzz_has_any(operation->subject, " \t\n", 3) && fuzz_count(operation->text, '\n') == 0);
	FUZZ_CHECK(operation->status >= 0 && (operation->status == 0 || operation->headers.length > 8));
	if (operation->headers.data != NULL)
		FUZZ_CHECK(operation->payload.data == operation->headers.data + operation->headers.length);
	check_headers(operation->headers);
	check_token(operation->subject);
	if (operation->kind == NP_OP_INFO)
		check_info(operation->text);
}

/* An operation is its line, and a message's body and the line's end behind it. */
static void
check_extent(const NpOperation *operation, NpSpan whole)
{
	NpSpan		rest = whole;
	size_t		body = operation->headers.length + operation->payload.length + 2;

	(void) fuzz_take(&rest, '\n');
	if (operation->kind == NP_OP_MESSAGE)
		FUZZ_CHECK(rest.length == body && memcmp(rest.data + body - 2, "\r\n", 2) == 0);
	else
		FUZZ_CHECK(rest.length == 0);
}

/* The next operation in what has arrived from start on. */
static Step
next_step(NpSpan stream, size_t start, size_t arrived, size_t *needed)
{
	Step		step = {.start = start};
	NpSpan		buffer = fuzz_copy((NpSpan) {stream.data + start, arrived - start});
	NpSpan	   *spans[] = {&step.operation.subject, &step.operation.headers, &step.operation.payload,
	&step.operation.text};

	step.result = np_operation_parse(buffer.data, buffer.length, &step.operation, &step.consumed, needed);
	if (step.result == NP_PARSED)
	{
		FUZZ_CHECK(step.consumed > 0 && step.consumed <= buffer.length);
		check_operation(&step.operation, (NpSpan) {buffer.data, step.consumed});
		check_extent(&step.operation, (NpSpan) {buffer.data, step.consumed});
	}
	else if (step.result == NP_PARSE_INCOMPLETE)
		FUZZ_CHECK(*needed > buffer.length);

	for (size_t i = 0; i < UNIT_COUNT(spans); i++)
		if (spans[i]->data != NULL)
			spans[i]->data = stream.data + start + (spans[i]->data - buffer.data);
	fuzz_free(buffer);
	return step;
}

static bool
is_same(const Step *a, const Step *b)
{
	const NpOperation *x = &a->operation;
	const NpOperation *y = &b->operation;

	if (a->result != b->result || a->start != b->start)
		return false;
	return a->result != NP_PARSED ||
		(a->consumed == b->consumed && x->kind == y->kind && x->status == y->status &&
		 x->subject.data == y->subject.data && fuzz_equal(x->subject, y->subject) &&
		 x->headers.data == y->headers.data && fuzz_equal(x->headers, y->headers) &&
		 x->payload.data == y->payload.data && fuzz_equal(x->payload, y->payload) &&
		 x->text.data == y->text.data && fuzz_equal(x->text, y->text));
}

/* As connection.c reads: more of the stream when what is there is not enough. */
static Step
next_step_in_pieces(NpSpan stream, size_t start, size_t *arrived, uint64_t *random)
{
	size_t		promised = 0;
	size_t		needed;
	Step		step;

	for (;;)
	{
		step = next_step(stream, start, *arrived, &needed);
		if (step.result != NP_PARSE_INCOMPLETE || *arrived == stream.length)
			break;
		promised = needed;
		*arrived += 1 + unit_random(random) % 32;
		if (*arrived > stream.length)
			*arrived = stream.length;
	}
	FUZZ_CHECK(step.result != NP_PARSED || step.consumed >= promised);
	return step;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t	random;
	size_t		start = 0;
	size_t		arrived = 0;
	NpSpan		stream;

	if (size < sizeof(random))
		return 0;
	memcpy(&random, data, sizeof(random));
	random |= 1;
	stream = (NpSpan) {(const char *) data + sizeof(random), size - sizeof(random)};
	for (;;)
	{
		size_t		needed;
		Step		at_once = next_step(stream, start, stream.length, &needed);
		Step		in_pieces = next_step_in_pieces(stream, start, &arrived, &random);

		FUZZ_CHECK(is_same(&at_once, &in_pieces));
		if (at_once.result != NP_PARSED)
			break;
		start += at_once.consumed;
	}
	return 0;
}
