/*
 * credentials_test.c
 *		Credentials files and nkeys.
 */
#include "unit.h"

#include "libnats/credentials.h"

#include <openssl/err.h>

#define BEGIN_JWT	"-----BEGIN NATS USER JWT-----\n"
#define END_JWT		"------END NATS USER JWT------\n"
#define BEGIN_SEED	"-----BEGIN USER NKEY SEED-----\n"
#define END_SEED	"------END USER NKEY SEED------\n"

#define JWT			"eyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJB-_0.c2ln"
#define JWT_LINE	JWT "\n"
#define JWT_BLOCK	BEGIN_JWT JWT_LINE END_JWT
/* the seed of nats.c's documentation, without what makes it the seed of a user */
#define KEY			"CSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYC"
#define SEED		"SUA" KEY "U3VY"
#define SEED_LINE	SEED "\n"
#define SEED_BLOCK	BEGIN_SEED SEED_LINE END_SEED
#define PUBLIC		"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

#define WARNING \
	"************************* IMPORTANT *************************\n" \
	"NKEY Seed printed below can be used to sign and prove identity.\n" \
	"NKEYs are sensitive and should be treated as secrets.\n\n"
#define FILE_OF_NSC JWT_BLOCK "\n" WARNING SEED_BLOCK "\n*************************************************************\n"

/* ---- Credentials files --------------------------------------------------- */

static void
check_span(NpSpan actual, const char *expected)
{
	CHECK_BYTES(actual.data, actual.length, expected, strlen(expected));
}

/* Parse a copy of exactly that size. */
static void
check_credentials(const char *text, size_t length, const char *jwt, const char *seed)
{
	char	   *copy = unit_copy(text, length);
	NpSpan		found_jwt;
	NpSpan		found_seed;
	bool		valid = np_credentials_parse((NpSpan) {copy, length}, &found_jwt, &found_seed);

	CHECK_INT(valid, jwt != NULL);
	if (valid && jwt != NULL)
	{
		check_span(found_jwt, jwt);
		check_span(found_seed, seed);
	}
	free(copy);
}

static const struct
{
	const char *name;
	const char *text;
	const char *jwt;			/* NULL: refused */
	const char *seed;
}			credentials[] = {
	{"as nsc writes it", FILE_OF_NSC, JWT, SEED},
	{"the blocks alone", JWT_BLOCK SEED_BLOCK, JWT, SEED},
	{"no newline at the end", JWT_BLOCK BEGIN_SEED SEED_LINE "---END USER NKEY SEED---", JWT, SEED},
	{"three dashes", "---BEGIN NATS USER JWT---\n" JWT "\n---END NATS USER JWT---\n" SEED_BLOCK, JWT, SEED},
	{"another number of dashes at each end",
	"----------BEGIN NATS USER JWT---\n" JWT "\n---END NATS USER JWT-------\n" SEED_BLOCK, JWT, SEED},
	{"CRLF",
		"-----BEGIN NATS USER JWT-----\r\n" JWT "\r\n------END NATS USER JWT------\r\n\r\n"
	"-----BEGIN USER NKEY SEED-----\r\n" SEED "\r\n------END USER NKEY SEED------\r\n", JWT, SEED},
	{"blanks around the lines",
		"  -----BEGIN NATS USER JWT----- \n\t" JWT " \t\n ------END NATS USER JWT------\n"
	"\t" BEGIN_SEED "    " SEED " \r\n  " END_SEED, JWT, SEED},
	{"empty lines", "\n\n" BEGIN_JWT "\n \n" JWT_LINE "\r\n\n" END_JWT "\n" BEGIN_SEED "\n\n" SEED_LINE "\n" END_SEED, JWT, SEED},
	{"text before, between and after", "Dear reader\n" JWT_BLOCK "-- SU\n---\n" SEED_BLOCK "Yours\n", JWT, SEED},
	{"other blocks", "-----BEGIN OTHER-----\nx\n------END OTHER------\n" JWT_BLOCK
	"-----BEGIN OTHER-----\nx\n------END OTHER------\n" SEED_BLOCK, JWT, SEED},
	{"the first of two of each", JWT_BLOCK BEGIN_JWT "b\n" END_JWT SEED_BLOCK BEGIN_SEED "B\n" END_SEED, JWT, SEED},
	{"values of one byte", BEGIN_JWT "a\n" END_JWT BEGIN_SEED "S\n" END_SEED, "a", "S"},

	{"nothing", "", NULL, NULL},
	{"an empty line", "\n", NULL, NULL},
	{"blanks", " \t\r\n ", NULL, NULL},
	{"text", "password", NULL, NULL},
	{"a JWT alone", JWT_LINE, NULL, NULL},
	{"a seed alone", SEED_LINE, NULL, NULL},
	{"no seed block", JWT_BLOCK, NULL, NULL},
	{"no JWT block", SEED_BLOCK, NULL, NULL},
	{"swapped blocks", SEED_BLOCK JWT_BLOCK, NULL, NULL},
	{"two JWT blocks", JWT_BLOCK JWT_BLOCK, NULL, NULL},
	{"no JWT", BEGIN_JWT END_JWT SEED_BLOCK, NULL, NULL},
	{"an empty JWT", BEGIN_JWT "\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"no seed", JWT_BLOCK BEGIN_SEED END_SEED, NULL, NULL},
	{"an empty seed", JWT_BLOCK BEGIN_SEED " \r\n" END_SEED, NULL, NULL},
	{"no end of the JWT", BEGIN_JWT JWT_LINE SEED_BLOCK, NULL, NULL},
	{"no end of the seed", JWT_BLOCK BEGIN_SEED SEED_LINE, NULL, NULL},
	{"no beginning of the JWT", JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"no beginning of the seed", JWT_BLOCK SEED_LINE END_SEED, NULL, NULL},
	{"the seed's end after the JWT", BEGIN_JWT JWT_LINE END_SEED SEED_BLOCK, NULL, NULL},
	{"the JWT's end after the seed", JWT_BLOCK BEGIN_SEED SEED_LINE END_JWT, NULL, NULL},
	{"a JWT on two lines", BEGIN_JWT "abc\ndef\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"a seed on two lines", JWT_BLOCK BEGIN_SEED "SUA\nSUA\n" END_SEED, NULL, NULL},
	{"all on one line", "-----BEGIN NATS USER JWT----- " JWT " ------END NATS USER JWT------ "
	"-----BEGIN USER NKEY SEED----- " SEED " ------END USER NKEY SEED------", NULL, NULL},
	{"lines that end in CR alone", "-----BEGIN NATS USER JWT-----\r" JWT "\r------END NATS USER JWT------\r"
	"-----BEGIN USER NKEY SEED-----\r" SEED "\r------END USER NKEY SEED------\r", NULL, NULL},
	{"two dashes before", "--BEGIN NATS USER JWT-----\n" JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"two dashes after", "-----BEGIN NATS USER JWT--\n" JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"dashes alone", "------\n" JWT_LINE "------\n------\n" SEED_LINE "------\n", NULL, NULL},
	{"label in lower case", "-----begin nats user jwt-----\n" JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"blanks between dashes and label", "----- BEGIN NATS USER JWT -----\n" JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"something before the dashes", "# " BEGIN_JWT JWT_LINE END_JWT SEED_BLOCK, NULL, NULL},
	{"padded JWT", BEGIN_JWT "YQ==\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"JWT in plain base64", BEGIN_JWT "a+b/c\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"blank in the JWT", BEGIN_JWT "some user\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"quoted JWT", BEGIN_JWT "\"" JWT "\"\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"not ASCII in the JWT", BEGIN_JWT "a\xc3\xbc\n" END_JWT SEED_BLOCK, NULL, NULL},
	{"seed in lower case", JWT_BLOCK BEGIN_SEED "suacssl3\n" END_SEED, NULL, NULL},
	{"digits that are not base32 in the seed", JWT_BLOCK BEGIN_SEED "SUA01\n" END_SEED, NULL, NULL},
	{"padded seed", JWT_BLOCK BEGIN_SEED SEED "======\n" END_SEED, NULL, NULL},
	{"blank in the seed", JWT_BLOCK BEGIN_SEED "SUA SUA\n" END_SEED, NULL, NULL},
};

static void
test_credentials(void)
{
	for (size_t i = 0; i < UNIT_COUNT(credentials); i++)
	{
		check_credentials(credentials[i].text, strlen(credentials[i].text), credentials[i].jwt,
						  credentials[i].seed);
		unit_case("credentials: %s%s", credentials[i].name,
				  credentials[i].jwt != NULL ? "" : " is refused");
	}
}

/* A NUL ends no text, and is in no value. */
static void
credentials_with_a_nul(void)
{
	check_credentials(UNIT_TEXT("\0\n\0" JWT_BLOCK "\0\n" SEED_BLOCK "\0"), NULL, NULL);
	check_credentials(UNIT_TEXT("\0\n\0\n" JWT_BLOCK "\0\n" SEED_BLOCK "\0"), JWT, SEED);
	check_credentials(UNIT_TEXT(BEGIN_JWT "a\0b\n" END_JWT SEED_BLOCK), NULL, NULL);
	check_credentials(UNIT_TEXT(BEGIN_JWT "a\0\n" END_JWT SEED_BLOCK), NULL, NULL);
	check_credentials(UNIT_TEXT(BEGIN_JWT "\0\n" END_JWT SEED_BLOCK), NULL, NULL);
	check_credentials(UNIT_TEXT(JWT_BLOCK BEGIN_SEED SEED "\0\n" END_SEED), NULL, NULL);
	check_credentials(UNIT_TEXT(JWT_BLOCK BEGIN_SEED "\0" SEED_LINE END_SEED), NULL, NULL);
	check_credentials(UNIT_TEXT("-----BEGIN NATS USER JWT-----\0\n" JWT_LINE END_JWT SEED_BLOCK), NULL, NULL);
}

static void
absent_credentials(void)
{
	NpSpan		jwt;
	NpSpan		seed;

	CHECK(!np_credentials_parse((NpSpan) {NULL, 0}, &jwt, &seed));
}

/* A megabyte of one byte before, between or after the blocks, and as the value. */
static void
megabyte_of_junk(void)
{
	static const char junk[] = "\n-x \r";
	size_t		size = 1024 * 1024;
	char	   *text = malloc(size + 1024);

	for (size_t i = 0; i + 1 < sizeof(junk); i++)
	{
		int			length;

		memset(text, junk[i], size);
		check_credentials(text, size, NULL, NULL);
		length = sprintf(text + size, "\n%s", JWT_BLOCK SEED_BLOCK);
		check_credentials(text, size + length, JWT, SEED);

		length = sprintf(text, "%s", JWT_BLOCK);
		memset(text + length, junk[i], size - length);
		length = sprintf(text + size, "\n%s", SEED_BLOCK);
		check_credentials(text, size + length, JWT, SEED);

		length = sprintf(text, "%s", JWT_BLOCK SEED_BLOCK);
		memset(text + length, junk[i], size - length);
		check_credentials(text, size, JWT, SEED);
	}
	free(text);
}

static void
jwt_of_a_megabyte(void)
{
	size_t		size = 1024 * 1024;
	char	   *jwt = malloc(size + 1);
	char	   *text = malloc(size + 1024);
	int			length;

	memset(jwt, 'j', size);
	jwt[size] = '\0';
	length = sprintf(text, "%s%s\n%s", BEGIN_JWT, jwt, END_JWT SEED_BLOCK);
	check_credentials(text, length, jwt, SEED);
	free(jwt);
	free(text);
}

/* Only what lacks nothing but the end of the last line is valid. */
static void
credentials_cut_off_anywhere(void)
{
	static const char whole[] = JWT_BLOCK SEED_BLOCK;
	size_t		valid_from = strlen(whole) - strlen("---\n");

	for (size_t length = 0; length < sizeof(whole); length++)
		check_credentials(whole, length, length >= valid_from ? JWT : NULL, SEED);
}

/* Of all bytes, which may be in the middle of a value. */
static void
credentials_all_bytes(void)
{
	static const char jwt_bytes[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
	static const char seed_bytes[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

	for (int byte = 0; byte < 256; byte++)
	{
		char		jwt[] = "a?b";
		char		seed[] = "A?B";
		char		text[512];
		int			length;

		length = sprintf(text, "%s%s\n%s", BEGIN_JWT, jwt, END_JWT SEED_BLOCK);
		*(char *) memchr(text, '?', length) = jwt[1] = (char) byte;
		check_credentials(text, length, memchr(jwt_bytes, byte, sizeof(jwt_bytes) - 1) ? jwt : NULL, SEED);

		length = sprintf(text, "%s%s\n%s", JWT_BLOCK BEGIN_SEED, seed, END_SEED);
		*(char *) memchr(text, '?', length) = seed[1] = (char) byte;
		check_credentials(text, length, memchr(seed_bytes, byte, sizeof(seed_bytes) - 1) ? JWT : NULL, seed);
	}
}

/* ---- Nkeys --------------------------------------------------------------- */

/* A copy of exactly that size; public_key NULL: refused. */
static void
check_nkey(const char *seed, size_t length, const char *public_key)
{
	char	   *copy = unit_copy(seed, length);
	char	   *derived = malloc(NP_NKEY_PUBLIC_SIZE);
	bool		valid = np_nkey_public((NpSpan) {copy, length}, derived);

	CHECK_INT(valid, public_key != NULL);
	if (valid && public_key != NULL)
		CHECK_STR(derived, public_key);
	CHECK(ERR_peek_error() == 0);
	free(copy);
	free(derived);
}

static const struct
{
	const char *name;
	const char *seed;
	const char *public_key;		/* NULL: refused */
}			nkeys[] = {
	{"that of nats.c's documentation", SEED, PUBLIC},
	{"that of the tests of nkeys for Elixir", "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU",
	"UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L"},
	/* these public keys are openssl's */
	{"that of nats.c's tests", "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY",
	"UAT6BWCSCWLUKJT6K6MBJJOEOTXZ5AJDOYKNEVRFC7VNO6OA43N4TRNO"},
	{"all zeros", "SUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEQ",
	"UA5WUJ54Z23KILLCUOUNAKTPBVZWKMQVO4O6EQ5GHLAERIMLLHNCTYM5"},
	{"all ones", "SUAP777777777777777777777777777777777777777777777777775UUA",
	"UB3KCWJAISTOJ5IREZN4U45GATMQWBJJ2HPWAK7DBIM2SJLWMDI7LRYD"},

	/* the same private key and a valid checksum in all of these */
	{"of an account", "SAA" KEY "TIMI", NULL},
	{"of an operator", "SOA" KEY "RECA", NULL},
	{"of a server", "SNA" KEY "RHWU", NULL},
	{"of a cluster", "SCA" KEY "TKUQ", NULL},
	{"of a curve", "SXA" KEY "UYBM", NULL},
	{"of no kind, beside that of users", "SUE" KEY "X7QA", NULL},
	{"no seed but a private key", "PUA" KEY "UKJ4", NULL},
	{"unused bits that are set", "SUAS" "SSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYC" "SHEM", NULL},
	{"checksum in big endian", "SUA" KEY "VOTM", NULL},

	{"empty", "", NULL},
	{"one letter", "S", NULL},
	{"prefix alone", "SUA", NULL},
	{"one letter too short", "SUA" KEY "U3V", NULL},
	{"one letter too long", SEED "A", NULL},
	{"newline at the end", SEED "\n", NULL},
	{"blank before", " " SEED, NULL},
	{"padded", SEED "======", NULL},
	{"twice", SEED SEED, NULL},
	{"the public key", PUBLIC, NULL},
	{"lower case", "suacssl3uahudxkfsnvuzrf5uhpmwz6bfdtj7m6usdxiednppqyyycu3vy", NULL},
	{"one letter in lower case", "SUa" KEY "U3VY", NULL},
	{"digit that is not base32", "SUA" KEY "U3V1", NULL},
	{"not ASCII", "SUA" KEY "U3V\xc3", NULL},
};

static void
test_nkeys(void)
{
	for (size_t i = 0; i < UNIT_COUNT(nkeys); i++)
	{
		check_nkey(nkeys[i].seed, strlen(nkeys[i].seed), nkeys[i].public_key);
		unit_case("seed: %s%s", nkeys[i].name, nkeys[i].public_key != NULL ? "" : " is refused");
	}
}

static void
absent_seed(void)
{
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	CHECK(!np_nkey_public((NpSpan) {NULL, 0}, public_key));
}

/* No byte can be another one: a checksum over all, and no unused bits. */
static void
nkey_one_byte_changed(void)
{
	for (size_t i = 0; i < strlen(SEED); i++)
		for (int byte = 0; byte < 256; byte++)
		{
			char		seed[] = SEED;

			seed[i] = (char) byte;
			check_nkey(seed, strlen(SEED), seed[i] == SEED[i] ? PUBLIC : NULL);
		}
}

static void
nkey_cut_off_anywhere(void)
{
	for (size_t length = 0; length < strlen(SEED); length++)
		check_nkey(SEED, length, NULL);
}

/* ---- Random changes ------------------------------------------------------ */

static bool
is_inside(NpSpan span, const char *text, size_t length)
{
	return span.data >= text && span.length > 0 && span.data + span.length <= text + length;
}

static void
random_credentials(void)
{
	static const char *const corpus[] = {
		FILE_OF_NSC,
		JWT_BLOCK SEED_BLOCK,
		"---BEGIN NATS USER JWT---\r\na.b.c\r\n---END NATS USER JWT---\r\n"
		"---BEGIN USER NKEY SEED---\r\nSUA\r\n---END USER NKEY SEED---",
		BEGIN_JWT END_JWT BEGIN_SEED END_SEED,
	};
	uint64_t	state = 20260102;
	int			valid = 0;

	for (int i = 0; i < 100000; i++)
	{
		const char *start = corpus[unit_random(&state) % UNIT_COUNT(corpus)];
		const char *other = corpus[unit_random(&state) % UNIT_COUNT(corpus)];
		char		text[1024];
		size_t		length = strlen(start);
		char	   *copy;
		NpSpan		jwt;
		NpSpan		seed;

		memcpy(text, start, length);
		unit_mutate(text, &length, sizeof(text), other, strlen(other), "-\n\r .AS2", &state);

		copy = unit_copy(text, length);
		if (np_credentials_parse((NpSpan) {copy, length}, &jwt, &seed))
		{
			char		public_key[NP_NKEY_PUBLIC_SIZE];

			valid++;
			CHECK(is_inside(jwt, copy, length) && is_inside(seed, copy, length));
			CHECK(jwt.data + jwt.length < seed.data);
			(void) np_nkey_public(seed, public_key);
		}
		free(copy);
	}
	/* else the changes are too wild to test anything */
	CHECK(valid > 1000 && valid < 99000);
}

int
main(void)
{
	test_credentials();
	RUN(credentials_with_a_nul);
	RUN(absent_credentials);
	RUN(megabyte_of_junk);
	RUN(jwt_of_a_megabyte);
	RUN(credentials_cut_off_anywhere);
	RUN(credentials_all_bytes);
	test_nkeys();
	RUN(absent_seed);
	RUN(nkey_one_byte_changed);
	RUN(nkey_cut_off_anywhere);
	RUN(random_credentials);
	return unit_done();
}
