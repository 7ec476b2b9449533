/*-------------------------------------------------------------------------
 *
 * siphash.c
 *	  A hash that nobody can foretell who does not know its key.
 *
 * SipHash-2-4 (Aumasson and Bernstein, 2012): a message authentication code
 * of 64 bits, at about a byte per cycle.  SHA-2 would cost more than all else
 * that is done for a short message.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "base/siphash.h"

typedef struct State
{
	uint64_t	a,
				b,
				c,
				d;
} State;

static uint64_t
rotated(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static void
mix(State *v, int rounds)
{
	for (; rounds > 0; rounds--)
	{
		v->a += v->b;
		v->b = rotated(v->b, 13) ^ v->a;
		v->a = rotated(v->a, 32);
		v->c += v->d;
		v->d = rotated(v->d, 16) ^ v->c;
		v->a += v->d;
		v->d = rotated(v->d, 21) ^ v->a;
		v->c += v->b;
		v->b = rotated(v->b, 17) ^ v->c;
		v->c = rotated(v->c, 32);
	}
}

/* Up to eight bytes, the first one the lowest. */
static uint64_t
load(const unsigned char *bytes, size_t length)
{
	uint64_t	value = 0;

	for (size_t i = 0; i < length; i++)
		value |= (uint64_t) bytes[i] << (8 * i);
	return value;
}

static void
absorb(State *v, uint64_t word)
{
	v->d ^= word;
	mix(v, 2);
	v->a ^= word;
}

uint64_t
np_siphash(const unsigned char *key, const char *data, size_t length)
{
	const unsigned char *bytes = (const unsigned char *) data;
	uint64_t	first = load(key, 8);
	uint64_t	second = load(key + 8, 8);
	State		v = {
		first ^ UINT64_C(0x736f6d6570736575), second ^ UINT64_C(0x646f72616e646f6d),
		first ^ UINT64_C(0x6c7967656e657261), second ^ UINT64_C(0x7465646279746573)
	};
	size_t		whole = length & ~(size_t) 7;

	for (size_t i = 0; i < whole; i += 8)
		absorb(&v, load(bytes + i, 8));
	absorb(&v, load(bytes + whole, length - whole) | (uint64_t) length << 56);
	v.c ^= 0xff;
	mix(&v, 4);
	return v.a ^ v.b ^ v.c ^ v.d;
}
