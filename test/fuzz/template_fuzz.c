/*
 * template_fuzz.c
 *		Whatever a value is, it is one token where a template has a name, and can be read back.
 *
 * The input: VALUE \n TEMPLATE
 */
#include "fuzz.h"

#include "base/server_url.h"
#include "base/subject.h"
#include "base/percent.h"
#include "change/template.h"

/* Half of the input is the value, three times as long as a token, and the other half is names, of three bytes each. */
#define MAX_TEXT	(FUZZ_MAX_INPUT * FUZZ_MAX_INPUT)

/* np_encode_token and np_encode_header write what np_url_decode reads, but for NULL and "". */
static void
check_encoded(NpSpan encoded, NpSpan value)
{
	char	   *decoded = malloc(encoded.length + 1);

	if (fuzz_count(value, '\0') == 0)
	{
		FUZZ_CHECK(np_url_decode(encoded, decoded));
		FUZZ_CHECK(fuzz_equal((NpSpan) {decoded, strlen(decoded)}, value));
	}
	for (size_t i = 0; i < encoded.length; i++)
		FUZZ_CHECK(encoded.data[i] > ' ' && encoded.data[i] < 0x7f);
	free(decoded);
}

static NpSpan
encode(NpEncoder encoder, NpSpan value)
{
	char	   *out = malloc(NP_ENCODED_SIZE(value.length));

	return (NpSpan) {out, encoder(value, out)};
}

static void
check_token(NpSpan token, NpSpan value)
{
	size_t		position;

	FUZZ_CHECK(fuzz_count(token, '.') == 0);
	if (token.length <= NP_MAX_SUBJECT_LENGTH)
		FUZZ_CHECK(np_subject_check(token, &position) == NP_TEXT_OK);
	if (value.length > 0)
		check_encoded(token, value);
	else
		FUZZ_CHECK(token.length == 1 && token.data[0] == '%');
}

/* Unquoted, and quoted again. */
static void
check_quoted(NpSpan quoted)
{
	char	   *name = malloc(quoted.length);
	size_t		length = np_template_unquote(quoted, name);
	char		room[FUZZ_MAX_INPUT];
	FuzzText	again = {room, 0, sizeof(room)};

	for (size_t i = 0; i < length; i++)
		fuzz_append(&again, name[i] == '"' ? (NpSpan) {"\"\"", 2} : (NpSpan) {name + i, 1});
	FUZZ_CHECK(fuzz_equal(fuzz_span(&again), quoted));
	free(name);
}

/* What a part was written as: the parts are the whole template. */
static void
append_source(FuzzText * source, const NpTemplatePart *part)
{
	bool		is_text = part->kind == NP_PART_TEXT;
	bool		is_brace = is_text && fuzz_has_any(part->text, "{}", 2);

	FUZZ_CHECK(!is_brace || part->text.length == 1);
	fuzz_append_string(source, is_text ? "" : part->kind == NP_PART_NAME ? "{" : "{\"");
	fuzz_append(source, part->text);
	if (is_brace)
		fuzz_append(source, part->text);
	fuzz_append_string(source, is_text ? "" : part->kind == NP_PART_NAME ? "}" : "\"}");
}

/* The template with value for each name: false, it has a problem. */
static bool
expand(NpSpan template, NpSpan value, FuzzText * text)
{
	char		room[FUZZ_MAX_INPUT];
	FuzzText	source = {room, 0, sizeof(room)};
	NpSpan		rest = template;
	NpTemplatePart part;

	text->length = 0;
	while ((part = np_template_next(&rest)).kind != NP_PART_END)
	{
		if (part.kind == NP_PART_PROBLEM)
		{
			FUZZ_CHECK(part.text.length > 0 && !fuzz_is_inside(part.text, template));
			return false;
		}
		FUZZ_CHECK(part.text.length > 0 && fuzz_is_inside(part.text, template));
		FUZZ_CHECK(fuzz_is_inside(rest, template));
		if (part.kind == NP_PART_QUOTED)
			check_quoted(part.text);
		append_source(&source, &part);
		fuzz_append(text, part.kind == NP_PART_TEXT ? part.text : value);
	}
	FUZZ_CHECK(fuzz_equal(fuzz_span(&source), template));
	return true;
}

/* A subject that is one with "x" for each name is one with any value, of as many tokens. */
static void
check_template(NpSpan template, NpSpan token)
{
	static char rooms[2][MAX_TEXT];
	FuzzText	plain = {rooms[0], 0, MAX_TEXT};
	FuzzText	filled = {rooms[1], 0, MAX_TEXT};
	size_t		position;

	if (!expand(template, (NpSpan) {"x", 1}, &plain))
		return;
	FUZZ_CHECK(expand(template, token, &filled));
	if (np_subject_check(fuzz_span(&plain), &position) != NP_TEXT_OK || filled.length > NP_MAX_SUBJECT_LENGTH)
		return;
	FUZZ_CHECK(np_subject_check(fuzz_span(&filled), &position) == NP_TEXT_OK);
	FUZZ_CHECK(fuzz_count(fuzz_span(&filled), '.') == fuzz_count(fuzz_span(&plain), '.'));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	NpSpan		input = {(const char *) data, size};
	NpSpan		value = fuzz_copy(fuzz_take(&input, '\n'));
	NpSpan		template = fuzz_copy(input);
	NpSpan		token = encode(np_encode_token, value);
	NpSpan		header = encode(np_encode_header, value);

	check_token(token, value);
	check_encoded(header, value);
	check_template(template, token);
	fuzz_free(value);
	fuzz_free(template);
	fuzz_free(token);
	fuzz_free(header);
	return 0;
}
