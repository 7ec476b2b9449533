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

#include "base/catch.h"
#include "base/encoding.h"
#include "base/json.h"

/* A text in UTF-8, and what is made of it. */
typedef struct Parsing
{
	NpSpan		utf8;
	Jsonb	   *result;
} Parsing;

static void
parse(void *argument)
{
	Parsing    *parsing = argument;
	char	   *converted = np_from_utf8(np_json_unescape(parsing->utf8));

	parsing->result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(converted)));
}

/* Is the error about the text, and not an interrupt or the like? */
static bool
is_about_text(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * JSON from the wire, palloc'd, with question marks for characters that the
 * database's encoding does not have.  NULL: it is none, or none that PostgreSQL
 * can hold.
 */
Jsonb *
np_json_parse(NpSpan utf8)
{
	Parsing		parsing = {.utf8 = utf8};

	if (pg_verify_mbstr(PG_UTF8, utf8.data, utf8.length, true))
		(void) np_catch(parse, &parsing, is_about_text);
	return parsing.result;
}

/* What the API writes as base64; raises what decode() raises. */
bytea *
np_base64_decode(const char *encoded)
{
	return DatumGetByteaPP(DirectFunctionCall2(binary_decode, CStringGetTextDatum(encoded),
											   CStringGetTextDatum("base64")));
}

/* A scalar as text, palloc'd; NULL when it is none. */
static char *
scalar_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

/* A scalar field of an object as text, palloc'd; NULL when it is not there. */
char *
np_json_text(Jsonb *object, const char *field)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&object->root, field, strlen(field), &value) == NULL)
		return NULL;
	return scalar_text(&value);
}

/* Is a field there, and true? */
bool
np_json_is_true(Jsonb *object, const char *field)
{
	char	   *text = np_json_text(object, field);

	return text != NULL && strcmp(text, "true") == 0;
}

/* A whole number, or what is meant when it is not there. */
int64
np_json_int64(Jsonb *object, const char *field, int64 otherwise)
{
	char	   *text = np_json_text(object, field);

	return text != NULL ? strtoll(text, NULL, 10) : otherwise;
}

/* A field that is an object or an array, palloc'd; NULL when it is not there. */
Jsonb *
np_json_child(Jsonb *object, const char *field)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&object->root, field, strlen(field), &value) == NULL ||
		value.type != jbvBinary)
		return NULL;
	return JsonbValueToJsonb(&value);
}

/* How many elements an array has; none if it is NULL, or no array. */
int
np_json_count(Jsonb *array)
{
	return array != NULL && JB_ROOT_IS_ARRAY(array) ? JB_ROOT_COUNT(array) : 0;
}

/* An element that is an object or an array, palloc'd; NULL when it is neither. */
Jsonb *
np_json_element(Jsonb *array, int index)
{
	JsonbValue *value = getIthJsonbValueFromContainer(&array->root, index);

	return value != NULL && value->type == jbvBinary ? JsonbValueToJsonb(value) : NULL;
}

/* An element that is a scalar as text, palloc'd; NULL when it is none. */
char *
np_json_element_text(Jsonb *array, int index)
{
	JsonbValue *value = getIthJsonbValueFromContainer(&array->root, index);

	return value != NULL ? scalar_text(value) : NULL;
}
