/*
 * subject_test.c
 *		What may be a subject, a pattern of subjects, a header name, a header value.
 */
#include "unit.h"

#include "base/subject.h"

/* Run a check on a copy of exactly that size. */
static NpTextProblem
check(NpTextProblem (*function) (NpSpan, size_t *), const char *text, size_t length, size_t *position)
{
	char	   *copy = unit_copy(text, length);
	NpTextProblem problem;

	*position = (size_t) -1;
	problem = function((NpSpan) {copy, length}, position);
	free(copy);
	return problem;
}

/* ---- Subjects --------------------------------------------------------- */

typedef struct TextCase
{
	const char *name;
	const char *text;
	size_t		length;
	NpTextProblem problem;
	int			position;		/* -1: has none, or not asked for */
} TextCase;

static const TextCase subjects[] = {
	{"one token", UNIT_TEXT("orders"), NP_TEXT_OK, -1},
	{"one byte", UNIT_TEXT("a"), NP_TEXT_OK, -1},
	{"three tokens", UNIT_TEXT("orders.eu.new"), NP_TEXT_OK, -1},
	{"tokens of one byte", UNIT_TEXT("a.b.c.d"), NP_TEXT_OK, -1},
	{"UTF-8", UNIT_TEXT("gr\xc3\xb6\xc3\x9f""e.\xe6\x97\xa5\xe6\x9c\xac"), NP_TEXT_OK, -1},
	{"a byte that is never UTF-8", UNIT_TEXT("a.\xff"), NP_TEXT_OK, -1},
	{"dollar signs, dashes and the like", UNIT_TEXT("$KV.my-bucket.a_b=c/d\\e:f\"g'h"), NP_TEXT_OK, -1},

	{"empty", UNIT_TEXT(""), NP_TEXT_EMPTY, -1},

	{"a dot alone", UNIT_TEXT("."), NP_TEXT_EMPTY_TOKEN, 0},
	{"a dot at the start", UNIT_TEXT(".a"), NP_TEXT_EMPTY_TOKEN, 0},
	{"a dot at the end", UNIT_TEXT("a."), NP_TEXT_EMPTY_TOKEN, 2},
	{"two dots", UNIT_TEXT("a..b"), NP_TEXT_EMPTY_TOKEN, 2},
	{"two dots further on", UNIT_TEXT("abc.def..g"), NP_TEXT_EMPTY_TOKEN, 8},
	{"two dots alone", UNIT_TEXT(".."), NP_TEXT_EMPTY_TOKEN, 0},

	{"star alone", UNIT_TEXT("*"), NP_TEXT_WILDCARD, 0},
	{"star as the first token", UNIT_TEXT("*.a"), NP_TEXT_WILDCARD, 0},
	{"star as a token in the middle", UNIT_TEXT("a.*.b"), NP_TEXT_WILDCARD, 2},
	{"star as the last token", UNIT_TEXT("ab.*"), NP_TEXT_WILDCARD, 3},
	{"angle bracket alone", UNIT_TEXT(">"), NP_TEXT_WILDCARD, 0},
	{"angle bracket as the first token", UNIT_TEXT(">.a"), NP_TEXT_WILDCARD, 0},
	{"angle bracket as the last token", UNIT_TEXT("a.>"), NP_TEXT_WILDCARD, 2},
	{"angle bracket as a token in the middle", UNIT_TEXT("a.>.b"), NP_TEXT_WILDCARD, 2},
	{"star before other bytes", UNIT_TEXT("*a"), NP_TEXT_OK, -1},
	{"star after other bytes", UNIT_TEXT("a*"), NP_TEXT_OK, -1},
	{"star between other bytes", UNIT_TEXT("x.a*b.y"), NP_TEXT_OK, -1},
	{"two stars", UNIT_TEXT("**"), NP_TEXT_OK, -1},
	{"two angle brackets", UNIT_TEXT("a.>>"), NP_TEXT_OK, -1},
	{"star and angle bracket", UNIT_TEXT("*>"), NP_TEXT_OK, -1},

	{"space at the start", UNIT_TEXT(" a"), NP_TEXT_BAD_BYTE, 0},
	{"space at the end", UNIT_TEXT("a.b "), NP_TEXT_BAD_BYTE, 3},
	{"space alone", UNIT_TEXT(" "), NP_TEXT_BAD_BYTE, 0},
	{"tab", UNIT_TEXT("a\tb"), NP_TEXT_BAD_BYTE, 1},
	{"CR LF and a forged message", UNIT_TEXT("a 0\r\n\r\nPUB b 0\r\n\r\n"), NP_TEXT_BAD_BYTE, 1},
	{"CR LF without a space", UNIT_TEXT("a\r\nPING\r\n"), NP_TEXT_BAD_BYTE, 1},
	{"LF alone", UNIT_TEXT("a\nb"), NP_TEXT_BAD_BYTE, 1},
	{"NUL in the middle", UNIT_TEXT("a\0b"), NP_TEXT_BAD_BYTE, 1},
	{"NUL at the end", UNIT_TEXT("ab\0"), NP_TEXT_BAD_BYTE, 2},
	{"DEL", UNIT_TEXT("ab.\x7f"), NP_TEXT_BAD_BYTE, 3},

	{"the first problem counts: wildcard, then bad byte", UNIT_TEXT("*. "), NP_TEXT_WILDCARD, 0},
	{"the first problem counts: bad byte, then empty token", UNIT_TEXT("a b..c"), NP_TEXT_BAD_BYTE, 1},
	{"the first problem counts: empty token, then wildcard", UNIT_TEXT("a..*"), NP_TEXT_EMPTY_TOKEN, 2},
	{"a bad byte after a star is no wildcard", UNIT_TEXT("* "), NP_TEXT_BAD_BYTE, 1},
};

static void
test_table(const char *what, const TextCase *cases, size_t count,
		   NpTextProblem (*function) (NpSpan, size_t *))
{
	for (size_t i = 0; i < count; i++)
	{
		size_t		position;

		CHECK_INT(check(function, cases[i].text, cases[i].length, &position), cases[i].problem);
		if (cases[i].position >= 0)
			CHECK_INT(position, cases[i].position);
		unit_case("%s: %s", what, cases[i].name);
	}
}

/* "xyz" with each of the 256 bytes at a place, and what must come of it. */
static void
each_byte_at(size_t place, NpTextProblem (*function) (NpSpan, size_t *),
			 NpTextProblem (*expected) (unsigned char byte, size_t place, size_t *position))
{
	for (int byte = 0; byte < 256; byte++)
	{
		char		text[3] = {'x', 'y', 'z'};
		size_t		position;
		size_t		expected_position = 0;
		NpTextProblem problem;
		int			failed = unit_failed_checks;

		text[place] = (char) byte;
		problem = expected((unsigned char) byte, place, &expected_position);
		CHECK_INT(check(function, text, 3, &position), problem);
		if (problem != NP_TEXT_OK)
			CHECK_INT(position, expected_position);
		if (unit_failed_checks > failed)
			printf("# byte 0x%02x\n", byte);
	}
}

static NpTextProblem
expected_in_subject(unsigned char byte, size_t place, size_t *position)
{
	*position = place;
	if (byte <= 0x20 || byte == 0x7f)
		return NP_TEXT_BAD_BYTE;
	if (byte != '.' || place == 1)
		return NP_TEXT_OK;
	*position = place == 0 ? 0 : 3;
	return NP_TEXT_EMPTY_TOKEN;
}

static NpTextProblem
expected_in_header_name(unsigned char byte, size_t place, size_t *position)
{
	*position = place;
	return byte > 0x20 && byte < 0x7f && byte != ':' ? NP_TEXT_OK : NP_TEXT_BAD_BYTE;
}

static NpTextProblem
expected_in_header_value(unsigned char byte, size_t place, size_t *position)
{
	*position = place;
	return byte != '\r' && byte != '\n' && byte != 0 ? NP_TEXT_OK : NP_TEXT_BAD_BYTE;
}

static void
test_each_byte(void)
{
	static const char *const places[] = {"at the start", "in the middle", "at the end"};

	for (size_t i = 0; i < 3; i++)
	{
		each_byte_at(i, np_subject_check, expected_in_subject);
		unit_case("subject: each byte %s", places[i]);
		each_byte_at(i, np_header_name_check, expected_in_header_name);
		unit_case("header name: each byte %s", places[i]);
		each_byte_at(i, np_header_value_check, expected_in_header_value);
		unit_case("header value: each byte %s", places[i]);
	}
}

static void
subject_of_each_byte_alone(void)
{
	for (int byte = 0; byte < 256; byte++)
	{
		char		text = (char) byte;
		size_t		position;
		NpTextProblem expected = NP_TEXT_OK;

		if (byte <= 0x20 || byte == 0x7f)
			expected = NP_TEXT_BAD_BYTE;
		else if (byte == '.')
			expected = NP_TEXT_EMPTY_TOKEN;
		else if (byte == '*' || byte == '>')
			expected = NP_TEXT_WILDCARD;
		CHECK_INT(check(np_subject_check, &text, 1, &position), expected);
		if (expected != NP_TEXT_OK)
			CHECK_INT(position, 0);
	}
}

/* The rules once more, token by token instead of byte by byte. */
static bool
is_valid_subject(const char *text, size_t length)
{
	size_t		start = 0;

	for (;;)
	{
		size_t		end = start;

		while (end < length && text[end] != '.')
			if (text[end++] == ' ')
				return false;
		if (end == start)
			return false;
		if (end == start + 1 && (text[start] == '*' || text[start] == '>'))
			return false;
		if (end == length)
			return true;
		start = end + 1;
	}
}

static void
subject_all_short_combinations(void)
{
	static const char alphabet[] = {'a', '.', '*', '>', ' '};
	int			combinations = 1;

	for (size_t length = 1; length <= 6; length++)
	{
		combinations *= 5;
		for (int n = 0; n < combinations; n++)
		{
			char		text[6];
			size_t		position;
			int			rest = n;
			NpTextProblem problem;

			for (size_t i = 0; i < length; i++, rest /= 5)
				text[i] = alphabet[rest % 5];
			problem = check(np_subject_check, text, length, &position);
			if ((problem == NP_TEXT_OK) == is_valid_subject(text, length) && position <= length)
				continue;
			CHECK(false);
			printf("# \"%.*s\": %d\n", (int) length, text, problem);
		}
	}
}

static void
test_subject_length(void)
{
	char	   *text = malloc(NP_MAX_SUBJECT_LENGTH + 2);
	size_t		position;

	CHECK_INT(NP_MAX_SUBJECT_LENGTH, 4000);
	memset(text, 'a', NP_MAX_SUBJECT_LENGTH + 2);
	CHECK_INT(check(np_subject_check, text, 3999, &position), NP_TEXT_OK);
	unit_case("subject: 3999 bytes");
	CHECK_INT(check(np_subject_check, text, 4000, &position), NP_TEXT_OK);
	unit_case("subject: 4000 bytes");
	CHECK_INT(check(np_subject_check, text, 4001, &position), NP_TEXT_TOO_LONG);
	unit_case("subject: 4001 bytes");

	text[4000] = ' ';
	CHECK_INT(check(np_subject_check, text, 4001, &position), NP_TEXT_TOO_LONG);
	unit_case("subject: too long comes before a bad byte");
	text[3999] = '.';
	CHECK_INT(check(np_subject_check, text, 4000, &position), NP_TEXT_EMPTY_TOKEN);
	CHECK_INT(position, 4000);
	unit_case("subject: 4000 bytes, the last of them a dot");
	text[3999] = '\x7f';
	CHECK_INT(check(np_subject_check, text, 4000, &position), NP_TEXT_BAD_BYTE);
	CHECK_INT(position, 3999);
	unit_case("subject: 4000 bytes, the last of them bad");
	text[3998] = '.';
	text[3999] = '*';
	CHECK_INT(check(np_subject_check, text, 4000, &position), NP_TEXT_WILDCARD);
	CHECK_INT(position, 3999);
	unit_case("subject: 4000 bytes, the last token a wildcard");
	for (size_t i = 1; i < 4000; i += 2)
		text[i] = '.';
	text[3998] = text[3999] = 'a';
	CHECK_INT(check(np_subject_check, text, 4000, &position), NP_TEXT_OK);
	unit_case("subject: 2000 tokens");

	/* a control line with the longest subject and the longest numbers is still short enough */
	CHECK(NP_MAX_CONTROL_LINE == 4096);
	CHECK(strlen("HPUB ") + NP_MAX_SUBJECT_LENGTH + strlen(" 65536 67174400\r\n") <= NP_MAX_CONTROL_LINE);
	unit_case("subject: the longest leaves room for the rest of the line");
	free(text);
}

/* ---- Reserved subjects ------------------------------------------------- */

static const struct
{
	const char *subject;
	const char *prefix;
	bool		reserved;
}			reserved[] = {
	{"$JS", "_INBOX", true},
	{"$JS.API.STREAM.DELETE.S", "_INBOX", true},
	{"$JS.ACK.S.C.1.2.3.4.5", "_INBOX", true},
	{"$JS.a", "_INBOX", true},
	{"$JSX", "_INBOX", false},
	{"$JSX.a", "_INBOX", false},
	{"$J", "_INBOX", false},
	{"$js.API", "_INBOX", false},
	{"a.$JS.API", "_INBOX", false},
	{"JS.API", "_INBOX", false},
	{"$SYS", "_INBOX", true},
	{"$SYS.REQ.SERVER.PING", "_INBOX", true},
	{"$SYSTEM.a", "_INBOX", false},
	{"$SY", "_INBOX", false},
	{"$KV.bucket.key", "_INBOX", false},
	{"$O.bucket.C.a", "_INBOX", false},
	{"$", "_INBOX", false},
	{"_INBOX", "_INBOX", true},
	{"_INBOX.abc.1", "_INBOX", true},
	{"_INBOXES.a", "_INBOX", false},
	{"_INBO", "_INBOX", false},
	{"a._INBOX.b", "_INBOX", false},
	{"_INBOX.abc", "_PG", false},
	{"_PG.abc", "_PG", true},
	{"_PG", "_PG", true},
	{"_PGX.abc", "_PG", false},
	{"acks.pg.abc.1", "acks.pg", true},
	{"acks.pg", "acks.pg", true},
	{"acks.pgx", "acks.pg", false},
	{"acks.p", "acks.pg", false},
	{"acks.q.pg", "acks.pg", false},
	{"acks", "acks.pg", false},
	{"x", "x", true},
	{"x.y", "x", true},
	{"xy", "x", false},
};

static void
test_reserved(void)
{
	for (size_t i = 0; i < UNIT_COUNT(reserved); i++)
	{
		NpSpan		subject = {NULL, strlen(reserved[i].subject)};
		NpSpan		prefix = {NULL, strlen(reserved[i].prefix)};
		char	   *subject_copy = unit_copy(reserved[i].subject, subject.length);
		char	   *prefix_copy = unit_copy(reserved[i].prefix, prefix.length);

		subject.data = subject_copy;
		prefix.data = prefix_copy;
		CHECK_INT(np_subject_is_reserved(subject, prefix), reserved[i].reserved);
		free(subject_copy);
		free(prefix_copy);
		unit_case("reserved: %s is%s, with inboxes under %s", reserved[i].subject,
				  reserved[i].reserved ? "" : " not", reserved[i].prefix);
	}
}

/* ---- Patterns ------------------------------------------------------------ */

static const struct
{
	const char *list;
	int			position;		/* of the bad one; 0: all are good */
	const char *problem;
}			pattern_lists[] = {
	{"a", 0, NULL},
	{"orders.eu.new", 0, NULL},
	{"*", 0, NULL},
	{">", 0, NULL},
	{"*.*", 0, NULL},
	{"*.>", 0, NULL},
	{"a.*.b.>", 0, NULL},
	{"$JS.>", 0, NULL},
	{"gr\xc3\xb6\xc3\x9f""e.\xe6\x97\xa5", 0, NULL},
	{"a,b", 0, NULL},
	{" a.> ,\t*.b\n", 0, NULL},

	{"", 1, "it is empty"},
	{" ", 1, "it is empty"},
	{",", 1, "it is empty"},
	{"a,", 2, "it is empty"},
	{"a,,b", 2, "it is empty"},
	{"a,b, ", 3, "it is empty"},
	{".", 1, "it has an empty token"},
	{".a", 1, "it has an empty token"},
	{"a.", 1, "it has an empty token"},
	{"a..b", 1, "it has an empty token"},
	{"a.>.", 1, "\">\" is not its last token"},
	{">.a", 1, "\">\" is not its last token"},
	{"a.>.b", 1, "\">\" is not its last token"},
	{">.>", 1, "\">\" is not its last token"},
	{"a*", 1, "a wildcard is not a token of its own"},
	{"*a", 1, "a wildcard is not a token of its own"},
	{"**", 1, "a wildcard is not a token of its own"},
	{"a.b*c.d", 1, "a wildcard is not a token of its own"},
	{"a.>>", 1, "a wildcard is not a token of its own"},
	{"a>", 1, "a wildcard is not a token of its own"},
	{"a.*>", 1, "a wildcard is not a token of its own"},
	{"a b", 1, "it has a blank or a control character"},
	{"a,b\tc", 2, "it has a blank or a control character"},
	{"a\r\nb", 1, "it has a blank or a control character"},
	{"a\x7f", 1, "it has a blank or a control character"},
	{"a,b.>,c.>.d,e f", 3, "\">\" is not its last token"},
};

static void
test_pattern_lists(void)
{
	for (size_t i = 0; i < UNIT_COUNT(pattern_lists); i++)
	{
		const char *list = pattern_lists[i].list;
		char	   *copy = unit_copy(list, strlen(list) + 1);
		int			position = 0;

		CHECK_STR(np_pattern_list_problem(copy, &position), pattern_lists[i].problem);
		if (pattern_lists[i].problem != NULL)
			CHECK_INT(position, pattern_lists[i].position);
		free(copy);
		unit_case("patterns %s: %s", unit_quote(list, strlen(list)),
				  pattern_lists[i].problem != NULL ? pattern_lists[i].problem : "good");
	}
}

static bool
list_matches(const char *list, const char *subject)
{
	size_t		length = strlen(subject);
	char	   *list_copy = unit_copy(list, strlen(list) + 1);
	char	   *subject_copy = unit_copy(subject, length);
	bool		result = np_pattern_list_matches(list_copy, (NpSpan) {subject_copy, length});

	free(list_copy);
	free(subject_copy);
	return result;
}

/* As a NATS server takes them for subscriptions. */
static const struct
{
	const char *list;
	const char *subject;
	bool		matches;
}			matches[] = {
	{"a", "a", true},
	{"a", "b", false},
	{"a", "A", false},
	{"a", "ab", false},
	{"ab", "a", false},
	{"a", "a.b", false},
	{"a.b", "a", false},
	{"a.b", "a.b", true},
	{"a.b", "a.c", false},
	{"a.b", "ab", false},

	{"*", "a", true},
	{"*", "abc", true},
	{"*", "a.b", false},
	{"*.*", "a", false},
	{"*.*", "a.b", true},
	{"*.*", "a.b.c", false},
	{"a.*", "a", false},
	{"a.*", "a.b", true},
	{"a.*", "a.b.c", false},
	{"a.*", "b.b", false},
	{"*.b", "a.b", true},
	{"*.b", "b", false},
	{"a.*.c", "a.b.c", true},
	{"a.*.c", "a.c", false},
	{"a.*.c", "a.b.b.c", false},

	{">", "a", true},
	{">", "a.b.c", true},
	{"a.>", "a", false},
	{"a.>", "a.b", true},
	{"a.>", "a.b.c.d", true},
	{"a.>", "ab.c", false},
	{"a.>", "b.a", false},
	{"*.>", "a", false},
	{"*.>", "a.b", true},
	{"*.>", "a.b.c", true},
	{"a.*.>", "a.b", false},
	{"a.*.>", "a.b.c", true},

	/* in a subject they are bytes like others */
	{"a.b*", "a.b*", true},
	{"a.b", "a.b*", false},
	{"a.*", "a.b*", true},
	{"a.*", "a.x>y", true},
	{"a.b", "a.*", false},
	{"a.b.c", "a.>", false},

	{"gr\xc3\xb6\xc3\x9f""e.*", "gr\xc3\xb6\xc3\x9f""e.\xe6\x97\xa5", true},
	{"gr\xc3\xb6\xc3\x9f""e", "gr\xc3\xb6\xc3\x9f", false},
	{"a.%2E", "a.%2e", false},

	{"a,b", "a", true},
	{"a,b", "b", true},
	{"a,b", "a,b", false},
	{"a,b", "c", false},
	{"a.b , c.>", "c.d.e", true},
	{"a.b , c.>", "a.b", true},
	{"a.b , c.>", "a.c", false},
	{"x.*, a.*.c,z", "a.b.c", true},
	{"x.*, a.*.c,z", "z", true},
	{"x.*, a.*.c,z", "zz", false},
	/* all that another pattern stands for */
	{">", ">", true},
	{">", "*", true},
	{"*", "*", true},
	{"*", ">", false},
	{"a.*", "a.>", false},
	{"a.>", "a.>", true},
	{"a.>", "a.*", true},
	{"a.>", ">", false},
	{"a.*.c", "a.*.c", true},
	{"a.b", "a.*", false},
	{"a.b,a.*", "a.*", true},
};

static void
test_matches(void)
{
	for (size_t i = 0; i < UNIT_COUNT(matches); i++)
	{
		CHECK_INT(list_matches(matches[i].list, matches[i].subject), matches[i].matches);
		unit_case("patterns %s: %s is%s among them", matches[i].list, matches[i].subject, matches[i].matches ? "" : " not");
	}
}

/* No subject at all, and the one with no token, which are refused elsewhere. */
static void
nothing_matches_no_subject(void)
{
	CHECK(!np_pattern_list_matches(">", (NpSpan) {NULL, 0}));
	CHECK(!np_pattern_list_matches("*", (NpSpan) {NULL, 0}));
	CHECK(!np_pattern_list_matches("a,b", (NpSpan) {NULL, 0}));
	CHECK(!np_pattern_list_matches("a.*,*.a,a.>", (NpSpan) {"", 0}));
}

/* The rules once more, from the end of the first token on. */
static bool
is_valid_pattern(const char *pattern)
{
	size_t		length = strcspn(pattern, ".");
	bool		is_last = pattern[length] == '\0';
	size_t		literal = strcspn(pattern, ".*> ");

	if (length == 0 || (literal < length && (length > 1 || pattern[0] == ' ')))
		return false;
	return is_last || (pattern[0] != '>' && is_valid_pattern(pattern + length + 1));
}

static bool
is_match(const char *pattern, const char *subject)
{
	size_t		pattern_length = strcspn(pattern, ".");
	size_t		length = strcspn(subject, ".");

	if (strcmp(pattern, ">") == 0)
		return true;
	if (strncmp(pattern, "*", pattern_length) != 0 &&
		(pattern_length != length || strncmp(pattern, subject, length) != 0))
		return false;
	if (pattern[pattern_length] == '\0' || subject[length] == '\0')
		return pattern[pattern_length] == subject[length];
	return is_match(pattern + pattern_length + 1, subject + length + 1);
}

/* The text of a number, of up to 5 letters; its length. */
static size_t
combination(int number, const char *alphabet, char *text)
{
	size_t		letters = strlen(alphabet);
	size_t		length = 0;

	for (; number > 0; number = (number - 1) / (int) letters)
		text[length++] = alphabet[(number - 1) % letters];
	text[length] = '\0';
	return length;
}

static void
pattern_all_short_combinations(void)
{
	int			valid = 0;
	int			matching = 0;

	for (int i = 1; i <= 5 + 25 + 125 + 625 + 3125; i++)
	{
		char		pattern[8];
		int			position;
		size_t		length = combination(i, "a.*> ", pattern);
		bool		expected = is_valid_pattern(pattern);

		if (pattern[0] == ' ' || pattern[length - 1] == ' ')
			continue;			/* the list's */
		if ((np_pattern_list_problem(pattern, &position) == NULL) != expected)
		{
			CHECK(false);
			printf("# pattern \"%s\"\n", pattern);
		}
		if (!expected)
			continue;
		valid++;
		for (int j = 1; j <= 3 + 9 + 27 + 81 + 243; j++)
		{
			char		subject[8];

			if (!is_valid_subject(subject, combination(j, "ab.", subject)))
				continue;
			matching += is_match(pattern, subject);
			if (list_matches(pattern, subject) == is_match(pattern, subject))
				continue;
			CHECK(false);
			printf("# pattern \"%s\", subject \"%s\"\n", pattern, subject);
		}
	}
	CHECK_INT(valid, 36);		/* 7 of one token, 17 of two, 12 of three */
	CHECK(matching > valid);
}

/* ---- Headers ----------------------------------------------------------- */

static const TextCase header_names[] = {
	{"usual", UNIT_TEXT("Nats-Msg-Id"), NP_TEXT_OK, -1},
	{"one byte", UNIT_TEXT("a"), NP_TEXT_OK, -1},
	{"first and last printable byte", UNIT_TEXT("!~"), NP_TEXT_OK, -1},
	{"empty", UNIT_TEXT(""), NP_TEXT_EMPTY, -1},
	{"colon", UNIT_TEXT("a:b"), NP_TEXT_BAD_BYTE, 1},
	{"colon alone", UNIT_TEXT(":"), NP_TEXT_BAD_BYTE, 0},
	{"space", UNIT_TEXT("a b"), NP_TEXT_BAD_BYTE, 1},
	{"space at the end", UNIT_TEXT("ab "), NP_TEXT_BAD_BYTE, 2},
	{"CR LF", UNIT_TEXT("a\r\nb"), NP_TEXT_BAD_BYTE, 1},
	{"NUL", UNIT_TEXT("ab\0"), NP_TEXT_BAD_BYTE, 2},
	{"DEL", UNIT_TEXT("\x7f"), NP_TEXT_BAD_BYTE, 0},
	{"not ASCII", UNIT_TEXT("gr\xc3\xb6"), NP_TEXT_BAD_BYTE, 2},
};

static const TextCase header_values[] = {
	{"usual", UNIT_TEXT("42"), NP_TEXT_OK, -1},
	{"empty", UNIT_TEXT(""), NP_TEXT_OK, -1},
	{"colons and blanks", UNIT_TEXT(" a: b\t"), NP_TEXT_OK, -1},
	{"UTF-8", UNIT_TEXT("gr\xc3\xbc\xc3\x9f""e"), NP_TEXT_OK, -1},
	{"control bytes that end no line", UNIT_TEXT("\x01\x0b\x0c\x1b\x7f"), NP_TEXT_OK, -1},
	{"CR", UNIT_TEXT("a\rb"), NP_TEXT_BAD_BYTE, 1},
	{"LF", UNIT_TEXT("a\nb"), NP_TEXT_BAD_BYTE, 1},
	{"CR LF and a forged header", UNIT_TEXT("a\r\nNats-Rollup: all"), NP_TEXT_BAD_BYTE, 1},
	{"LF alone", UNIT_TEXT("\n"), NP_TEXT_BAD_BYTE, 0},
	{"LF at the end", UNIT_TEXT("abc\n"), NP_TEXT_BAD_BYTE, 3},
	{"NUL", UNIT_TEXT("a\0b"), NP_TEXT_BAD_BYTE, 1},
	{"NUL at the end", UNIT_TEXT("a\0"), NP_TEXT_BAD_BYTE, 1},
};

static void
header_value_of_a_megabyte(void)
{
	size_t		length = 1024 * 1024;
	char	   *text = malloc(length);
	size_t		position;

	memset(text, 'v', length);
	CHECK_INT(np_header_value_check((NpSpan) {text, length}, &position), NP_TEXT_OK);
	text[length - 1] = '\r';
	CHECK_INT(np_header_value_check((NpSpan) {text, length}, &position), NP_TEXT_BAD_BYTE);
	CHECK_INT(position, length - 1);
	free(text);
}

static void
absent_text(void)
{
	NpSpan		absent = {NULL, 0};
	size_t		position;

	CHECK_INT(np_subject_check(absent, &position), NP_TEXT_EMPTY);
	CHECK_INT(np_header_name_check(absent, &position), NP_TEXT_EMPTY);
	CHECK_INT(np_header_value_check(absent, &position), NP_TEXT_OK);
}

int
main(void)
{
	test_table("subject", subjects, UNIT_COUNT(subjects), np_subject_check);
	test_table("header name", header_names, UNIT_COUNT(header_names), np_header_name_check);
	test_table("header value", header_values, UNIT_COUNT(header_values), np_header_value_check);
	test_each_byte();
	RUN(subject_of_each_byte_alone);
	RUN(subject_all_short_combinations);
	test_subject_length();
	test_reserved();
	test_pattern_lists();
	test_matches();
	RUN(nothing_matches_no_subject);
	RUN(pattern_all_short_combinations);
	RUN(header_value_of_a_megabyte);
	RUN(absent_text);
	return unit_done();
}
