/*
 * unit.h
 *		A test harness of one header, for the files that need no PostgreSQL.
 *
 * A test is a static void function of CHECKs; main() calls RUN for each and returns unit_done().
 * A table of cases is a loop that calls unit_case() after the CHECKs of each row.
 *
 * Prints one "ok" or "not ok" line for each test or row, which test/run counts. unit_done() is 2
 * when one failed, to tell that from a program that a sanitizer stopped.
 */
#ifndef UNIT_H
#define UNIT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define UNIT_ASAN
#endif
#if __has_feature(thread_sanitizer)
#define UNIT_TSAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define UNIT_ASAN
#endif
#ifdef __SANITIZE_THREAD__
#define UNIT_TSAN
#endif
#ifdef UNIT_ASAN
#include <sanitizer/asan_interface.h>
#endif

#define UNIT_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A string literal as data and length, NUL bytes in it included. */
#define UNIT_TEXT(literal) (literal), sizeof(literal) - 1

static int	unit_number;
static int	unit_failed_tests;
static int	unit_failed_checks;

#define CHECK(cond) \
	((cond) ? (void) 0 \
	 : (unit_failed_checks++, \
		(void) printf("# %s:%d: not true: %s\n", __FILE__, __LINE__, #cond)))

/* Two C strings; either may be NULL. */
#define CHECK_STR(actual, expected) unit_check_str((actual), (expected), __FILE__, __LINE__)

#define CHECK_INT(actual, expected) \
	unit_check_int((long long) (actual), (long long) (expected), __FILE__, __LINE__)

/* Bytes: data and length each. */
#define CHECK_BYTES(actual, length, expected, expected_length) \
	unit_check_bytes((actual), (length), (expected), (expected_length), __FILE__, __LINE__)

#define RUN(test) unit_run(#test, test)

static inline void
unit_check_str(const char *actual, const char *expected, const char *file, int line)
{
	if (actual == expected || (actual && expected && strcmp(actual, expected) == 0))
		return;
	unit_failed_checks++;
	printf("# %s:%d: got \"%s\", expected \"%s\"\n", file, line, actual ? actual : "(null)",
		   expected ? expected : "(null)");
}

static inline void
unit_check_int(long long actual, long long expected, const char *file, int line)
{
	if (actual == expected)
		return;
	unit_failed_checks++;
	printf("# %s:%d: got %lld, expected %lld\n", file, line, actual, expected);
}

/* Any bytes as text of one line, cut off where it gets long; good for the next few calls. */
static inline const char *
unit_quote(const char *data, size_t length)
{
	static char texts[4][320];
	static int	next;
	char	   *text = texts[next++ % 4];
	size_t		used = 1;

	if (data == NULL)
		return "(absent)";
	text[0] = '"';
	for (size_t i = 0; i < length && used < 300; i++)
	{
		unsigned char byte = (unsigned char) data[i];

		if (byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\')
			text[used++] = (char) byte;
		else
			used += (size_t) snprintf(text + used, 5, "\\x%02x", byte);
	}
	memcpy(text + used, "\"", 2);
	return text;
}

static inline void
unit_check_bytes(const char *actual, size_t length, const char *expected, size_t expected_length,
				 const char *file, int line)
{
	if ((actual == NULL) == (expected == NULL) && length == expected_length &&
		(length == 0 || memcmp(actual, expected, length) == 0))
		return;
	unit_failed_checks++;
	printf("# %s:%d: got %s (%zu), expected %s (%zu)\n", file, line, unit_quote(actual, length),
		   length, unit_quote(expected, expected_length), expected_length);
}

/*
 * A copy on the heap of exactly that size, so that a sanitizer sees every byte that is read beyond
 * it; the caller frees it.
 */
static inline char *
unit_copy(const void *data, size_t length)
{
	char	   *copy = malloc(length > 0 ? length : 8);

	if (copy == NULL)
		abort();
	if (length > 0)
		memcpy(copy, data, length);
#ifdef UNIT_ASAN
	else
		ASAN_POISON_MEMORY_REGION(copy, 8); /* malloc(0) would have one byte */
#endif
	return copy;
}

/* xorshift64*: the same numbers in every run. */
static inline uint64_t
unit_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

/*
 * Change *length bytes of text, which has room for size, in a few random places: bytes changed,
 * inserted, removed or repeated, the end cut off, or a piece of another text put in.
 */
static inline void
unit_mutate(char *text, size_t *length, size_t size, const char *other, size_t other_length,
			const char *favourites, uint64_t *state)
{
	int			changes = 1 + (int) (unit_random(state) % 4);

	while (changes-- > 0)
	{
		size_t		at = *length > 0 ? unit_random(state) % *length : 0;
		size_t		count;
		char		byte = unit_random(state) % 2 == 0
			? favourites[unit_random(state) % strlen(favourites)]
			: (char) unit_random(state);

		switch (unit_random(state) % 7)
		{
			case 0:
			case 1:
				if (*length > 0)
					text[at] = byte;
				break;
			case 2:
				if (*length == size)
					break;
				memmove(text + at + 1, text + at, *length - at);
				text[at] = byte;
				(*length)++;
				break;
			case 3:
				if (*length == 0)
					break;
				memmove(text + at, text + at + 1, *length - at - 1);
				(*length)--;
				break;
			case 4:
				count = unit_random(state) % 12;
				if (count > *length - at)
					count = *length - at;
				if (*length + count > size)
					break;
				memmove(text + at + count, text + at, *length - at);
				*length += count;
				break;
			case 5:
				if (unit_random(state) % 4 == 0)
					*length = at;
				break;
			default:
				if (other_length == 0)
					break;
				count = 1 + unit_random(state) % other_length;
				if (count > 40)
					count = 40;
				if (*length + count > size)
					break;
				memmove(text + at + count, text + at, *length - at);
				memcpy(text + at, other + unit_random(state) % (other_length - count + 1), count);
				*length += count;
				break;
		}
	}
}

/* End a row of a table: prints its line. */
static inline void __attribute__((format(printf, 1, 2)))
unit_case(const char *format, ...)
{
	va_list		arguments;

	if (unit_failed_checks > 0)
		unit_failed_tests++;
	printf("%s %d - ", unit_failed_checks > 0 ? "not ok" : "ok", ++unit_number);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
	unit_failed_checks = 0;
}

static inline void
unit_run(const char *name, void (*test) (void))
{
	unit_failed_checks = 0;
	test();
	unit_case("%s", name);
}

static inline int
unit_done(void)
{
	return unit_failed_tests > 0 ? 2 : 0;
}

#endif							/* UNIT_H */
