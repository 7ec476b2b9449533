/*-------------------------------------------------------------------------
 *
 * siphash_test.c
 *	  The vectors of SipHash's authors.
 *
 *-------------------------------------------------------------------------
 */
#include "unit.h"

#include "base/siphash.h"

/* SipHash-2-4 with the key 00 01 ... 0f of the first n bytes of 00 01 02 ... */
static const struct
{
	size_t		length;
	uint64_t	hash;
}			vectors[] = {
	{0, UINT64_C(0x726fdb47dd0e0e31)},
	{1, UINT64_C(0x74f839c593dc67fd)},
	{7, UINT64_C(0xab0200f58b01d137)},
	{8, UINT64_C(0x93f5f5799a932462)},
	{15, UINT64_C(0xa129ca6149be45e5)},
	{63, UINT64_C(0x958a324ceb064572)},
};

static void
test_vectors(void)
{
	unsigned char key[NP_SIPHASH_KEY];
	char		input[64];

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (unsigned char) i;
	for (size_t i = 0; i < sizeof(input); i++)
		input[i] = (char) i;
	for (size_t i = 0; i < UNIT_COUNT(vectors); i++)
	{
		CHECK(np_siphash(key, input, vectors[i].length) == vectors[i].hash);
		unit_case("a vector of %zu bytes", vectors[i].length);
	}
}

/* Each bit of the key and of the data counts. */
static void
test_bits(void)
{
	unsigned char key[NP_SIPHASH_KEY] = {0};
	char		input[13] = {0};
	uint64_t	plain = np_siphash(key, input, sizeof(input));

	for (size_t bit = 0; bit < sizeof(input) * 8; bit++)
	{
		input[bit / 8] ^= (char) (1 << bit % 8);
		CHECK(np_siphash(key, input, sizeof(input)) != plain);
		input[bit / 8] ^= (char) (1 << bit % 8);
	}
	for (size_t bit = 0; bit < sizeof(key) * 8; bit++)
	{
		key[bit / 8] ^= (unsigned char) (1 << bit % 8);
		CHECK(np_siphash(key, input, sizeof(input)) != plain);
		key[bit / 8] ^= (unsigned char) (1 << bit % 8);
	}
	CHECK(np_siphash(key, input, sizeof(input) - 1) != plain);
}

int
main(void)
{
	test_vectors();
	RUN(test_bits);
	return unit_done();
}
