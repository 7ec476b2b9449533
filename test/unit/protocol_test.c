/*
 * protocol_test.c
 *		The commands that we write, the operations that a server sends, and PubAcks.
 */
#include "unit.h"

#include "message/protocol.h"

#define TEXT(span) ((span).data), ((span).length)

static bool
is_inside(NpSpan span, const char *text, size_t length)
{
	return span.data == NULL ? span.length == 0
		: span.data >= text && span.length <= length &&
		span.data + span.length <= text + length;
}

/* ---- Tokens ------------------------------------------------------------- */

/* Into a buffer of exactly that length. */
static size_t
encode_token(uint64_t token, char *text)
{
	char		scratch[NP_TOKEN_LENGTH];
	size_t		length = np_token_encode(token, scratch);
	char	   *exact = malloc(length);

	CHECK(length >= 1 && length <= NP_TOKEN_LENGTH);
	CHECK_INT(np_token_encode(token, exact), length);
	memcpy(text, exact, length);
	free(exact);
	return length;
}

static bool
decode_token(const char *text, size_t length, uint64_t *token)
{
	char	   *copy = unit_copy(text, length);
	bool		result = np_token_decode((NpSpan) {copy, length}, token);

	free(copy);
	return result;
}

static bool
token_survives(uint64_t token)
{
	char		text[NP_TOKEN_LENGTH];
	size_t		length = encode_token(token, text);
	uint64_t	decoded = ~token;

	return decode_token(text, length, &decoded) && decoded == token;
}

static void
test_tokens(void)
{
	static const struct
	{
		uint64_t	token;
		const char *text;
	}			cases[] = {
		{0, "0"},
		{1, "1"},
		{9, "9"},
		{10, "a"},
		{31, "v"},
		{32, "10"},
		{33, "11"},
		{1023, "vv"},
		{1024, "100"},
		{UINT64_C(4294967295), "3vvvvvv"},
		{UINT64_C(4294967296), "4000000"},
		{UINT64_C(1152921504606846975), "vvvvvvvvvvvv"},
		{UINT64_C(1152921504606846976), "1000000000000"},
		{INT64_MAX, "7vvvvvvvvvvvv"},
		{UINT64_MAX - 1, "fvvvvvvvvvvvu"},
		{UINT64_MAX, "fvvvvvvvvvvvv"},
	};
	static const struct
	{
		const char *name;
		const char *text;
		size_t		length;
	}			invalid[] = {
		{"empty", UNIT_TEXT("")},
		{"2^64", UNIT_TEXT("g000000000000")},
		{"13 times the last digit", UNIT_TEXT("vvvvvvvvvvvvv")},
		{"13 digits that are letters beyond", UNIT_TEXT("zvvvvvvvvvvvv")},
		{"14 digits", UNIT_TEXT("10000000000000")},
		{"14 digits with a zero first", UNIT_TEXT("0fvvvvvvvvvvvv")},
		{"49 digits", UNIT_TEXT("1000000000000000000000000000000000000000000000000")},
		{"a dot", UNIT_TEXT("1.2")},
		{"a sign", UNIT_TEXT("-1")},
		{"a space", UNIT_TEXT(" 1")},
		{"a space at the end", UNIT_TEXT("1 ")},
		{"a NUL", UNIT_TEXT("1\0")},
		{"13 bytes, the first not ASCII", UNIT_TEXT("\xff""000000000000")},
		{"zero twice", UNIT_TEXT("00")},
		{"a leading zero", UNIT_TEXT("01")},
		{"12 leading zeros", UNIT_TEXT("0000000000001")},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		char		text[NP_TOKEN_LENGTH];
		size_t		length = encode_token(cases[i].token, text);
		uint64_t	token = 12345;

		CHECK_BYTES(text, length, cases[i].text, strlen(cases[i].text));
		CHECK(decode_token(cases[i].text, strlen(cases[i].text), &token) && token == cases[i].token);
		unit_case("token: %llu is \"%s\"", (unsigned long long) cases[i].token, cases[i].text);
	}
	for (size_t i = 0; i < UNIT_COUNT(invalid); i++)
	{
		uint64_t	token;

		CHECK(!decode_token(invalid[i].text, invalid[i].length, &token));
		unit_case("token: none is %s", invalid[i].name);
	}
}

static void
token_each_byte_as_digit(void)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuv";

	for (int byte = 0; byte < 256; byte++)
	{
		char		text[2] = {'1', (char) byte};
		const char *digit = byte != 0 ? strchr(digits, byte) : NULL;
		uint64_t	token = 0;

		CHECK_INT(decode_token(text, 2, &token), digit != NULL);
		if (digit != NULL)
			CHECK_INT(token, 32 + (digit - digits));
	}
}

static void
token_each_power_of_two(void)
{
	for (int bit = 0; bit < 64; bit++)
	{
		CHECK(token_survives(UINT64_C(1) << bit));
		CHECK(token_survives((UINT64_C(1) << bit) - 1));
		CHECK(token_survives(UINT64_MAX << bit));
	}
}

static void
token_random(void)
{
	uint64_t	state = 1;

	for (int i = 0; i < 50000; i++)
	{
		uint64_t	token = unit_random(&state) >> (unit_random(&state) % 64);

		CHECK(token_survives(token));
	}
}

/* ---- Publications ------------------------------------------------------- */

/* What the documentation says the command looks like, by way of printf. */
static size_t
expected_command(const NpPublication *p, char *buffer, size_t size, size_t *line)
{
	char		reply[200] = "";
	char		token[NP_TOKEN_LENGTH];
	size_t		total = p->headers.length + p->payload.length;
	size_t		length;

	if (p->reply_prefix.data != NULL)
		snprintf(reply, sizeof(reply), "%.*s%.*s ", (int) p->reply_prefix.length, p->reply_prefix.data,
				 (int) np_token_encode(p->token, token), token);
	if (p->headers.data != NULL)
		length = (size_t) snprintf(buffer, size, "HPUB %.*s %s%zu %zu\r\n", (int) p->subject.length,
								   p->subject.data, reply, p->headers.length, total);
	else
		length = (size_t) snprintf(buffer, size, "PUB %.*s %s%zu\r\n", (int) p->subject.length,
								   p->subject.data, reply, total);
	*line = length;
	if (p->headers.length > 0)
		memcpy(buffer + length, p->headers.data, p->headers.length);
	length += p->headers.length;
	if (p->payload.length > 0)
		memcpy(buffer + length, p->payload.data, p->payload.length);
	length += p->payload.length;
	memcpy(buffer + length, "\r\n", 2);
	return length + 2;
}

/* The command in a buffer of np_publication_size() bytes; the caller frees it. */
static char *
encode_publication(const NpPublication *publication, size_t *size, size_t *line)
{
	char	   *buffer;

	*size = np_publication_size(publication, line);
	buffer = malloc(*size);
	memset(buffer, '#', *size);
	np_publication_encode(publication, buffer);
	return buffer;
}

static void
test_publications(void)
{
	static const struct
	{
		const char *name;
		const char *reply_prefix;
		uint64_t	token;
		const char *headers;
		const char *payload;
		const char *expected;
	}			cases[] = {
		{"plain", NULL, 0, NULL, "hello", "PUB a.b 5\r\nhello\r\n"},
		{"empty", NULL, 0, NULL, "", "PUB a.b 0\r\n\r\n"},
		{"absent payload", NULL, 0, NULL, NULL, "PUB a.b 0\r\n\r\n"},
		{"the token counts for nothing without a reply", NULL, 77, NULL, "x", "PUB a.b 1\r\nx\r\n"},
		{"reply", "_INBOX.abc.", 0, NULL, "hello", "PUB a.b _INBOX.abc.0 5\r\nhello\r\n"},
		{"reply with a long token", "_INBOX.abc.", UINT64_MAX, NULL, "",
			"PUB a.b _INBOX.abc.fvvvvvvvvvvvv 0\r\n\r\n"},
		{"headers", NULL, 0, "NATS/1.0\r\nA: b\r\n\r\n", "hello",
			"HPUB a.b 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n"},
		{"headers, no payload", NULL, 0, "NATS/1.0\r\nA: b\r\n\r\n", "",
			"HPUB a.b 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n"},
		{"headers and reply", "_R.", 32, "NATS/1.0\r\n\r\n", "hi",
			"HPUB a.b _R.10 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"},
		{"headers that are there but empty", NULL, 0, "", "hi", "HPUB a.b 0 2\r\nhi\r\n"},
		{"a payload that looks like the protocol", NULL, 0, NULL, "\r\nPUB x 0\r\n",
			"PUB a.b 11\r\n\r\nPUB x 0\r\n\r\n"},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		NpPublication publication = {
			.subject = {"a.b", 3},
			.reply_prefix = {cases[i].reply_prefix, cases[i].reply_prefix ? strlen(cases[i].reply_prefix) : 0},
			.token = cases[i].token,
			.headers = {cases[i].headers, cases[i].headers ? strlen(cases[i].headers) : 0},
			.payload = {cases[i].payload, cases[i].payload ? strlen(cases[i].payload) : 0},
		};
		size_t		size;
		size_t		line;
		char	   *buffer = encode_publication(&publication, &size, &line);

		CHECK_BYTES(buffer, size, cases[i].expected, strlen(cases[i].expected));
		CHECK_INT(line, strstr(cases[i].expected, "\r\n") + 2 - cases[i].expected);
		free(buffer);
		unit_case("publication: %s", cases[i].name);
	}
}

/* With and without reply and headers, at each size at which a number gets a digit more. */
static void
test_publication_sizes(void)
{
	static const size_t sizes[] = {0, 1, 8, 9, 10, 11, 98, 99, 100, 101, 998, 999, 1000, 1001,
	9998, 9999, 10000, 99999, 100000, 999999, 1000000};
	static const uint64_t tokens[] = {0, 31, 32, 1023, 1024, UINT64_C(1) << 32, UINT64_MAX};
	static const size_t header_sizes[] = {0, 9, 10, 12, 99, 100, 999, 1000, 9999, 10000};
	size_t		room = 2 * 1000000 + 1000;
	char	   *payload = malloc(room);
	char	   *headers = malloc(room);
	char	   *expected = malloc(room);

	memset(payload, 'p', room);
	memset(headers, 'h', room);
	for (int with_reply = 0; with_reply < 2; with_reply++)
		for (int with_headers = 0; with_headers < 2; with_headers++)
		{
			for (size_t i = 0; i < UNIT_COUNT(sizes); i++)
				for (size_t j = 0; j < (with_headers ? UNIT_COUNT(header_sizes) : 1); j++)
					for (size_t k = 0; k < (with_reply ? UNIT_COUNT(tokens) : 1); k++)
					{
						NpPublication publication = {
							.subject = {UNIT_TEXT("orders.new")},
							.reply_prefix = {with_reply ? "_INBOX.x." : NULL, with_reply ? 9 : 0},
							.token = tokens[k],
							.headers = {with_headers ? headers : NULL, with_headers ? header_sizes[j] : 0},
							.payload = {payload, sizes[i]},
						};
						size_t		size;
						size_t		line;
						size_t		expected_line;
						char	   *buffer = encode_publication(&publication, &size, &line);
						size_t		expected_size = expected_command(&publication, expected, room,
																	 &expected_line);

						CHECK_INT(line, expected_line);
						CHECK_BYTES(buffer, size, expected, expected_size);
						free(buffer);
					}
			unit_case("publication sizes: %s reply, %s headers", with_reply ? "with" : "without",
					  with_headers ? "with" : "without");
		}
	free(payload);
	free(headers);
	free(expected);
}

/* ---- Operations ---------------------------------------------------------- */

typedef struct OperationCase
{
	const char *name;
	const char *input;
	size_t		length;
	NpParseResult result;
	NpOperationKind kind;
	const char *subject;
	const char *headers;		/* NULL: absent */
	const char *payload;
	int			status;
	const char *text;
} OperationCase;

#define VALID(name, input, kind, subject, headers, payload, status, text) \
	{name, UNIT_TEXT(input), NP_PARSED, kind, subject, headers, payload, status, text}
#define LINE(name, input, kind, text) \
	VALID(name, input, kind, NULL, NULL, NULL, 0, text)
#define MESSAGE(name, input, subject, headers, payload, status) \
	VALID(name, input, NP_OP_MESSAGE, subject, headers, payload, status, NULL)
#define INVALID(name, input) \
	{name, UNIT_TEXT(input), NP_PARSE_INVALID, NP_OP_MESSAGE, NULL, NULL, NULL, 0, NULL}
#define TLS(name, input) \
	{name, UNIT_TEXT(input), NP_PARSE_TLS, NP_OP_MESSAGE, NULL, NULL, NULL, 0, NULL}

/* "HMSG a 1 N N" with a header block of N bytes and no payload */
#define STATUS(name, digits, block, status) \
	MESSAGE("status: " name, "HMSG a 1 " digits " " digits "\r\n" block "\r\n", "a", block, "", status)

static const OperationCase operations[] = {
	LINE("PING", "PING\r\n", NP_OP_PING, NULL),
	LINE("PING, LF only", "PING\n", NP_OP_PING, NULL),
	LINE("PING with a blank", "PING \r\n", NP_OP_PING, NULL),
	LINE("PONG", "PONG\r\n", NP_OP_PONG, NULL),
	LINE("PONG, LF only", "PONG\n", NP_OP_PONG, NULL),
	LINE("+OK", "+OK\r\n", NP_OP_OK, NULL),
	LINE("+OK, LF only", "+OK\n", NP_OP_OK, NULL),

	LINE("INFO", "INFO {\"max_payload\":1048576}\r\n", NP_OP_INFO, "{\"max_payload\":1048576}"),
	LINE("INFO as servers write it, with a blank at the end", "INFO {\"a\":1} \r\n", NP_OP_INFO, "{\"a\":1}"),
	LINE("INFO with a tab", "INFO\t{}\r\n", NP_OP_INFO, "{}"),
	LINE("INFO, LF only", "INFO {}\n", NP_OP_INFO, "{}"),
	LINE("INFO of nothing", "INFO\r\n", NP_OP_INFO, ""),
	LINE("INFO of blanks", "INFO   \t \r\n", NP_OP_INFO, ""),

	LINE("-ERR", "-ERR 'Stale Connection'\r\n", NP_OP_ERROR, "Stale Connection"),
	LINE("-ERR, LF only", "-ERR 'Stale Connection'\n", NP_OP_ERROR, "Stale Connection"),
	LINE("-ERR without quotes", "-ERR Unknown\r\n", NP_OP_ERROR, "Unknown"),
	LINE("-ERR with quotes inside", "-ERR 'Permissions Violation for Publish to \"a.b\"'\r\n", NP_OP_ERROR,
		 "Permissions Violation for Publish to \"a.b\""),
	LINE("-ERR with blanks around", "-ERR \t 'x' \r\n", NP_OP_ERROR, "x"),
	LINE("-ERR with blanks inside the quotes", "-ERR ' x '\r\n", NP_OP_ERROR, " x "),
	LINE("-ERR of nothing", "-ERR\r\n", NP_OP_ERROR, ""),
	LINE("-ERR of one quote", "-ERR '\r\n", NP_OP_ERROR, ""),
	LINE("-ERR of two quotes", "-ERR ''\r\n", NP_OP_ERROR, ""),

	MESSAGE("MSG", "MSG a.b 1 5\r\nhello\r\n", "a.b", NULL, "hello", 0),
	MESSAGE("MSG with a reply", "MSG a.b 1 r.s 5\r\nhello\r\n", "a.b", NULL, "hello", 0),
	MESSAGE("MSG without payload", "MSG a.b 1 0\r\n\r\n", "a.b", NULL, "", 0),
	MESSAGE("MSG with a reply, without payload", "MSG a.b 1 r 0\r\n\r\n", "a.b", NULL, "", 0),
	MESSAGE("MSG whose line ends with LF", "MSG a.b 1 5\nhello\r\n", "a.b", NULL, "hello", 0),
	MESSAGE("MSG with tabs", "MSG\ta.b\t1\t5\r\nhello\r\n", "a.b", NULL, "hello", 0),
	MESSAGE("MSG with many blanks", "MSG  a.b \t 1   5  \r\nhello\r\n", "a.b", NULL, "hello", 0),
	MESSAGE("MSG with zeros before the number", "MSG a 1 000000001\r\nx\r\n", "a", NULL, "x", 0),
	MESSAGE("MSG whose payload is the protocol", "MSG a 1 6\r\nPING\r\n\r\n", "a", NULL, "PING\r\n", 0),
	MESSAGE("MSG whose payload is a CR LF", "MSG a 1 2\r\n\r\n\r\n", "a", NULL, "\r\n", 0),
	MESSAGE("MSG whose subject is a number", "MSG 5 1 1\r\nx\r\n", "5", NULL, "x", 0),
	MESSAGE("MSG of ten bytes", "MSG a 1 10\r\n0123456789\r\n", "a", NULL, "0123456789", 0),

	MESSAGE("HMSG", "HMSG a.b 1 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n", "a.b",
			"NATS/1.0\r\nA: b\r\n\r\n", "hello", 0),
	MESSAGE("HMSG with a reply", "HMSG a.b 1 r.s 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n", "a.b",
			"NATS/1.0\r\nA: b\r\n\r\n", "hello", 0),
	MESSAGE("HMSG without payload", "HMSG a.b 1 12 12\r\nNATS/1.0\r\n\r\n\r\n", "a.b",
			"NATS/1.0\r\n\r\n", "", 0),
	MESSAGE("HMSG whose line ends with LF", "HMSG a 1 12 13\nNATS/1.0\r\n\r\nx\r\n", "a",
			"NATS/1.0\r\n\r\n", "x", 0),
	MESSAGE("HMSG without headers", "HMSG a 1 0 5\r\nhello\r\n", "a", "", "hello", 0),
	MESSAGE("HMSG of nothing", "HMSG a 1 0 0\r\n\r\n", "a", "", "", 0),

	MESSAGE("status: no responders, as servers write it", "HMSG _R.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", "_R.1",
			"NATS/1.0 503\r\n\r\n", "", 503),
	STATUS("with a header", "40", "NATS/1.0 503\r\nNats-Subject: nosuch.a\r\n\r\n", 503),
	STATUS("with a description", "34", "NATS/1.0 429 Too Many Requests\r\n\r\n", 429),
	STATUS("with blanks before it", "18", "NATS/1.0   503\r\n\r\n", 503),
	STATUS("with blanks after it", "18", "NATS/1.0 503  \r\n\r\n", 503),
	STATUS("100", "16", "NATS/1.0 100\r\n\r\n", 100),
	STATUS("none, but a blank", "13", "NATS/1.0 \r\n\r\n", 0),
	STATUS("none, but a word", "17", "NATS/1.0 Idle\r\n\r\n", 0),
	STATUS("none, but one in a header", "23", "NATS/1.0\r\nStatus: 5\r\n\r\n", 0),
	STATUS("not a number", "17", "NATS/1.0 503x\r\n\r\n", 0),
	STATUS("too long to be a number", "23", "NATS/1.0 5030000000\r\n\r\n", 0),
	STATUS("negative", "17", "NATS/1.0 -503\r\n\r\n", 0),
	STATUS("of another protocol", "16", "HTTP/1.1 503\r\n\r\n", 0),
	STATUS("in a block of eight bytes", "8", "NATS/1.0", 0),
	STATUS("in a block of seven bytes", "7", "NATS/1.", 0),
	STATUS("in a block that is one line without an end", "12", "NATS/1.0 503", 503),
	STATUS("cut off", "10", "NATS/1.0 5", 5),
	MESSAGE("status: none in the payload", "HMSG a 1 8 12\r\nNATS/1.0 503\r\n", "a", "NATS/1.0", " 503", 0),
	MESSAGE("status: none of a MSG", "MSG a 1 16\r\nNATS/1.0 503\r\n\r\n\r\n", "a", NULL,
			"NATS/1.0 503\r\n\r\n", 0),

	INVALID("an empty line", "\r\n"),
	INVALID("an empty line, LF only", "\n"),
	INVALID("an unknown verb", "HELLO\r\n"),
	INVALID("HTTP", "HTTP/1.1 400 Bad Request\r\n"),
	INVALID("SSH", "SSH-2.0-OpenSSH_9.2\r\n"),
	INVALID("a verb with bytes before it", " PING\r\n"),
	INVALID("a verb with bytes after it", "PINGX\r\n"),
	INVALID("a verb cut off", "PIN\r\n"),
	INVALID("a verb with a NUL after it", "PING\0\r\n"),
	INVALID("a NUL", "\0\r\n"),
	INVALID("MSGS", "MSGS a 1 0\r\n\r\n"),
	INVALID("MSG without a blank", "MSGa 1 0\r\n\r\n"),
	INVALID("INFO without a blank", "INFO{}\r\n"),
	INVALID("+OKAY", "+OKAY\r\n"),
	INVALID("OK", "OK\r\n"),
	INVALID("ERR", "ERR 'x'\r\n"),
	INVALID("what only clients send", "PUB a 0\r\n\r\n"),
	INVALID("two CRs", "PING\r\r\n"),

	INVALID("MSG alone", "MSG\r\n"),
	INVALID("MSG of one word", "MSG a\r\n"),
	INVALID("MSG of two words", "MSG a 1\r\n"),
	INVALID("MSG of five words", "MSG a 1 r 5 5\r\nhello\r\n"),
	INVALID("MSG of six words", "MSG a 1 r 5 5 5\r\nhello\r\n"),
	INVALID("MSG of a hundred words", "MSG 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5\r\n"),
	INVALID("MSG: not a number", "MSG a 1 x\r\n"),
	INVALID("MSG: a number and more", "MSG a 1 5x\r\nhello\r\n"),
	INVALID("MSG: negative", "MSG a 1 -5\r\nhello\r\n"),
	INVALID("MSG: a plus sign", "MSG a 1 +5\r\nhello\r\n"),
	INVALID("MSG: hexadecimal", "MSG a 1 0x5\r\nhello\r\n"),
	INVALID("MSG: 10 digits", "MSG a 1 0000000005\r\nhello\r\n"),
	INVALID("MSG: 2^32 + 5", "MSG a 1 4294967301\r\nhello\r\n"),
	INVALID("MSG: 2^64 + 5", "MSG a 1 18446744073709551621\r\nhello\r\n"),
	INVALID("MSG: 2^64 - 2, which with the CR LF is 0", "MSG a 1 18446744073709551614\r\n\r\n"),
	INVALID("MSG: 1000 million", "MSG a 1 999999999\r\n"),
	INVALID("MSG: one byte more than any server sends", "MSG a 1 67174401\r\n"),
	INVALID("MSG: payload longer than said", "MSG a 1 4\r\nhello\r\n"),
	INVALID("MSG: payload shorter than said, more after it", "MSG a 1 6\r\nhello\r\nPING\r\n"),
	INVALID("MSG: payload ends with LF only", "MSG a 1 5\r\nhello\n\n"),
	INVALID("MSG: payload ends with CR only", "MSG a 1 5\r\nhello\r\r"),
	INVALID("MSG: no payload, and no CR LF", "MSG a 1 0\r\nPING\r\n"),

	INVALID("HMSG alone", "HMSG\r\n"),
	INVALID("HMSG of two words", "HMSG a 1\r\n"),
	INVALID("HMSG of three words", "HMSG a 1 12\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG of six words", "HMSG a 1 r 0 0 0\r\n\r\n"),
	INVALID("HMSG of seven words", "HMSG a 1 r 0 0 0 0\r\n\r\n"),
	INVALID("HMSG: more headers than bytes", "HMSG a 1 13 12\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: headers of nothing", "HMSG a 1 1 0\r\n\r\n"),
	INVALID("HMSG: header length not a number", "HMSG a 1 x 12\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: header length negative", "HMSG a 1 -1 12\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: header length huge", "HMSG a 1 99999999999 12\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: total not a number", "HMSG a 1 12 x\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: total huge", "HMSG a 1 12 99999999999\r\nNATS/1.0\r\n\r\n\r\n"),
	INVALID("HMSG: total one byte more than any server sends", "HMSG a 1 12 67174401\r\n"),
	INVALID("HMSG: no CR LF at the end", "HMSG a 1 12 12\r\nNATS/1.0\r\n\r\nxx"),

	TLS("TLS: an alert", "\x15\x03\x01\x00\x02\x02\x28"),
	TLS("TLS: a handshake", "\x16\x03\x01\x00\x05hello"),
	TLS("TLS: change of cipher", "\x14\x03\x03\x00\x01\x01"),
	TLS("TLS: application data", "\x17\x03\x03\n"),
	TLS("TLS: one byte is enough", "\x15"),
	INVALID("not TLS: the byte before", "\x13\r\n"),
	INVALID("not TLS: the byte after", "\x18\r\n"),
};

/* Parse a copy of exactly that size, which is checked to be where all spans point, and kept. */
static NpParseResult
parse(const char *input, size_t length, char **copy, NpOperation *operation, size_t *consumed,
	  size_t *needed)
{
	NpParseResult result;

	*copy = unit_copy(input, length);
	memset(operation, 0x5a, sizeof(*operation));
	*consumed = *needed = 0;
	result = np_operation_parse(*copy, length, operation, consumed, needed);
	if (result == NP_PARSED)
		CHECK(*consumed > 0 && *consumed <= length && is_inside(operation->subject, *copy, length) &&
			  is_inside(operation->headers, *copy, length) &&
			  is_inside(operation->payload, *copy, length) && is_inside(operation->text, *copy, length));
	else if (result == NP_PARSE_INCOMPLETE)
		CHECK(*needed > length);
	return result;
}

static void
check_operation(const OperationCase *row, const char *input, size_t length)
{
	NpOperation operation;
	size_t		consumed;
	size_t		needed;
	char	   *copy;

	CHECK_INT(parse(input, length, &copy, &operation, &consumed, &needed), row->result);
	if (row->result == NP_PARSED)
	{
		CHECK_INT(consumed, row->length);
		CHECK_INT(operation.kind, row->kind);
		CHECK_INT(operation.status, row->status);
#define CHECK_SPAN(field) \
	CHECK_BYTES(operation.field.data, operation.field.length, row->field, \
				row->field != NULL ? strlen(row->field) : 0)
		CHECK_SPAN(subject);
		CHECK_SPAN(headers);
		CHECK_SPAN(payload);
		CHECK_SPAN(text);
#undef CHECK_SPAN
	}
	free(copy);
}

/* The first 0 to n - 1 bytes must ask for more, and for no more than there will be. */
static void
check_split(const OperationCase *row)
{
	size_t		line = (size_t) ((const char *) memchr(row->input, '\n', row->length) + 1 - row->input);

	for (size_t length = 0; length < row->length; length++)
	{
		NpOperation operation;
		size_t		consumed;
		size_t		needed;
		char	   *copy;
		int			failed = unit_failed_checks;

		CHECK_INT(parse(row->input, length, &copy, &operation, &consumed, &needed), NP_PARSE_INCOMPLETE);
		CHECK_INT(needed, length < line ? length + 1 : row->length);
		free(copy);
		if (unit_failed_checks > failed)
			printf("# of the first %zu bytes\n", length);
	}
}

static void
test_operations(void)
{
	for (size_t i = 0; i < UNIT_COUNT(operations); i++)
	{
		const OperationCase *row = &operations[i];
		char		followed[512];

		check_operation(row, row->input, row->length);
		unit_case("operation: %s", row->name);
		if (row->result != NP_PARSED)
			continue;

		check_split(row);
		unit_case("operation in pieces: %s", row->name);
		memcpy(followed, row->input, row->length);
		memcpy(followed + row->length, "\r\nMSG 503", 9);
		for (size_t more = 1; more <= 9; more++)
			check_operation(row, followed, row->length + more);
		unit_case("operation with more after it: %s", row->name);
	}
}

/* An invalid operation is found out at its line's end at the latest, or at its body's. */
static void
invalid_stays_invalid(void)
{
	for (size_t i = 0; i < UNIT_COUNT(operations); i++)
	{
		bool		found = false;

		if (operations[i].result == NP_PARSED)
			continue;
		for (size_t length = 0; length <= operations[i].length; length++)
		{
			NpOperation operation;
			size_t		consumed;
			size_t		needed;
			char	   *copy;
			NpParseResult result = parse(operations[i].input, length, &copy, &operation, &consumed, &needed);

			free(copy);
			CHECK_INT(result, found || result != NP_PARSE_INCOMPLETE ? operations[i].result
					  : NP_PARSE_INCOMPLETE);
			found = found || result != NP_PARSE_INCOMPLETE;
		}
		CHECK(found);
	}
}

static void
first_byte_of_tls(void)
{
	for (int byte = 0; byte < 256; byte++)
	{
		char		text = (char) byte;
		NpOperation operation;
		size_t		consumed;
		size_t		needed;
		char	   *copy;
		NpParseResult result = parse(&text, 1, &copy, &operation, &consumed, &needed);

		CHECK_INT(result, byte >= 0x14 && byte <= 0x17 ? NP_PARSE_TLS
				  : byte == '\n' ? NP_PARSE_INVALID : NP_PARSE_INCOMPLETE);
		free(copy);
	}
}

static void
line_without_an_end(void)
{
	size_t		limit = 1024 * 1024;
	char	   *text = malloc(limit + 1);
	NpOperation operation;
	size_t		consumed;
	size_t		needed;

	memset(text, 'x', limit + 1);
	memcpy(text, "INFO ", 5);
	CHECK_INT(np_operation_parse(text, limit, &operation, &consumed, &needed), NP_PARSE_INCOMPLETE);
	CHECK_INT(needed, limit + 1);
	CHECK_INT(np_operation_parse(text, limit + 1, &operation, &consumed, &needed), NP_PARSE_INVALID);
	text[limit] = '\n';
	CHECK_INT(np_operation_parse(text, limit + 1, &operation, &consumed, &needed), NP_PARSED);
	CHECK_INT(operation.text.length, limit - 5);
	free(text);
}

/* A body of the greatest size is asked for at once, but not a byte more. */
static void
body_of_the_greatest_size(void)
{
	static const char line[] = "MSG a 1 67174400\r\n";
	size_t		body = 64 * 1024 * 1024 + 64 * 1024;
	size_t		whole = sizeof(line) - 1 + body + 2;
	char	   *text = malloc(whole);
	NpOperation operation;
	size_t		consumed;
	size_t		needed;

	memset(text, 'x', whole);
	memcpy(text, line, sizeof(line) - 1);
	memcpy(text + whole - 2, "\r\n", 2);
	CHECK_INT(np_operation_parse(text, sizeof(line) - 1, &operation, &consumed, &needed), NP_PARSE_INCOMPLETE);
	CHECK_INT(needed, whole);
	CHECK_INT(np_operation_parse(text, whole - 1, &operation, &consumed, &needed), NP_PARSE_INCOMPLETE);
	CHECK_INT(needed, whole);
	CHECK_INT(np_operation_parse(text, whole, &operation, &consumed, &needed), NP_PARSED);
	CHECK_INT(consumed, whole);
	CHECK_INT(operation.payload.length, body);
	free(text);
}

/* All valid rows one after another, as they would come in one read. */
static void
stream_of_operations(void)
{
	char		stream[16384];
	size_t		length = 0;
	size_t		at = 0;
	char	   *copy;

	for (size_t i = 0; i < UNIT_COUNT(operations); i++)
		if (operations[i].result == NP_PARSED)
		{
			memcpy(stream + length, operations[i].input, operations[i].length);
			length += operations[i].length;
		}
	copy = unit_copy(stream, length);
	for (size_t i = 0; i < UNIT_COUNT(operations); i++)
	{
		NpOperation operation;
		size_t		consumed;
		size_t		needed;

		if (operations[i].result != NP_PARSED)
			continue;
		if (np_operation_parse(copy + at, length - at, &operation, &consumed, &needed) != NP_PARSED ||
			operation.kind != operations[i].kind || consumed != operations[i].length)
		{
			CHECK(false);
			break;
		}
		at += consumed;
	}
	CHECK_INT(at, length);
	free(copy);
}

/* ---- Headers -------------------------------------------------------------- */

typedef struct HeaderCase
{
	const char *name;
	const char *block;
	size_t		length;
	const char *expected[5][2];
} HeaderCase;

static const HeaderCase header_blocks[] = {
	{"none", UNIT_TEXT("NATS/1.0\r\n\r\n"), {{NULL, NULL}}},
	{"no block", UNIT_TEXT(""), {{NULL, NULL}}},
	{"status only", UNIT_TEXT("NATS/1.0 503\r\n\r\n"), {{NULL, NULL}}},
	{"one", UNIT_TEXT("NATS/1.0\r\nA: b\r\n\r\n"), {{"A", "b"}}},
	{"one after a status", UNIT_TEXT("NATS/1.0 503 No Responders\r\nNats-Subject: x.y\r\n\r\n"),
	{{"Nats-Subject", "x.y"}}},
	{"three", UNIT_TEXT("NATS/1.0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"), {{"A", "1"}, {"B", "2"}, {"C", "3"}}},
	{"the same twice", UNIT_TEXT("NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n"), {{"A", "1"}, {"A", "2"}}},
	{"no blank after the colon", UNIT_TEXT("NATS/1.0\r\nA:b\r\n\r\n"), {{"A", "b"}}},
	{"blanks around the value", UNIT_TEXT("NATS/1.0\r\nA: \t b c \t\r\n\r\n"), {{"A", "b c"}}},
	{"empty value", UNIT_TEXT("NATS/1.0\r\nA:\r\nB: \r\n\r\n"), {{"A", ""}, {"B", ""}}},
	{"colons in the value", UNIT_TEXT("NATS/1.0\r\nA: b:c::d\r\n\r\n"), {{"A", "b:c::d"}}},
	{"LF only", UNIT_TEXT("NATS/1.0\nA: b\nC: d\n\n"), {{"A", "b"}, {"C", "d"}}},
	{"cut off in a value", UNIT_TEXT("NATS/1.0\r\nA: b\r\nC: d"), {{"A", "b"}, {"C", "d"}}},
	{"cut off after a colon", UNIT_TEXT("NATS/1.0\r\nA:"), {{"A", ""}}},
	{"cut off in a name", UNIT_TEXT("NATS/1.0\r\nA: b\r\nC"), {{"A", "b"}}},
	{"a line without a colon", UNIT_TEXT("NATS/1.0\r\nA: b\r\nwhat\r\nC: d\r\n\r\n"),
	{{"A", "b"}, {"C", "d"}}},
	{"a line without a name", UNIT_TEXT("NATS/1.0\r\n: b\r\nC: d\r\n\r\n"), {{"C", "d"}}},
	{"a colon only", UNIT_TEXT(":"), {{NULL, NULL}}},
	{"UTF-8", UNIT_TEXT("NATS/1.0\r\nA: gr\xc3\xb6\xc3\x9f""e\r\n\r\n"), {{"A", "gr\xc3\xb6\xc3\x9f""e"}}},
	{"a colon in the status line", UNIT_TEXT("NATS/1.0 409 Exceeded: 5\r\nA: b\r\n\r\n"), {{"A", "b"}}},
};

static void
test_headers(void)
{
	for (size_t i = 0; i < UNIT_COUNT(header_blocks); i++)
	{
		const HeaderCase *row = &header_blocks[i];
		char	   *copy = unit_copy(row->block, row->length);
		NpSpan		rest = {copy, row->length};
		NpSpan		name;
		NpSpan		value;

		for (int j = 0; j < 5 && row->expected[j][0] != NULL; j++)
		{
			CHECK(np_header_next(&rest, &name, &value));
			CHECK_BYTES(name.data, name.length, row->expected[j][0], strlen(row->expected[j][0]));
			CHECK_BYTES(value.data, value.length, row->expected[j][1], strlen(row->expected[j][1]));
		}
		CHECK(!np_header_next(&rest, &name, &value));
		CHECK_INT(rest.length, 0);
		CHECK(!np_header_next(&rest, &name, &value));
		free(copy);
		unit_case("headers: %s", row->name);
	}
}

/* A NUL is a byte of the value like another, not a blank. */
static void
header_value_of_a_nul(void)
{
	NpSpan		rest = {UNIT_TEXT("NATS/1.0\r\nA: \0b\0\r\n\r\n")};
	NpSpan		name;
	NpSpan		value;

	CHECK(np_header_next(&rest, &name, &value));
	CHECK_BYTES(value.data, value.length, "\0b\0", 3);
}

static void
absent_headers(void)
{
	NpSpan		rest = {NULL, 0};
	NpSpan		name;
	NpSpan		value;

	CHECK(!np_header_next(&rest, &name, &value));
}

/* ---- INFO ----------------------------------------------------------------- */

static void
test_max_payload(void)
{
	static const struct
	{
		const char *json;
		int64_t		expected;	/* 0: not found */
	}			cases[] = {
		{"{\"max_payload\":1048576}", 1048576},
		{"{\"server_id\":\"x\",\"max_payload\":1048576,\"client_id\":5}", 1048576},
		{"{\"max_payload\":1}", 1},
		{"{\"max_payload\":67108864}", 67108864},
		{"{\"max_payload\":1048576", 1048576},
		{"\"max_payload\":5", 5},
		{"{\"xmax_payload\":7,\"max_payload\":5}", 5},
		{"{\"a\":\"\\\"max_payload\\\":7\",\"max_payload\":5}", 5},
		{"", 0},
		{"{}", 0},
		{"{\"max_payload\":0}", 0},
		{"{\"max_payload\":-1}", 0},
		{"{\"max_payload\":\"5\"}", 0},
		{"{\"max_payload\":null}", 0},
		{"{\"max_payload\":", 0},
		{"{\"max_payload\"", 0},
		{"{\"max_payloads\":5}", 0},
		{"{\"max_payloa", 0},
		{"{\"a\":\"\\\"max_payload\\\":7\"}", 0},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		size_t		length = strlen(cases[i].json);
		char	   *copy = unit_copy(cases[i].json, length);
		int64_t		bytes = -7;

		CHECK_INT(np_info_max_payload((NpSpan) {copy, length}, &bytes), cases[i].expected > 0);
		CHECK_INT(bytes, cases[i].expected > 0 ? cases[i].expected : -7);
		free(copy);
		unit_case("max_payload: %s", cases[i].json);
	}
}

/* Whatever it makes of it, no overflow and nothing below zero. */
static void
max_payload_huge(void)
{
	static const char *const numbers[] = {"99999999999", "9223372036854775807", "9223372036854775808",
	"18446744073709551616", "99999999999999999999999999999999999999999999999999999999999999999999"};

	for (size_t i = 0; i < UNIT_COUNT(numbers); i++)
	{
		char		json[120];
		int64_t		bytes = 0;
		int			length = snprintf(json, sizeof(json), "{\"max_payload\":%s}", numbers[i]);
		char	   *copy = unit_copy(json, (size_t) length);

		if (np_info_max_payload((NpSpan) {copy, (size_t) length}, &bytes))
			CHECK(bytes >= 64 * 1024 * 1024);
		free(copy);
	}
}

static void
server_name(void)
{
	static const struct
	{
		const char *json;
		const char *expected;	/* NULL: absent */
	}			cases[] = {
		{"{\"server_id\":\"NA\",\"server_name\":\"n1\",\"version\":\"2.9.10\"}", "n1"},
		{"{\"server_name\":\"\"}", ""},
		{"{\"server_name\":\"caf\303\251 2\"}", "caf\303\251 2"},
		{"{\"server_name\":\"a\\\"b\"}", NULL},	/* with an escape */
		{"{\"server_name\":\"n1", NULL},
		{"{\"server_name\":1}", NULL},
		{"{\"a\":\"\\\"server_name\\\":\\\"x\\\"\"}", NULL},
		{"{}", NULL},
		{"", NULL},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		size_t		length = strlen(cases[i].json);
		char	   *copy = unit_copy(cases[i].json, length);
		NpSpan		name = np_info_server_name((NpSpan) {copy, length});

		CHECK_INT(name.data != NULL, cases[i].expected != NULL);
		if (name.data != NULL && cases[i].expected != NULL)
			CHECK_BYTES(name.data, name.length, cases[i].expected, strlen(cases[i].expected));
		free(copy);
		unit_case("server_name: %s", cases[i].json);
	}
}

static void
test_version(void)
{
	static const struct
	{
		const char *json;
		int			major;		/* 0: none */
		int			minor;
	}			cases[] = {
		{"{\"server_id\":\"x\",\"version\":\"2.12.0\",\"go\":\"go1.26.1\"}", 2, 12},
		{"{\"version\":\"2.15.0-beta.1\"}", 2, 15},
		{"{\"version\":\"999999999.999999999.1\"}", 999999999, 999999999},
		{"{\"version\":\"9999999999.1.1\"}", 0, 0},
		{"{\"version\":\"2.12\"}", 0, 0},
		{"{\"version\":\"2.x.1\"}", 0, 0},
		{"{\"version\":\"-2.1.1\"}", 0, 0},
		{"{\"version\":\"..\"}", 0, 0},
		{"{\"version\":\"2.1", 0, 0},
		{"{\"version\":2.12.0}", 0, 0},
		{"{\"a\":\"\\\"version\\\":\\\"2.12.0\\\"\"}", 0, 0},
		{"", 0, 0},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		size_t		length = strlen(cases[i].json);
		char	   *copy = unit_copy(cases[i].json, length);
		int			major = 0;
		int			minor = 0;

		CHECK_INT(np_info_version((NpSpan) {copy, length}, &major, &minor), cases[i].major != 0);
		CHECK_INT(major, cases[i].major);
		CHECK_INT(minor, cases[i].minor);
		free(copy);
		unit_case("version: %s", cases[i].json);
	}
}

/* What is not text without escapes ends the list, or is there to be refused as a URL. */
static const struct
{
	const char *json;
	int			count;			/* -1: it does not tell of others */
	const char *urls[4];
}			infos[] = {
	{"{\"connect_urls\":[\"10.0.0.1:4222\"]}", 1, {"10.0.0.1:4222"}},
	{"{\"server_id\":\"x\",\"connect_urls\":[\"a:1\",\"[::1]:2\",\"c:3\"],\"max_payload\":5}", 3, {"a:1", "[::1]:2", "c:3"}},
	{"{\"a\":\"\\\"connect_urls\\\":[\",\"connect_urls\":[\"a:1\"]}", 1, {"a:1"}},
	{"{\"connect_urls\":[]}", 0, {NULL}},
	{"{\"connect_urls\":[\"\",\"a:1\"]}", 2, {"", "a:1"}},
	{"{\"connect_urls\":[\"a:1\",7,\"b:2\"]}", 1, {"a:1"}},
	{"{\"connect_urls\":[null,\"b:2\"]}", 0, {NULL}},
	{"{\"connect_urls\":[[\"a:1\"]]}", 0, {NULL}},
	{"{\"connect_urls\":[\"u:p@a:1\",\"x y\"]}", 2, {"u:p@a:1", "x y"}},
	{"{\"connect_urls\":[\"a:1\",\"b", 1, {"a:1"}},
	{"{\"connect_urls\":[\"a:1\",", 1, {"a:1"}},
	{"{\"connect_urls\":[\"a:1\"", 1, {"a:1"}},
	{"{\"connect_urls\":[\"", 0, {NULL}},
	{"{\"connect_urls\":[", 0, {NULL}},

	{"", -1, {NULL}},
	{"{}", -1, {NULL}},
	{"{\"max_payload\":5}", -1, {NULL}},
	{"{\"connect_urls\":null}", -1, {NULL}},
	{"{\"connect_urls\":\"a:1\"}", -1, {NULL}},
	{"{\"connect_urls\":", -1, {NULL}},
	{"{\"ws_connect_urls\":[\"a:1\"]}", -1, {NULL}},
	{"{\"a\":\"\\\"connect_urls\\\":[\\\"a:1\\\"]\"}", -1, {NULL}},
};

static void
test_connect_urls(void)
{
	for (size_t i = 0; i < UNIT_COUNT(infos); i++)
	{
		size_t		length = strlen(infos[i].json);
		char	   *copy = unit_copy(infos[i].json, length);
		NpSpan		rest;
		NpSpan		url;
		int			count = -1;

		if (np_info_connect_urls((NpSpan) {copy, length}, &rest))
		{
			for (count = 0; count < 4 && np_info_next_url(&rest, &url); count++)
				if (infos[i].urls[count] != NULL)
					CHECK_BYTES(url.data, url.length, infos[i].urls[count], strlen(infos[i].urls[count]));
			CHECK(!np_info_next_url(&rest, &url));
		}
		CHECK_INT(count, infos[i].count);
		free(copy);
		unit_case("connect_urls: %s", infos[i].json);
	}
}

static void
connect_urls_without_number(void)
{
	static const int servers = 100000;
	char	   *json = malloc(servers * 16 + 32);
	size_t		length = (size_t) sprintf(json, "{\"connect_urls\":[");
	NpSpan		rest;
	NpSpan		url;
	int			count = 0;
	char	   *copy;

	for (int i = 0; i < servers; i++)
		length += (size_t) sprintf(json + length, "%s\"h%d:4222\"", i > 0 ? "," : "", i);
	copy = unit_copy(json, length);
	CHECK(np_info_connect_urls((NpSpan) {copy, length}, &rest));
	while (np_info_next_url(&rest, &url))
		count++;
	CHECK_INT(count, servers);
	free(copy);
	free(json);
}

/* ---- PubAck ---------------------------------------------------------------- */

typedef struct AckCase
{
	const char *json;
	const char *stream;			/* NULL: not one that we parse */
	const char *domain;
	uint64_t	sequence;
	bool		duplicate;
	const char *value;
} AckCase;

static const AckCase acks[] = {
	/* as servers write it */
	{"{\"stream\":\"T\",\"seq\":1}", "T", NULL, 1, false, NULL},
	{"{\"stream\":\"T\", \"seq\":1}", "T", NULL, 1, false, NULL},
	{"{\"stream\":\"T\",\"domain\":\"hub\",\"seq\":1}", "T", "hub", 1, false, NULL},
	{"{\"stream\":\"T\", \"domain\":\"hub\", \"seq\":1}", "T", "hub", 1, false, NULL},
	{"{\"stream\":\"T\",\"seq\":2,\"duplicate\": true}", "T", NULL, 2, true, NULL},
	{"{\"stream\":\"T\", \"seq\":2, \"duplicate\": true}", "T", NULL, 2, true, NULL},
	{"{\"stream\":\"T\",\"seq\":2,\"duplicate\":true}", "T", NULL, 2, true, NULL},
	{"{\"stream\":\"T\",\"domain\":\"hub\",\"seq\":2,\"duplicate\": true}", "T", "hub", 2, true, NULL},
	{"{\"stream\":\"T\",\"seq\":0}", "T", NULL, 0, false, NULL},
	{"{\"stream\":\"a-long_stream name 42\",\"seq\":42}", "a-long_stream name 42", NULL, 42, false, NULL},
	{"{\"stream\":\"gr\xc3\xb6\xc3\x9f""e\",\"seq\":42}", "gr\xc3\xb6\xc3\x9f""e", NULL, 42, false, NULL},
	{"{\"stream\":\"S}\",\"seq\":42}", "S}", NULL, 42, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1234567890123456789}", "T", NULL, UINT64_C(1234567890123456789), false, NULL},
	{"{\"stream\":\"T\",\"seq\":9223372036854775807}", "T", NULL, INT64_MAX, false, NULL},
	{"{ \"stream\" : \"T\" , \"domain\" : \"d\" , \"seq\" : 5 , \"duplicate\" : true }  ", "T", "d", 5, true, NULL},

	/* what the caller takes to a JSON parser */
	{"", NULL, NULL, 0, false, NULL},
	{"{}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"CT\",\"seq\":2,\"val\":\"7\"}", "CT", NULL, 2, false, "7"},
	{"{\"stream\":\"CT\",\"domain\":\"hub\",\"seq\":2, \"val\": \"-12345678901234567890\"}", "CT", "hub", 2, false, "-12345678901234567890"},
	{"{\"stream\":\"CT\",\"seq\":2,\"val\":7}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"CT\",\"seq\":2,\"val\":\"7\",\"duplicate\":true}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"CT\",\"seq\":2,\"val\":\"7}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":9,\"batch\":\"A\",\"count\":3}", NULL, NULL, 0, false, NULL},
	{"{\"type\":\"ack\",\"seq\":3,\"msgs\":3}", NULL, NULL, 0, false, NULL},
	{"{\"type\":\"gap\",\"last_seq\":3,\"seq\":5}", NULL, NULL, 0, false, NULL},
	{"{\"type\":\"err\",\"seq\":3,\"error\":{\"code\":400}}", NULL, NULL, 0, false, NULL},
	{"{\"error\":{\"code\":400,\"err_code\":10071,\"description\":\"wrong last sequence: 2\"},"
		"\"stream\":\"T\",\"seq\":0}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":0,\"error\":{\"code\":503}}", NULL, NULL, 0, false, NULL},
	{"{\"seq\":1,\"stream\":\"T\"}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"domain\":\"hub\"}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"duplicate\":true,\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"duplicate\":false}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"duplicate\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"duplicate\":\"true\"}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"duplicate\":true,\"val\":\"7\"}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,\"duplicate\":trues}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":18446744073709551615}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":10000000000000000000}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":99999999999999999999999999999999}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":9223372036854775808}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":007}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":-1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":+1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1.0}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1e3}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":\"1\"}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":null}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1 2}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1}x", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1}}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1}{\"stream\":\"T\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\" \"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domain\":\"hub\"\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domain\":5,\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domain\" \"hub\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domain\":\"a\",\"domain\":\"b\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domains\":\"a\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seqs\":1}", NULL, NULL, 0, false, NULL},
	{"{\"streams\":\"T\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"STREAM\":\"T\",\"SEQ\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"a\\\"b\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"\\u0054\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"a\nb\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"domain\":\"a\\\\b\",\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":T,\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":null,\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"{\"stream\":[\"T\"],\"seq\":1}", NULL, NULL, 0, false, NULL},
	{"[{\"stream\":\"T\",\"seq\":1}]", NULL, NULL, 0, false, NULL},
	{"\"stream\":\"T\",\"seq\":1", NULL, NULL, 0, false, NULL},
	{"{stream:\"T\",seq:1}", NULL, NULL, 0, false, NULL},
	{"+OK", NULL, NULL, 0, false, NULL},
	{"{\"stream\":\"T\",\"seq\":1,,\"duplicate\":true}", NULL, NULL, 0, false, NULL},
};

static bool
parse_ack(const char *json, size_t length, NpPubAck *ack, char **copy)
{
	bool		result;

	*copy = unit_copy(json, length);
	memset(ack, 0x5a, sizeof(*ack));
	result = np_puback_parse((NpSpan) {*copy, length}, ack);
	if (result)
		CHECK(ack->stream.data != NULL && is_inside(ack->stream, *copy, length) &&
			  is_inside(ack->domain, *copy, length));
	return result;
}

static void
test_acks(void)
{
	for (size_t i = 0; i < UNIT_COUNT(acks); i++)
	{
		const AckCase *row = &acks[i];
		size_t		length = strlen(row->json);
		const char *last = strrchr(row->json, '}');
		NpPubAck	ack;
		char	   *copy;

		CHECK_INT(parse_ack(row->json, length, &ack, &copy), row->stream != NULL);
		if (row->stream != NULL)
		{
			CHECK_BYTES(ack.stream.data, ack.stream.length, row->stream, strlen(row->stream));
			CHECK_BYTES(ack.domain.data, ack.domain.length, row->domain,
						row->domain != NULL ? strlen(row->domain) : 0);
			CHECK(ack.sequence == row->sequence);
			CHECK_INT(ack.duplicate, row->duplicate);
			CHECK_BYTES(ack.value.data, ack.value.length, row->value, row->value != NULL ? strlen(row->value) : 0);
		}
		free(copy);
		unit_case("ack: %s %s", unit_quote(row->json, length), row->stream != NULL ? "" : "is for others");
		if (row->stream == NULL)
			continue;

		for (size_t part = 0; part <= (size_t) (last - row->json); part++)
		{
			CHECK(!parse_ack(row->json, part, &ack, &copy));
			free(copy);
		}
		unit_case("ack cut off anywhere: %s", unit_quote(row->json, length));
	}
}

static void
ack_with_a_nul(void)
{
	NpPubAck	ack;

	CHECK(!np_puback_parse((NpSpan) {UNIT_TEXT("{\"stream\":\"a\0b\",\"seq\":1}")}, &ack));
	CHECK(!np_puback_parse((NpSpan) {UNIT_TEXT("{\"stream\":\"a\",\"seq\":1}\0")}, &ack));
	CHECK(!np_puback_parse((NpSpan) {UNIT_TEXT("\0{\"stream\":\"a\",\"seq\":1}")}, &ack));
	CHECK(!np_puback_parse((NpSpan) {NULL, 0}, &ack));
}

/* ---- Random changes ----------------------------------------------------------- */

#define RANDOM_INPUTS 100000

static void
check_headers(NpSpan block)
{
	NpSpan		rest = block;
	NpSpan		name;
	NpSpan		value;
	size_t		before = rest.length;

	while (np_header_next(&rest, &name, &value))
	{
		CHECK(name.length > 0 && is_inside(name, block.data, block.length) &&
			  is_inside(value, block.data, block.length));
		CHECK(memchr(name.data, ':', name.length) == NULL);
		CHECK(memchr(value.data, '\n', value.length) == NULL);
		CHECK(rest.length < before);
		before = rest.length;
	}
}

static void
random_operations(void)
{
	uint64_t	state = 20260102;
	int			counts[NP_PARSE_INVALID + 1] = {0};

	for (int i = 0; i < RANDOM_INPUTS; i++)
	{
		const OperationCase *start = &operations[unit_random(&state) % UNIT_COUNT(operations)];
		const OperationCase *other = &operations[unit_random(&state) % UNIT_COUNT(operations)];
		char		text[512];
		size_t		length = start->length;
		NpOperation operation;
		size_t		consumed;
		size_t		needed;
		char	   *copy;
		NpParseResult result;

		memcpy(text, start->input, length);
		unit_mutate(text, &length, sizeof(text), other->input, other->length, " \t\r\n'0159:HMSGINFO", &state);
		result = parse(text, length, &copy, &operation, &consumed, &needed);
		counts[result]++;
		if (result == NP_PARSED)
		{
			NpOperation again;
			size_t		consumed_again;
			char	   *part;

			check_headers(operation.headers);
			CHECK(operation.status >= 0);
			if (operation.kind == NP_OP_MESSAGE)
				CHECK(operation.subject.length > 0 && operation.payload.data != NULL &&
					  operation.text.data == NULL);
			else
				CHECK(operation.subject.data == NULL && operation.payload.data == NULL &&
					  operation.headers.data == NULL && operation.status == 0);

			/* it is what its own bytes say, and they are all needed */
			CHECK_INT(parse(text, consumed, &part, &again, &consumed_again, &needed), NP_PARSED);
			CHECK_INT(consumed_again, consumed);
			CHECK_INT(again.kind, operation.kind);
			free(part);
			CHECK_INT(parse(text, consumed - 1, &part, &again, &consumed_again, &needed), NP_PARSE_INCOMPLETE);
			CHECK_INT(needed, consumed);
			free(part);
		}
		else
			check_headers((NpSpan) {copy, length});
		free(copy);
	}
	/* else the changes are too wild to test anything */
	CHECK(counts[NP_PARSED] > 5000 && counts[NP_PARSE_INCOMPLETE] > 5000 &&
		  counts[NP_PARSE_INVALID] > 5000 && counts[NP_PARSE_TLS] > 500);
}

static void
random_acks(void)
{
	static const char *const infos[] = {
		"{\"server_id\":\"N\",\"max_payload\":1048576,\"client_id\":5}",
		"{\"max_payload\":67108864}",
	};
	uint64_t	state = 20260103;
	int			parsed = 0;
	int			found = 0;

	for (int i = 0; i < RANDOM_INPUTS; i++)
	{
		const char *start = acks[unit_random(&state) % 24].json;
		const char *other = acks[unit_random(&state) % UNIT_COUNT(acks)].json;
		char		text[512];
		size_t		length;
		NpPubAck	ack;
		int64_t		bytes;
		char	   *copy;

		if (i % 4 == 0)
			start = infos[unit_random(&state) % UNIT_COUNT(infos)];
		length = strlen(start);
		memcpy(text, start, length);
		unit_mutate(text, &length, sizeof(text), other, strlen(other), "\"\\{},: 019truseq", &state);
		if (parse_ack(text, length, &ack, &copy))
		{
			parsed++;
			CHECK(memchr(ack.stream.data, '"', ack.stream.length) == NULL);
			CHECK(text[0] == '{' && memchr(text, '}', length) != NULL);
		}
		if (np_info_max_payload((NpSpan) {copy, length}, &bytes))
		{
			found++;
			CHECK(bytes > 0);
		}
		free(copy);
	}
	CHECK(parsed > 1000 && found > 1000);
}

static void
random_tokens(void)
{
	uint64_t	state = 20260104;

	for (int i = 0; i < RANDOM_INPUTS / 2; i++)
	{
		static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz.A";
		char		text[16];
		char		again[NP_TOKEN_LENGTH];
		size_t		length = unit_random(&state) % sizeof(text);
		uint64_t	token;

		for (size_t j = 0; j < length; j++)
			text[j] = digits[unit_random(&state) % (j == 0 ? 31 : sizeof(digits) - 1)];
		/* what is taken is what would have been written */
		if (decode_token(text, length, &token) && text[0] != '0')
			CHECK_BYTES(again, np_token_encode(token, again), text, length);
	}
}

int
main(void)
{
	test_tokens();
	RUN(token_each_byte_as_digit);
	RUN(token_each_power_of_two);
	RUN(token_random);
	test_publications();
	test_publication_sizes();
	test_operations();
	RUN(invalid_stays_invalid);
	RUN(first_byte_of_tls);
	RUN(line_without_an_end);
	RUN(body_of_the_greatest_size);
	RUN(stream_of_operations);
	test_headers();
	RUN(header_value_of_a_nul);
	RUN(absent_headers);
	test_max_payload();
	RUN(max_payload_huge);
	RUN(server_name);
	test_version();
	test_connect_urls();
	RUN(connect_urls_without_number);
	test_acks();
	RUN(ack_with_a_nul);
	RUN(random_operations);
	RUN(random_acks);
	RUN(random_tokens);
	return unit_done();
}
