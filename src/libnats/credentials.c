/*-------------------------------------------------------------------------
 *
 * credentials.c
 *	  NATS credentials files and nkeys.
 *
 * We take credentials apart ourselves: libnats wants the public key next to
 * the seed that it can be derived from, does not read files with CRLF, and
 * finds out what is wrong with either only when a server asks for them.
 * Plain C, no allocation but OpenSSL's.  No copy of a secret is left behind.
 *
 *-------------------------------------------------------------------------
 */
#include "libnats/credentials.h"

#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define BASE32		"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
#define BASE64URL	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

/* Bytes of nkeys: a seed has its own prefix before that of its kind of key, which begin in the middle of bytes. */
#define PREFIX_SEED		(18 << 3)
#define PREFIX_USER		(20 << 3)
#define KEY_SIZE		32
#define CRC_SIZE		2
#define SEED_SIZE		(2 + KEY_SIZE + CRC_SIZE)
#define PUBLIC_SIZE		(1 + KEY_SIZE + CRC_SIZE)
#define SEED_LENGTH		58		/* in base32 */

/* ---- Credentials files -------------------------------------------------- */

static bool
is_blank(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r';
}

/* Take the next line that is not empty, without the blanks around it.  False: there is none. */
static bool
next_line(NpSpan *rest, NpSpan *line)
{
	while (rest->length > 0)
	{
		const char *end = memchr(rest->data, '\n', rest->length);

		line->data = rest->data;
		line->length = end != NULL ? (size_t) (end - rest->data) : rest->length;
		rest->data += line->length;
		rest->length -= line->length;
		if (end != NULL)
			rest->data++, rest->length--;

		while (line->length > 0 && is_blank(*line->data))
			line->data++, line->length--;
		while (line->length > 0 && is_blank(line->data[line->length - 1]))
			line->length--;
		if (line->length > 0)
			return true;
	}
	return false;
}

/* Is it three dashes or more, the label, three dashes or more? */
static bool
is_marker(NpSpan line, const char *label)
{
	size_t		before = 0;
	size_t		after = 0;
	size_t		length = strlen(label);

	while (before < line.length && line.data[before] == '-')
		before++;
	while (after < line.length - before && line.data[line.length - after - 1] == '-')
		after++;
	return before >= 3 && after >= 3 && line.length - before - after == length &&
		memcmp(line.data + before, label, length) == 0;
}

static bool
consists_of(NpSpan text, const char *bytes, size_t count)
{
	for (size_t i = 0; i < text.length; i++)
		if (memchr(bytes, text.data[i], count) == NULL)
			return false;
	return true;
}

/* Take the text up to the end of the next block of that label.  False: it has none, or not of one line. */
static bool
take_block(NpSpan *rest, const char *begin, const char *end, NpSpan *value)
{
	NpSpan		line;

	while (next_line(rest, &line))
		if (is_marker(line, begin))
			return next_line(rest, value) && next_line(rest, &line) && is_marker(line, end);
	return false;
}

/*
 * Find the user's JWT and seed in the text of a credentials file.
 *
 * False: one of them is missing, not followed by its end, or has a byte that
 * cannot be in it; the JWT comes first.  Text around the blocks is ignored.
 * What is found may still not be valid.
 */
bool
np_credentials_parse(NpSpan text, NpSpan *jwt, NpSpan *seed)
{
	return take_block(&text, "BEGIN NATS USER JWT", "END NATS USER JWT", jwt) &&
		consists_of(*jwt, BASE64URL ".", strlen(BASE64URL ".")) &&
		take_block(&text, "BEGIN USER NKEY SEED", "END USER NKEY SEED", seed) &&
		consists_of(*seed, BASE32, strlen(BASE32));
}

/* ---- Nkeys -------------------------------------------------------------- */

/* Base32 without padding.  False: another letter, or bits at the end that are not of a whole byte and not 0. */
static bool
base32_decode(NpSpan text, unsigned char *bytes)
{
	unsigned int buffer = 0;
	int			bits = 0;

	for (size_t i = 0; i < text.length; i++)
	{
		const char *letter = memchr(BASE32, text.data[i], strlen(BASE32));

		if (letter == NULL)
			return false;
		buffer = (buffer << 5 | (unsigned int) (letter - BASE32)) & 0xfff;
		bits += 5;
		if (bits >= 8)
		{
			bits -= 8;
			*bytes++ = (unsigned char) (buffer >> bits);
		}
	}
	return (buffer & ((1U << bits) - 1)) == 0;
}

/* Base32 of whole groups of five bytes, with a NUL. */
static void
base32_encode(const unsigned char *bytes, size_t length, char *text)
{
	for (size_t group = 0; group < length; group += 5)
	{
		uint64_t	value = 0;

		for (size_t i = 0; i < 5; i++)
			value = value << 8 | bytes[group + i];
		for (int shift = 35; shift >= 0; shift -= 5)
			*text++ = BASE32[value >> shift & 31];
	}
	*text = '\0';
}

/* CRC-16/XMODEM */
static unsigned int
crc16(const unsigned char *bytes, size_t length)
{
	unsigned int crc = 0;

	for (size_t i = 0; i < length; i++)
	{
		crc ^= (unsigned int) bytes[i] << 8;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc << 1 ^ ((crc & 0x8000) != 0 ? 0x1021 : 0)) & 0xffff;
	}
	return crc;
}

/* The bytes of a user's seed.  False: it is none. */
static bool
decode_seed(NpSpan text, unsigned char seed[SEED_SIZE])
{
	return text.length == SEED_LENGTH && base32_decode(text, seed) &&
		seed[0] == (PREFIX_SEED | PREFIX_USER >> 5) && seed[1] == (PREFIX_USER << 3 & 0xff) &&
		crc16(seed, SEED_SIZE - CRC_SIZE) ==
		(seed[SEED_SIZE - 2] | (unsigned int) seed[SEED_SIZE - 1] << 8);
}

static bool
derive_public(const unsigned char private_key[KEY_SIZE], unsigned char public_key[KEY_SIZE])
{
	EVP_PKEY   *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, private_key, KEY_SIZE);
	size_t		length = KEY_SIZE;
	bool		derived;

	derived = key != NULL && EVP_PKEY_get_raw_public_key(key, public_key, &length) == 1;
	EVP_PKEY_free(key);
	if (!derived)
		ERR_clear_error();		/* the next user of OpenSSL in this process would take it for its own */
	return derived;
}

/*
 * The public key ("U...") of a user's seed ("SU..."), which a server without
 * JWTs knows the user by.
 *
 * False: the seed is not that of a user, or has been mistyped.
 */
bool
np_nkey_public(NpSpan seed, char public_key[NP_NKEY_PUBLIC_SIZE])
{
	unsigned char decoded[SEED_SIZE];
	unsigned char encoded[PUBLIC_SIZE];
	unsigned int crc;
	bool		derived;

	encoded[0] = PREFIX_USER;
	derived = decode_seed(seed, decoded) && derive_public(decoded + 2, encoded + 1);
	explicit_bzero(decoded, sizeof(decoded));
	if (!derived)
		return false;

	crc = crc16(encoded, PUBLIC_SIZE - CRC_SIZE);
	encoded[PUBLIC_SIZE - 2] = crc & 0xff;
	encoded[PUBLIC_SIZE - 1] = crc >> 8;
	base32_encode(encoded, PUBLIC_SIZE, public_key);
	return true;
}
