/*
 * fuzz.h
 *		What the fuzz targets share.
 *
 * A target is a LLVMFuzzerTestOneInput() that gives libFuzzer's bytes to functions of src/ and FUZZ_CHECKs
 * what must hold of their results, whatever the bytes are.  What is given to them is on the heap and of
 * exactly its length (unit_copy), so that the sanitizer sees what reads beyond it.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "base/types.h"
#include "unit.h"

/* The -max_len of test/fuzz/run. */
#define FUZZ_MAX_INPUT	1024

#define FUZZ_CHECK(condition) \
	((condition) ? (void) 0 : fuzz_fail(#condition, __FILE__, __LINE__))

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer then keeps the input. */
static inline void
fuzz_fail(const char *condition, const char *file, int line)
{
	fprintf(stderr, "%s:%d: not true: %s\n", file, line, condition);
	abort();
}

static inline NpSpan
fuzz_copy(NpSpan text)
{
	return (NpSpan) {unit_copy(text.data, text.length), text.length};
}

static inline void
fuzz_free(NpSpan text)
{
	free((void *) text.data);
}

/* What is before the next such byte, or all; *rest gets what is behind it. */
static inline NpSpan
fuzz_take(NpSpan *rest, char byte)
{
	const char *end = rest->length > 0 ? memchr(rest->data, byte, rest->length) : NULL;
	NpSpan		taken = {rest->data, end != NULL ? (size_t) (end - rest->data) : rest->length};

	rest->data += taken.length;
	rest->length -= taken.length;
	if (end != NULL)
		rest->data++, rest->length--;
	return taken;
}

static inline NpSpan
fuzz_text(const char *text)
{
	return (NpSpan) {text, strlen(text)};
}

static inline bool
fuzz_equal(NpSpan a, NpSpan b)
{
	return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

/* Absent spans are inside of everything. */
static inline bool
fuzz_is_inside(NpSpan span, NpSpan text)
{
	return span.data == NULL ? span.length == 0
		: span.data >= text.data && span.length <= text.length &&
		span.data + span.length <= text.data + text.length;
}

static inline size_t
fuzz_count(NpSpan text, char byte)
{
	size_t		count = 0;

	for (size_t i = 0; i < text.length; i++)
		count += text.data[i] == byte;
	return count;
}

static inline bool
fuzz_has_any(NpSpan text, const char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fuzz_count(text, bytes[i]) > 0)
			return true;
	return false;
}

static inline bool
fuzz_begins(NpSpan text, const char *prefix)
{
	return text.length >= strlen(prefix) && memcmp(text.data, prefix, strlen(prefix)) == 0;
}

/* A text that is put together; room is the caller's. */
typedef struct FuzzText
{
	char	   *data;
	size_t		length;
	size_t		room;
} FuzzText;

static inline void
fuzz_append(FuzzText *text, NpSpan more)
{
	FUZZ_CHECK(more.length <= text->room - text->length);
	if (more.length > 0)
		memcpy(text->data + text->length, more.data, more.length);
	text->length += more.length;
}

static inline void
fuzz_append_string(FuzzText *text, const char *more)
{
	fuzz_append(text, fuzz_text(more));
}

static inline NpSpan
fuzz_span(const FuzzText *text)
{
	return (NpSpan) {text->data, text->length};
}

#endif							/* FUZZ_H */
