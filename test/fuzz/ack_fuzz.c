/*
 * ack_fuzz.c
 *		Only what is an acknowledgment passes for one, and both parsers of it agree.
 *
 * The input: STATUS \n PAYLOAD
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "backend.h"
#include "fuzz.h"
#include "message/puback.h"

/* As in puback.c. */
#define MAX_NAME	256

static NpReply
parse(int status, NpSpan payload)
{
	NpOperation operation = {.kind = NP_OP_MESSAGE,.status = status,.payload = payload};
	NpReply		reply;

	np_reply_parse(&operation, &reply);
	return reply;
}

static void
check_failure(const NpFailure *failure)
{
	FUZZ_CHECK(failure->fault > NP_FAULT_NONE && failure->fault <= NP_FAULT_JETSTREAM);
	FUZZ_CHECK(strlen(failure->text) > 0 && strlen(failure->text) < 1100);
	if (backend_encoding == PG_UTF8)
		FUZZ_CHECK(pg_verify_mbstr(PG_UTF8, failure->text, strlen(failure->text), true));
}

/* What is kept of a name is a start of it, and not too much. */
static bool
is_kept_of(NpSpan kept, NpSpan name)
{
	if (name.length <= MAX_NAME)
		return fuzz_equal(kept, name);
	return kept.length <= MAX_NAME && kept.length > MAX_NAME - 4 && memcmp(kept.data, name.data, kept.length) == 0;
}

static void
skip_blanks(NpSpan *rest)
{
	while (rest->length > 0 && memchr(" \t\r\n", *rest->data, 4) != NULL)
		rest->data++, rest->length--;
}

/* Has a JSON object without escapes this field, at its top, with a value that begins with one of these bytes? */
static bool
has_field(NpSpan json, const char *name, const char *first)
{
	int			depth = 0;

	while (json.length > 0)
	{
		char		byte = *json.data++;
		NpSpan		string;

		json.length--;
		depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
		if (byte != '"')
			continue;
		string = fuzz_take(&json, '"');
		skip_blanks(&json);
		if (depth != 1 || json.length == 0 || *json.data != ':' || !fuzz_equal(string, fuzz_text(name)))
			continue;
		json.data++, json.length--;
		skip_blanks(&json);
		if (json.length > 0 && strchr(first, *json.data) != NULL)
			return true;
	}
	return false;
}

static void
check_reply(const NpReply *reply, int status, NpSpan payload)
{
	bool		is_empty = payload.length == 0;

	FUZZ_CHECK((reply->kind == NP_REPLY_NO_RESPONDERS) == (is_empty && status == 503));
	FUZZ_CHECK((reply->kind == NP_REPLY_STAGED) == (is_empty && status == 0));
	if (reply->kind == NP_REPLY_RETRY || reply->kind == NP_REPLY_FAILURE)
		check_failure(&reply->failure);
	if (reply->kind != NP_REPLY_ACK)
		return;
	FUZZ_CHECK(reply->failure.fault == NP_FAULT_NONE && reply->failure.text == NULL);
	FUZZ_CHECK(reply->ack.stream.data != NULL && reply->ack.sequence > 0);
	/* it becomes a bigint */
	FUZZ_CHECK(reply->ack.sequence <= PG_INT64_MAX);
	/* and that a numeric */
	FUZZ_CHECK(reply->ack.value.data == NULL ||
			   (reply->ack.value.length > 0 && strspn(reply->ack.value.data, "-0123456789") >= reply->ack.value.length));
	if (fuzz_count(payload, '\\') == 0)
		FUZZ_CHECK(has_field(payload, "stream", "\"") && has_field(payload, "seq", "123456789"));
}

/* np_puback_parse leaves what ends with a line feed to the JSON parser, which then must say the same. */
static void
check_both_parsers(NpSpan payload, const NpPubAck *ack)
{
	char		room[FUZZ_MAX_INPUT + 1];
	FuzzText	text = {room, 0, sizeof(room)};
	NpReply		reply;

	FUZZ_CHECK(fuzz_is_inside(ack->stream, payload) && fuzz_is_inside(ack->domain, payload) && fuzz_is_inside(ack->value, payload));
	if (!pg_verify_mbstr(PG_UTF8, payload.data, payload.length, true))
		return;
	fuzz_append(&text, payload);
	fuzz_append_string(&text, "\n");
	reply = parse(0, fuzz_span(&text));
	FUZZ_CHECK(reply.kind == (ack->sequence > 0 ? NP_REPLY_ACK : NP_REPLY_RETRY));
	FUZZ_CHECK(is_kept_of(reply.ack.stream, ack->stream) && is_kept_of(reply.ack.domain, ack->domain));
	FUZZ_CHECK(reply.ack.sequence == ack->sequence && reply.ack.duplicate == ack->duplicate);
}

static void
check_api_answer(NpSpan payload, const NpReply *reply)
{
	NpFailure	failure = {0};
	bool		is_error = np_api_error_parse(payload, &failure);

	if (is_error)
		check_failure(&failure);
	if (reply->error_code != 0)
		FUZZ_CHECK(is_error && failure.fault == reply->failure.fault);
	if (reply->kind == NP_REPLY_ACK && pg_verify_mbstr(PG_UTF8, payload.data, payload.length, true))
		FUZZ_CHECK(!is_error);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int encodings[] = {PG_UTF8, PG_LATIN1};
	NpSpan		input = {(const char *) data, size};
	char		digits[16];
	int			status;
	NpSpan		payload;
	NpPubAck	ack;

	snprintf(digits, sizeof(digits), "%.*s", (int) fuzz_take(&input, '\n').length, (const char *) data);
	status = atoi(digits);
	payload = fuzz_copy(input);
	for (size_t i = 0; i < lengthof(encodings); i++)
	{
		NpReply		reply;

		backend_encoding = encodings[i];
		reply = parse(status, payload);
		check_reply(&reply, status, payload);
		check_api_answer(payload, &reply);
	}
	if (np_puback_parse(payload, &ack))
		check_both_parsers(payload, &ack);
	fuzz_free(payload);
	backend_free_all();
	return 0;
}
