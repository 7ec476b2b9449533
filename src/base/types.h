/*-------------------------------------------------------------------------
 *
 * types.h
 *	  Types that more than one layer names.
 *
 * Plain C: included by files that know nothing of PostgreSQL, and by those
 * that do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TYPES_H
#define NP_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that belong to somebody else; not NUL-terminated. */
typedef struct NpSpan
{
	const char *data;			/* NULL: absent, which is not the same as empty */
	size_t		length;
} NpSpan;

/* The same bytes?  An absent one equals an empty one. */
static inline bool
np_span_equals(NpSpan a, NpSpan b)
{
	return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

#endif							/* NP_TYPES_H */
