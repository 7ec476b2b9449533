/*-------------------------------------------------------------------------
 *
 * json.h
 *	  Fields of JSON objects that come from the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_JSON_H
#define NP_JSON_H

#include "utils/jsonb.h"

#include "base/types.h"

extern Jsonb *np_json_parse(NpSpan utf8);
extern bytea *np_base64_decode(const char *encoded);
extern char *np_json_text(Jsonb *object, const char *field);
extern bool np_json_is_true(Jsonb *object, const char *field);
extern int64 np_json_int64(Jsonb *object, const char *field, int64 otherwise);
extern Jsonb *np_json_child(Jsonb *object, const char *field);
extern int	np_json_count(Jsonb *array);
extern Jsonb *np_json_element(Jsonb *array, int index);
extern char *np_json_element_text(Jsonb *array, int index);

#endif							/* NP_JSON_H */
