/*
 * server_url_test.c
 *		Server URLs and lists of them.
 */
#include "unit.h"

#include "base/list.h"
#include "base/server_url.h"

#define INVALID_PORT	"the port is not a number from 1 to 65535"
#define INVALID_HOST	"the host has an invalid character"
#define NO_HOST			"the host is missing"
#define NO_USER			"the user name is empty"
#define BAD_SCHEME		"it does not begin with nats:// or tls://, or has a path"
#define BAD_PERCENT		"the credentials have an invalid percent sign"

#define H50 "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh"

typedef struct UrlCase
{
	const char *text;
	const char *problem;		/* part of it; NULL: none */
	const char *host;
	int			port;
	bool		tls;
	const char *user;			/* NULL: absent */
	const char *password;
} UrlCase;

static const UrlCase urls[] = {
	/* schemes, hosts, ports */
	{"nats://localhost:4222", NULL, "localhost", 4222, false, NULL, NULL},
	{"nats://localhost", NULL, "localhost", 4222, false, NULL, NULL},
	{"localhost", NULL, "localhost", 4222, false, NULL, NULL},
	{"localhost:4223", NULL, "localhost", 4223, false, NULL, NULL},
	{"tls://nats.example.com", NULL, "nats.example.com", 4222, true, NULL, NULL},
	{"tls://nats.example.com:443", NULL, "nats.example.com", 443, true, NULL, NULL},
	{"127.0.0.1", NULL, "127.0.0.1", 4222, false, NULL, NULL},
	{"nats://127.0.0.1:1", NULL, "127.0.0.1", 1, false, NULL, NULL},
	{"nats://h:65535", NULL, "h", 65535, false, NULL, NULL},
	{"nats://h:00080", NULL, "h", 80, false, NULL, NULL},
	{"nats://h/", NULL, "h", 4222, false, NULL, NULL},
	{"nats://h:5/", NULL, "h", 5, false, NULL, NULL},
	{"h/", NULL, "h", 4222, false, NULL, NULL},
	{"h:5/", NULL, "h", 5, false, NULL, NULL},
	{"a_b-c.d", NULL, "a_b-c.d", 4222, false, NULL, NULL},
	{"nats://b\xc3\xbc""cher.example", NULL, "b\xc3\xbc""cher.example", 4222, false, NULL, NULL},

	{"", "it is empty", NULL, 0, false, NULL, NULL},
	{"nats://", NO_HOST, NULL, 0, false, NULL, NULL},
	{"tls://", NO_HOST, NULL, 0, false, NULL, NULL},
	{"nats:///", NO_HOST, NULL, 0, false, NULL, NULL},
	{"/", NO_HOST, NULL, 0, false, NULL, NULL},
	{":4222", NO_HOST, NULL, 0, false, NULL, NULL},
	{"nats://:4222", NO_HOST, NULL, 0, false, NULL, NULL},
	{"http://h", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"ws://h:80", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"nats:/h", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"nats//h", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"//h", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"h/path", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"h//", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{" nats://h", BAD_SCHEME, NULL, 0, false, NULL, NULL},
	{"nats", NULL, "nats", 4222, false, NULL, NULL},
	{"nats:", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h/path", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://h//", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://nats://h", INVALID_PORT, NULL, 0, false, NULL, NULL},

	{"nats://h:", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:/", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:0", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:65536", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:99999", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:100000", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:000080", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:99999999999999999999", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:4222x", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:-1", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:+1", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h: 1", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:1 ", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"nats://h:\xd9\xa1", INVALID_PORT, NULL, 0, false, NULL, NULL},

	{"nats://a b", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"a b", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://a\tb", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://a\r\nb", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://a\x7f", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://a\"b", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://'h'", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://a\\b", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://h?x=1", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"nats://h#x", INVALID_HOST, NULL, 0, false, NULL, NULL},

	/* IPv6 */
	{"nats://[::1]:4223", NULL, "::1", 4223, false, NULL, NULL},
	{"nats://[::1]", NULL, "::1", 4222, false, NULL, NULL},
	{"[::1]", NULL, "::1", 4222, false, NULL, NULL},
	{"[::1]:9", NULL, "::1", 9, false, NULL, NULL},
	{"tls://[2001:db8::7]/", NULL, "2001:db8::7", 4222, true, NULL, NULL},
	{"nats://u:p@[fe80::1]:9", NULL, "fe80::1", 9, false, "u", "p"},
	{"[::1", "no closing bracket", NULL, 0, false, NULL, NULL},
	{"[", "no closing bracket", NULL, 0, false, NULL, NULL},
	{"[]", NO_HOST, NULL, 0, false, NULL, NULL},
	{"[]:4222", NO_HOST, NULL, 0, false, NULL, NULL},
	{"[::1]:", INVALID_PORT, NULL, 0, false, NULL, NULL},
	{"[::1]x", "something other than a port", NULL, 0, false, NULL, NULL},
	{"[::1]4222", "something other than a port", NULL, 0, false, NULL, NULL},
	{"[::1]]", "something other than a port", NULL, 0, false, NULL, NULL},
	{"[[::1]]", "", NULL, 0, false, NULL, NULL},
	{"[a b]", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"::1]", "", NULL, 0, false, NULL, NULL},
	{"h]", INVALID_HOST, NULL, 0, false, NULL, NULL},
	{"a[::1]", "", NULL, 0, false, NULL, NULL},
	/* without brackets nobody knows where the address ends */
	{"fe80::1", "", NULL, 0, false, NULL, NULL},
	{"nats://2001:db8::5:4222", "", NULL, 0, false, NULL, NULL},
	{"nats://h:1:2", "", NULL, 0, false, NULL, NULL},

	/* credentials; they stay encoded */
	{"nats://u:p@h", NULL, "h", 4222, false, "u", "p"},
	{"nats://u:p@h:5", NULL, "h", 5, false, "u", "p"},
	{"u:p@h", NULL, "h", 4222, false, "u", "p"},
	{"tls://u:p@h:5/", NULL, "h", 5, true, "u", "p"},
	{"nats://token@h", NULL, "h", 4222, false, "token", NULL},
	{"token@h:7", NULL, "h", 7, false, "token", NULL},
	{"nats://u:@h", NULL, "h", 4222, false, "u", ""},
	{"nats://u:p:q@h", NULL, "h", 4222, false, "u", "p:q"},
	{"nats://u:p@q@h", NULL, "h", 4222, false, "u", "p@q"},
	{"nats://u@v@h", NULL, "h", 4222, false, "u@v", NULL},
	{"nats://u:p/q?r#s@h", NULL, "h", 4222, false, "u", "p/q?r#s"},
	{"nats://u:p%40q@h", NULL, "h", 4222, false, "u", "p%40q"},
	{"nats://a%3ab:c%2Fd@h", NULL, "h", 4222, false, "a%3ab", "c%2Fd"},
	{"nats://u:gr\xc3\xb6\xc3\x9f""e@h", NULL, "h", 4222, false, "u", "gr\xc3\xb6\xc3\x9f""e"},
	{"nats://u'v:\"p\"@h", NULL, "h", 4222, false, "u'v", "\"p\""},
	{"nats://u v:p q@h", NULL, "h", 4222, false, "u v", "p q"},
	{"nats://[u]:p@h", NULL, "h", 4222, false, "[u]", "p"},
	{"nats://@h", NO_USER, NULL, 0, false, NULL, NULL},
	{"@h", NO_USER, NULL, 0, false, NULL, NULL},
	{"@", NO_USER, NULL, 0, false, NULL, NULL},
	{"nats://:p@h", NO_USER, NULL, 0, false, NULL, NULL},
	{"nats://:@h", NO_USER, NULL, 0, false, NULL, NULL},
	{"nats://u:p@", NO_HOST, NULL, 0, false, NULL, NULL},
	{"nats://u:p@/", NO_HOST, NULL, 0, false, NULL, NULL},
	{"nats://u:p@:4222", NO_HOST, NULL, 0, false, NULL, NULL},
	{"nats://u%:p@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u%4:p@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u%4g@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u%%41@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u:%@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u:p%2@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u:p%zz@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u%00:p@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	{"nats://u:%00@h", BAD_PERCENT, NULL, 0, false, NULL, NULL},
	/* a percent sign in the host means nothing to the resolver either */
	{"nats://h%41", NULL, "h%41", 4222, false, NULL, NULL},

	/* length of the host */
	{"nats://" H50 H50 H50 H50 H50 "12345", NULL, H50 H50 H50 H50 H50 "12345", 4222, false, NULL, NULL},
	{"nats://" H50 H50 H50 H50 H50 "123456", "the host name is too long", NULL, 0, false, NULL, NULL},
	{"nats://[" H50 H50 H50 H50 H50 "123456]", "the host name is too long", NULL, 0, false, NULL, NULL},
};

static void
check_span(NpSpan span, const char *expected)
{
	CHECK_BYTES(span.data, span.length, expected, expected != NULL ? strlen(expected) : 0);
}

static void
test_urls(void)
{
	for (size_t i = 0; i < UNIT_COUNT(urls); i++)
	{
		const UrlCase *row = &urls[i];
		size_t		length = strlen(row->text);
		char	   *copy = unit_copy(row->text, length);
		NpServerUrl url;
		const char *problem = np_url_parse((NpSpan) {copy, length}, &url);

		if (row->problem == NULL)
		{
			CHECK_STR(problem, NULL);
			check_span(url.host, row->host);
			check_span(url.user, row->user);
			check_span(url.password, row->password);
			CHECK_INT(url.port, row->port);
			CHECK_INT(url.tls, row->tls);
		}
		else if (problem == NULL || strstr(problem, row->problem) == NULL)
			CHECK_STR(problem, row->problem[0] != '\0' ? row->problem : "a problem");
		free(copy);

		unit_case("url %s: %s", unit_quote(row->text, length), row->problem == NULL ? "valid"
				  : row->problem[0] != '\0' ? row->problem : "invalid");
	}
}

/* Credentials of 1023 bytes fit into NpWireTarget, 1024 don't, whatever they decode to. */
static void
test_long_credentials(void)
{
	static const struct
	{
		const char *name;
		size_t		user;
		size_t		password;
		bool		valid;
	}			cases[] = {
		{"user of 1023 bytes", 1023, 1, true},
		{"user of 1024 bytes", 1024, 1, false},
		{"password of 1023 bytes", 1, 1023, true},
		{"password of 1024 bytes", 1, 1024, false},
		{"both of 1023 bytes", 1023, 1023, true},
		{"password of a megabyte", 1, 1024 * 1024, false},
		{"user of a megabyte", 1024 * 1024, 1, false},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		size_t		length = cases[i].user + 1 + cases[i].password + 2;
		char	   *text = malloc(length);
		NpServerUrl url;
		const char *problem;

		memset(text, 'u', length);
		text[cases[i].user] = ':';
		text[length - 2] = '@';
		text[length - 1] = 'h';
		problem = np_url_parse((NpSpan) {text, length}, &url);
		CHECK_STR(problem, cases[i].valid ? NULL : "the credentials are too long");
		if (problem == NULL)
		{
			CHECK_INT(url.user.length, cases[i].user);
			CHECK_INT(url.password.length, cases[i].password);
		}
		free(text);
		unit_case("credentials: %s", cases[i].name);
	}
}

static void
problem_quotes_nothing(void)
{
	static const char secret[] = "s3cr3t";
	static const char *const bad[] = {
		"nats://u:s3cr3t%@h", "nats://u:s3cr3t@", "nats://:s3cr3t@h", "nats://u:s3cr3t@h:0",
		"http://u:s3cr3t@h", "nats://u:s3cr3t@[h", "nats://u:s3cr3t@a b", "nats://s3cr3t%00@h"
	};

	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
	{
		NpServerUrl url;
		const char *problem = np_url_parse((NpSpan) {bad[i], strlen(bad[i])}, &url);

		CHECK(problem != NULL && strstr(problem, secret) == NULL);
	}
}

static void
url_with_a_nul(void)
{
	NpServerUrl url;

	CHECK_STR(np_url_parse((NpSpan) {UNIT_TEXT("nats://a\0b")}, &url), INVALID_HOST);
	CHECK_STR(np_url_parse((NpSpan) {UNIT_TEXT("nats://\0")}, &url), INVALID_HOST);
	CHECK_STR(np_url_parse((NpSpan) {UNIT_TEXT("nats://h:\0")}, &url), INVALID_PORT);
	CHECK(np_url_parse((NpSpan) {UNIT_TEXT("\0nats://h")}, &url) != NULL);
}

/* Every prefix of a valid URL, in a buffer of its size. */
static void
url_cut_off_anywhere(void)
{
	static const char whole[] = "tls://us%41er:pass%2Fword@[2001:db8::1]:4222/";

	for (size_t length = 0; length < sizeof(whole); length++)
	{
		char	   *copy = unit_copy(whole, length);
		NpServerUrl url;
		const char *problem = np_url_parse((NpSpan) {copy, length}, &url);

		if (problem == NULL)
			CHECK(url.host.length > 0 && url.port >= 1 && url.port <= 65535);
		free(copy);
	}
}

/* ---- Percent signs ------------------------------------------------------ */

static const struct
{
	const char *encoded;
	const char *decoded;		/* NULL: invalid */
}			percents[] = {
	{"", ""},
	{"abc", "abc"},
	{"a%20b", "a b"},
	{"%41", "A"},
	{"%41%42%43", "ABC"},
	{"%2f%2F", "//"},
	{"%c3%B6", "\xc3\xb6"},
	{"%ff", "\xff"},
	{"%01", "\x01"},
	{"%0a", "\n"},
	{"%10", "\x10"},
	{"%25", "%"},
	{"%2541", "%41"},
	{"a+b", "a+b"},
	{"%", NULL},
	{"%%", NULL},
	{"%%%", NULL},
	{"%4", NULL},
	{"a%4", NULL},
	{"%g0", NULL},
	{"%0g", NULL},
	{"% 1", NULL},
	{"%+1", NULL},
	{"%-1", NULL},
	{"%0x", NULL},
	{"%41%", NULL},
	{"%00", NULL},
	{"abc%00", NULL},
	{"%41%00%42", NULL},
};

static void
test_percents(void)
{
	for (size_t i = 0; i < UNIT_COUNT(percents); i++)
	{
		size_t		length = strlen(percents[i].encoded);
		char	   *copy = unit_copy(percents[i].encoded, length);
		char	   *decoded = malloc(length + 1);

		memset(decoded, 'x', length + 1);
		CHECK_INT(np_url_decode((NpSpan) {copy, length}, decoded), percents[i].decoded != NULL);
		if (percents[i].decoded != NULL)
			CHECK_STR(decoded, percents[i].decoded);
		free(copy);
		free(decoded);
		unit_case("percent: \"%s\"%s", percents[i].encoded,
				  percents[i].decoded != NULL ? "" : " is invalid");
	}
}

static int
hex(int byte)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *found = byte != 0 ? strchr(digits, byte) : NULL;

	return found != NULL ? (int) ((found - digits) % 16) : -1;
}

static void
percent_all_pairs(void)
{
	for (int pair = 0; pair < 65536; pair++)
	{
		char		encoded[3] = {'%', (char) (pair >> 8), (char) pair};
		char		decoded[4];
		int			high = hex(pair >> 8);
		int			low = hex(pair & 255);
		bool		valid = high >= 0 && low >= 0 && high * 16 + low != 0;

		if (np_url_decode((NpSpan) {encoded, 3}, decoded) != valid ||
			(valid && ((unsigned char) decoded[0] != high * 16 + low || decoded[1] != '\0')))
		{
			CHECK(false);
			printf("# %%, 0x%02x, 0x%02x\n", pair >> 8, pair & 255);
		}
	}
}

/* ---- Lists -------------------------------------------------------------- */

static const struct
{
	const char *list;
	int			count;
	const char *items[4];
}			lists[] = {
	{"", 1, {""}},
	{"a", 1, {"a"}},
	{"a,b", 2, {"a", "b"}},
	{"a,b,c,d", 4, {"a", "b", "c", "d"}},
	{" a , b ", 2, {"a", "b"}},
	{"\t a\n,\r\n\fb\v", 2, {"a", "b"}},
	{"nats://a:1, nats://u:p@b:2/", 2, {"nats://a:1", "nats://u:p@b:2/"}},
	{",", 2, {"", ""}},
	{",,", 3, {"", "", ""}},
	{" , ", 2, {"", ""}},
	{"a,", 2, {"a", ""}},
	{",a", 2, {"", "a"}},
	{"a,,b", 3, {"a", "", "b"}},
	{"a b", 1, {"a b"}},
	{"   ", 1, {""}},
	{"u:p%2Cq@h", 1, {"u:p%2Cq@h"}},
};

static void
test_lists(void)
{
	for (size_t i = 0; i < UNIT_COUNT(lists); i++)
	{
		char	   *copy = unit_copy(lists[i].list, strlen(lists[i].list) + 1);
		const char *rest = copy;
		NpSpan		item;
		int			count = 0;

		while (np_list_next(&rest, &item))
		{
			if (count < lists[i].count)
				check_span(item, lists[i].items[count]);
			if (++count > 10)
				break;
		}
		CHECK_INT(count, lists[i].count);
		CHECK(!np_list_next(&rest, &item));
		free(copy);
		unit_case("list %s: %d item%s", unit_quote(lists[i].list, strlen(lists[i].list)),
				  lists[i].count, lists[i].count == 1 ? "" : "s");
	}
}

/* ---- Lists of URLs -------------------------------------------------------- */

static const struct
{
	const char *list;
	int			position;		/* of the bad one; 0: all are good */
	bool		has_credentials;	/* among the good */
}			url_lists[] = {
	{"nats://a", 0, false},
	{"a", 0, false},
	{"nats://a:1,tls://b:2/, [::1]:3 ,c", 0, false},
	{"nats://u:p@a", 0, true},
	{"tls://token@a", 0, true},
	{"nats://a,nats://u:p@b", 0, true},
	{"nats://u@a,nats://b", 0, true},
	{"nats://a,nats://b,c,u:@d", 0, true},
	{"nats://u%40x:p%2Cq@a", 0, true},

	{"", 1, false},
	{" ", 1, false},
	{",", 1, false},
	{",nats://u:p@a", 1, true},
	{"nats://a,", 2, false},
	{"nats://a,,nats://b", 2, false},
	{"nats://a, nats://b:0", 2, false},
	{"nats://a,nats://b,http://c", 3, false},
	{"nats://a b", 1, false},
	{"nats://a,b c,nats://u:p@d", 2, true},
	{"nats://:p@a,nats://b", 1, false},
	{"nats://u:p,q@a", 1, true},
	{"nats://u:%zz@a", 1, false},
};

static void
test_url_lists(void)
{
	for (size_t i = 0; i < UNIT_COUNT(url_lists); i++)
	{
		const char *list = url_lists[i].list;
		char	   *copy = unit_copy(list, strlen(list) + 1);
		int			position = 0;
		const char *problem = np_url_list_check(copy, &position);

		CHECK_INT(problem == NULL ? 0 : position, url_lists[i].position);
		CHECK_INT(np_url_list_has_credentials(copy), url_lists[i].has_credentials);
		free(copy);
		unit_case("URLs %s: %s", unit_quote(list, strlen(list)), problem != NULL ? problem : "good");
	}
}

/* ---- Random changes ------------------------------------------------------ */

static bool
is_inside(NpSpan span, const char *text, size_t length)
{
	return span.data == NULL ? span.length == 0
		: span.data >= text && span.length <= length &&
		span.data + span.length <= text + length;
}

static void
random_urls(void)
{
	static const char *const corpus[] = {
		"nats://user:pass%40word@nats.example.com:4222/",
		"tls://[2001:db8::1]:443",
		"token@127.0.0.1",
		"nats://a:1,nats://u:p@b:2, tls://[::1]/ ,",
		"localhost",
	};
	uint64_t	state = 20260101;
	int			valid = 0;

	for (int i = 0; i < 100000; i++)
	{
		const char *start = corpus[unit_random(&state) % UNIT_COUNT(corpus)];
		const char *other = corpus[unit_random(&state) % UNIT_COUNT(corpus)];
		char		text[256];
		size_t		length = strlen(start);
		char	   *copy;
		NpServerUrl url;
		NpSpan		item;
		const char *rest;
		int			items = 0;

		memcpy(text, start, length);
		unit_mutate(text, &length, sizeof(text), other, strlen(other), ":/@[]%,. 09nats", &state);

		copy = unit_copy(text, length);
		if (np_url_parse((NpSpan) {copy, length}, &url) == NULL)
		{
			valid++;
			CHECK(is_inside(url.host, copy, length) && is_inside(url.user, copy, length) &&
				  is_inside(url.password, copy, length));
			CHECK(url.host.length >= 1 && url.host.length <= 255);
			CHECK(url.port >= 1 && url.port <= 65535);
			CHECK(url.user.data != NULL ? url.user.length > 0 : url.password.data == NULL);
			for (size_t j = 0; j < url.host.length; j++)
				CHECK(strchr(" /?#@[]\\\"'\r\n", url.host.data[j]) == NULL);
		}
		free(copy);

		/* as the setting's list: a C string */
		text[length < sizeof(text) ? length : length - 1] = '\0';
		length = strlen(text);
		copy = unit_copy(text, length + 1);
		rest = copy;
		while (np_list_next(&rest, &item))
		{
			items++;
			CHECK(is_inside(item, copy, length));
			(void) np_url_parse(item, &url);
		}
		CHECK(items >= 1 && items <= (int) length + 1);
		free(copy);
	}
	/* else the changes are too wild to test anything */
	CHECK(valid > 1000);
}

int
main(void)
{
	test_urls();
	test_long_credentials();
	RUN(problem_quotes_nothing);
	RUN(url_with_a_nul);
	RUN(url_cut_off_anywhere);
	test_percents();
	RUN(percent_all_pairs);
	test_lists();
	test_url_lists();
	RUN(random_urls);
	return unit_done();
}
