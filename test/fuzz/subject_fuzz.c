/*
 * subject_fuzz.c
 *		No text passes for a subject, a header name or a header value that is more than that on the wire.
 *
 * The input: INBOX PREFIX or LIST OF PATTERNS \n TEXT
 */
#include "fuzz.h"

#include "base/list.h"
#include "message/protocol.h"
#include "base/subject.h"

/* By the rules of the README, in other words than those of subject.c. */
static bool
is_subject(NpSpan text)
{
	size_t		dots = fuzz_count(text, '.');

	if (text.length == 0 || text.length > NP_MAX_SUBJECT_LENGTH)
		return false;
	for (char byte = 0; byte <= ' '; byte++)
		if (fuzz_has_any(text, &byte, 1))
			return false;
	if (fuzz_count(text, 0x7f) > 0)
		return false;
	for (size_t i = 0; i <= dots; i++)
	{
		NpSpan		token = fuzz_take(&text, '.');

		if (token.length == 0 || (token.length == 1 && (*token.data == '*' || *token.data == '>')))
			return false;
	}
	return true;
}

static bool
is_header_name(NpSpan text)
{
	for (size_t i = 0; i < text.length; i++)
		if (text.data[i] < '!' || text.data[i] > '~' || text.data[i] == ':')
			return false;
	return text.length > 0;
}

/* Is the first of two lists of tokens the beginning of the second? */
static bool
is_prefix(NpSpan prefix, NpSpan subject)
{
	char		texts[2][FUZZ_MAX_INPUT + 1];
	FuzzText	a = {texts[0], 0, sizeof(texts[0])};
	FuzzText	b = {texts[1], 0, sizeof(texts[1])};

	fuzz_append(&a, prefix);
	fuzz_append_string(&a, ".");
	fuzz_append(&b, subject);
	fuzz_append_string(&b, ".");
	return a.length <= b.length && memcmp(a.data, b.data, a.length) == 0;
}

/* By bytes, which is the same where wildcards are whole tokens. */
static bool
is_match(NpSpan pattern, NpSpan subject)
{
	size_t		at = 0;

	for (size_t i = 0; i < pattern.length; i++)
	{
		if (at == subject.length)
			return false;
		if (pattern.data[i] == '>')
			return true;
		if (pattern.data[i] == '*')
			at += fuzz_take(&(NpSpan) {subject.data + at, subject.length - at}, '.').length;
		else if (pattern.data[i] != subject.data[at++])
			return false;
	}
	return at == subject.length;
}

static void
check_patterns(NpSpan patterns, NpSpan subject)
{
	char		list[FUZZ_MAX_INPUT + 1];
	const char *rest = list;
	NpSpan		pattern;
	bool		found = false;
	int			position;

	snprintf(list, sizeof(list), "%.*s", (int) patterns.length, patterns.data);
	if (np_pattern_list_problem(list, &position) != NULL)
		return;
	while (np_list_next(&rest, &pattern))
	{
		FUZZ_CHECK(pattern.length > 0 && fuzz_count((NpSpan) {pattern.data, pattern.length - 1}, '>') == 0);
		found = found || is_match(pattern, subject);
	}
	FUZZ_CHECK(np_pattern_list_matches(list, subject) == found);
}

/* A server that has read what we write sends the message under the same subject, and nothing else. */
static void
check_message(NpSpan subject)
{
	char		room[FUZZ_MAX_INPUT + 32];
	FuzzText	text = {room, 0, sizeof(room)};
	NpOperation operation;
	size_t		consumed;
	size_t		needed;

	fuzz_append_string(&text, "MSG ");
	fuzz_append(&text, subject);
	fuzz_append_string(&text, " 1 2\r\nhi\r\n");
	FUZZ_CHECK(np_operation_parse(text.data, text.length, &operation, &consumed, &needed) == NP_PARSED);
	FUZZ_CHECK(consumed == text.length && operation.kind == NP_OP_MESSAGE);
	FUZZ_CHECK(fuzz_equal(operation.subject, subject) && operation.payload.length == 2);
}

/* The command is one line of so many words, and what follows it. */
static void
check_publication(NpSpan subject)
{
	NpPublication publication = {
		.subject = subject,
		.reply_prefix = {"_INBOX.x.", 9},
		.token = subject.length,
		.payload = {"hi", 2}
	};
	size_t		line;
	size_t		size = np_publication_size(&publication, &line);
	NpSpan		text = {malloc(size), size};

	np_publication_encode(&publication, (char *) text.data);
	FUZZ_CHECK(fuzz_count(text, '\n') == 2 && text.data[line - 1] == '\n');
	FUZZ_CHECK(fuzz_count((NpSpan) {text.data, line}, ' ') == 3);
	FUZZ_CHECK(memcmp(text.data + 4, subject.data, subject.length) == 0);
	fuzz_free(text);
}

/* One header that was accepted is read as that header, and as nothing more. */
static void
check_header(NpSpan name, NpSpan value)
{
	char		room[2 * FUZZ_MAX_INPUT + 32];
	FuzzText	text = {room, 0, sizeof(room)};
	NpSpan		rest;
	NpSpan		found;
	NpSpan		found_value;

	fuzz_append_string(&text, "NATS/1.0\r\n");
	fuzz_append(&text, name);
	fuzz_append_string(&text, ": ");
	fuzz_append(&text, value);
	fuzz_append_string(&text, "\r\n\r\n");
	rest = fuzz_span(&text);
	FUZZ_CHECK(np_header_next(&rest, &found, &found_value));
	FUZZ_CHECK(fuzz_equal(found, name));
	/* only blanks around it are lost */
	FUZZ_CHECK(found_value.length <= value.length);
	FUZZ_CHECK(!np_header_next(&rest, &found, &found_value));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	NpSpan		input = {(const char *) data, size};
	NpSpan		prefix = fuzz_copy(fuzz_take(&input, '\n'));
	NpSpan		text = fuzz_copy(input);
	size_t		position;
	bool		accepted = np_subject_check(text, &position) == NP_TEXT_OK;

	FUZZ_CHECK(accepted == is_subject(text));
	FUZZ_CHECK(position <= text.length);
	FUZZ_CHECK(np_subject_is_reserved(text, prefix) ==
			   (is_prefix(fuzz_text("$JS"), text) || is_prefix(fuzz_text("$SYS"), text) ||
				is_prefix(prefix, text)));
	if (accepted)
	{
		check_message(text);
		check_publication(text);
		check_patterns(prefix, text);
	}

	accepted = np_header_name_check(text, &position) == NP_TEXT_OK;
	FUZZ_CHECK(accepted == is_header_name(text));
	FUZZ_CHECK(position <= text.length);
	if (accepted)
		check_header(text, fuzz_text("v"));
	accepted = np_header_value_check(text, &position) == NP_TEXT_OK;
	FUZZ_CHECK(accepted == !fuzz_has_any(text, "\r\n", 3));
	if (accepted)
		check_header(fuzz_text("Name"), text);
	FUZZ_CHECK(position <= text.length);
	fuzz_free(prefix);
	fuzz_free(text);
	return 0;
}
