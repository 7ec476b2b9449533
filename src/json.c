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

/* Raises what pg_any_to_server and jsonb_in raise. */
static Jsonb *
parse(NpSpan utf8)
{
	char	   *converted = pg_any_to_server(utf8.data, utf8.length, PG_UTF8);

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(converted)));
}

/* Is the error that was caught about the text, and not an interrupt or the like? */
static bool
is_about_text(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * JSON from the wire, palloc'd.  NULL: it is none, or none that PostgreSQL can
 * hold.  The error is caught without a subtransaction, as parsing takes
 * nothing but memory.
 */
Jsonb *
np_json_parse(NpSpan utf8)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	PG_TRY();
	{
		result = parse(utf8);
	}
	PG_CATCH();
	{
		if (!is_about_text(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
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
