/*-------------------------------------------------------------------------
 *
 * header.h
 *	  What can be a header at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_HEADER_H
#define NP_HEADER_H

#include "utils/jsonb.h"

#include "base/types.h"

/* The name is not ended by a zero. */
typedef void (*NpVisitHeader) (void *argument, NpSpan name, const JsonbValue *value);

extern void np_header_require_name(const char *name, size_t length);
extern void np_header_require_value(const char *name, NpSpan value);
extern void np_headers_each(Jsonb *headers, NpVisitHeader visit, void *argument);

#endif							/* NP_HEADER_H */
