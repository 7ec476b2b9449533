/*-------------------------------------------------------------------------
 *
 * encoding.h
 *	  Text between the database's encoding and UTF-8, which is NATS's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ENCODING_H
#define NP_ENCODING_H

#include "base/types.h"

extern NpSpan np_to_utf8(const char *text, size_t length);
extern NpSpan np_utf8_mend(NpSpan text);
extern NpSpan np_text_to_utf8(const text *value);
extern char *np_from_utf8(NpSpan text);
extern char *np_string_from_utf8(const char *utf8);
extern char *np_to_utf8_somehow(const char *text);
extern NpSpan np_json_unescape(NpSpan json);
extern void np_text_cut(char *buffer, size_t size, const char *text);
extern void np_utf8_copy(char *buffer, size_t size, NpSpan utf8);

#endif							/* NP_ENCODING_H */
