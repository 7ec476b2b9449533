/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Fields of JSON objects that come from the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "json.h"

/* JSON from the wire; raises what jsonb_in raises. */
Jsonb *
np_json_parse(NpSpan utf8)
{
	char	   *converted = pg_any_to_server(utf8.data, utf8.length, PG_UTF8);

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(converted)));
}

/* What the API writes as base64; raises what decode() raises. */
bytea *
np_base64_decode(const char *encoded)
{
	return DatumGetByteaPP(DirectFunctionCall2(binary_decode, CStringGetTextDatum(encoded),
											   CStringGetTextDatum("base64")));
}

/* A scalar field of an object as text, palloc'd; NULL when it is not there. */
char *
np_json_text(Jsonb *object, const char *field)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&object->root, field, strlen(field), &value) == NULL)
		return NULL;
	switch (value.type)
	{
		case jbvString:
			return pnstrdup(value.val.string.val, value.val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value.val.numeric)));
		case jbvBool:
			return pstrdup(value.val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}
