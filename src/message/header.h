/*-------------------------------------------------------------------------
 *
 * header.h
 *	  What can be a header at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_HEADER_H
#define NP_HEADER_H

#include "base/types.h"

extern void np_header_require_name(const char *name, size_t length);
extern void np_header_require_value(const char *name, NpSpan value);

#endif							/* NP_HEADER_H */
