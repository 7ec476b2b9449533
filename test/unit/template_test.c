/*
 * template_test.c
 *		Texts with names in them, and values as parts of subjects and headers.
 */
#include "unit.h"

#include "base/percent.h"
#include "change/template.h"

/* ---- Templates: each part as a letter for its kind, its text, and a bar --------- */

typedef struct TemplateCase
{
	const char *name;
	const char *template;
	const char *parts;
} TemplateCase;

static const TemplateCase templates[] = {
	{"empty", "", ""},
	{"text alone", "orders.new", "T:orders.new|"},
	{"a name alone", "{op}", "N:op|"},
	{"names and text", "{schema}.{table}.x", "N:schema|T:.|N:table|T:.x|"},
	{"names side by side", "{a}{b}", "N:a|N:b|"},
	{"a name with any bytes", "{Customer Id.*}", "N:Customer Id.*|"},
	{"an opening brace in a name", "{a{b}", "N:a{b|"},
	{"doubled braces", "{{a}}", "T:{|T:a|T:}|"},
	{"doubled braces around a name", "{{{a}}}", "T:{|N:a|T:}|"},
	{"doubled braces alone", "{{", "T:{|"},
	{"a quoted name", "{\"op\"}", "Q:op|"},
	{"a quoted name with braces", "{\"a}b{\"}.c", "Q:a}b{|T:.c|"},
	{"a quoted name with quotes", "{\"a\"\"b\"}", "Q:a\"\"b|"},
	{"a quoted name of quotes", "{\"\"\"\"}", "Q:\"\"|"},
	{"a quote in a name", "{a\"b}", "N:a\"b|"},

	{"not closed", "a{b", "T:a|P:has a \"{\" without a \"}\"|"},
	{"not closed at the end", "a{", "T:a|P:has a \"{\" without a \"}\"|"},
	{"closed, but not opened", "a}b", "T:a|P:has a \"}\" without a \"{\"|"},
	{"three closing braces", "}}}", "T:}|P:has a \"}\" without a \"{\"|"},
	{"an empty name", "{}", "P:has an empty name|"},
	{"an empty quoted name", "{\"\"}", "P:has an empty name|"},
	{"a quoted name without a quote", "{\"a}", "P:has a quoted name that is not closed|"},
	{"a quoted name without a brace", "{\"a\"", "P:has a quoted name that is not closed|"},
	{"a quoted name and more", "{\"a\"b}", "P:has a quoted name that is not closed|"},
	{"a quoted name that ends in a doubled quote", "{\"a\"\"}", "P:has a quoted name that is not closed|"},
	{"a quote alone", "{\"", "P:has a quoted name that is not closed|"},
};

static void
take_apart(const char *template, char *parts, size_t size)
{
	static const char letters[] = {
		[NP_PART_TEXT] = 'T', [NP_PART_NAME] = 'N', [NP_PART_QUOTED] = 'Q', [NP_PART_PROBLEM] = 'P'
	};
	char	   *copy = unit_copy(template, strlen(template));
	NpSpan		rest = {copy, strlen(template)};
	NpTemplatePart part;

	parts[0] = '\0';
	while ((part = np_template_next(&rest)).kind != NP_PART_END)
	{
		size_t		length = strlen(parts);

		snprintf(parts + length, size - length, "%c:%.*s|", letters[part.kind],
				 (int) part.text.length, part.text.data);
		if (part.kind == NP_PART_PROBLEM)
			break;
	}
	free(copy);
}

static void
test_templates(void)
{
	for (size_t i = 0; i < UNIT_COUNT(templates); i++)
	{
		char		parts[256];

		take_apart(templates[i].template, parts, sizeof(parts));
		CHECK_STR(parts, templates[i].parts);
		unit_case("template: %s", templates[i].name);
	}
}

static void
check_unquoted(const char *quoted, const char *expected)
{
	char		name[8];
	size_t		length = np_template_unquote((NpSpan) {quoted, strlen(quoted)}, name);

	CHECK_BYTES(name, length, expected, strlen(expected));
}

static void
quoted_names_lose_their_doubled_quotes(void)
{
	check_unquoted("a\"\"b", "a\"b");
	check_unquoted("\"\"", "\"");
	check_unquoted("abc", "abc");
}

/* ---- Values ------------------------------------------------------------------------ */

typedef struct ValueCase
{
	const char *name;
	const char *value;
	size_t		length;
	const char *token;
	const char *header;
} ValueCase;

static const ValueCase values[] = {
	{"empty", UNIT_TEXT(""), "%", ""},
	{"unreserved", UNIT_TEXT("AZaz09-_~"), "AZaz09-_~", "AZaz09-_~"},
	{"a dot", UNIT_TEXT("a.b"), "a%2Eb", "a.b"},
	{"wildcards and blanks", UNIT_TEXT("a.b > *"), "a%2Eb%20%3E%20%2A", "a.b%20>%20*"},
	{"a percent sign", UNIT_TEXT("%"), "%25", "%25"},
	{"what looks like NULL", UNIT_TEXT("%00"), "%2500", "%2500"},
	{"quotes", UNIT_TEXT("\"'"), "%22%27", "%22'"},
	{"CR LF", UNIT_TEXT("a\r\nb"), "a%0D%0Ab", "a%0D%0Ab"},
	{"a zero byte", "\0", 1, "%00", "%00"},
	{"DEL", UNIT_TEXT("\x7f"), "%7F", "%7F"},
	{"UTF-8", UNIT_TEXT("\xc3\xbc\xe2\x82\xac"), "%C3%BC%E2%82%AC", "%C3%BC%E2%82%AC"},
	{"the last byte", UNIT_TEXT("\xff"), "%FF", "%FF"},
};

static void
test_values(void)
{
	for (size_t i = 0; i < UNIT_COUNT(values); i++)
	{
		char	   *copy = unit_copy(values[i].value, values[i].length);
		NpSpan		value = {copy, values[i].length};
		char	   *out = malloc(NP_ENCODED_SIZE(values[i].length));

		size_t		length = np_encode_token(value, out);

		CHECK_BYTES(out, length, values[i].token, strlen(values[i].token));
		length = np_encode_header(value, out);
		CHECK_BYTES(out, length, values[i].header, strlen(values[i].header));
		unit_case("value: %s", values[i].name);
		free(out);
		free(copy);
	}
}

static void
null_is_a_token_that_no_value_has(void)
{
	char		out[NP_ENCODED_SIZE(0)];

	size_t		length = np_encode_token((NpSpan) {NULL, 0}, out);

	CHECK_BYTES(out, length, "%00", 3);
}

int
main(void)
{
	test_templates();
	RUN(quoted_names_lose_their_doubled_quotes);
	test_values();
	RUN(null_is_a_token_that_no_value_has);
	return unit_done();
}
