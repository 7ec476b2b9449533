/*-------------------------------------------------------------------------
 *
 * header_json.h
 *	  A block of headers is read: one of them, or all as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_HEADER_JSON_H
#define NP_HEADER_JSON_H

#include "base/types.h"

extern NpSpan np_message_header(NpSpan headers, const char *name);
extern char *np_message_headers_to_json(NpSpan headers);

#endif							/* NP_HEADER_JSON_H */
