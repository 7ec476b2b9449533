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

/* Bytes that belong to somebody else; not NUL-terminated. */
typedef struct NpSpan
{
	const char *data;			/* NULL: absent, which is not the same as empty */
	size_t		length;
} NpSpan;

#endif							/* NP_TYPES_H */
