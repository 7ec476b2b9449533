/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Fields of JSON objects that come from the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"

#include "json.h"

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
