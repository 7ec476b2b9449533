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

#include "types.h"

extern Jsonb *np_json_parse(NpSpan utf8);
extern bytea *np_base64_decode(const char *encoded);
extern char *np_json_text(Jsonb *object, const char *field);

#endif							/* NP_JSON_H */
