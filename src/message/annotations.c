/*-------------------------------------------------------------------------
 *
 * annotations.c
 *	  Headers that all messages of a transaction or session have.
 *
 * They are a setting, so that SET LOCAL, savepoints and functions with SET do
 * with them what they do with any.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/catch.h"
#include "base/report.h"
#include "message/annotations.h"
#include "message/header.h"

/* Of all of them, as JSON: no message needs more, and each has them. */
#define MAX_LENGTH	4096

static char *annotations = "";

static void
check_name(const char *name)
{
	static const char *const prefixes[] = {"Nats-", "Pg-", "ce-"};

	np_header_require_name(name, strlen(name));
	for (int i = 0; i < lengthof(prefixes); i++)
		if (pg_strncasecmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			np_raise_input("annotations cannot set the header \"%s\"", name);
	if (pg_strcasecmp(name, "traceparent") == 0)
		np_raise_input("annotations cannot set the header \"%s\", which nats_publish.traceparent sets", name);
}

/* A short number can be long as text. */
static size_t
length_of(const JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return value->type == jbvString ? value->val.string.len : 0;
	return strlen(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric))));
}

static void
check_value(const char *name, const JsonbValue *value)
{
	if (value->type != jbvString && value->type != jbvNumeric && value->type != jbvBool && value->type != jbvNull)
		np_raise_input("value of header \"%s\" is nested", name);
	if (value->type == jbvString)
		np_header_require_value(name, (NpSpan) {value->val.string.val, value->val.string.len});
}

static void
require_length(size_t length)
{
	if (length > MAX_LENGTH)
		np_raise_input("annotations have more than %d bytes", MAX_LENGTH);
}

static void
check_annotation(void *total, NpSpan name, const JsonbValue *value)
{
	char	   *text = pnstrdup(name.data, name.length);

	check_name(text);
	check_value(text, value);
	*(size_t *) total += length_of(value);
	require_length(*(size_t *) total);
}

/* Raises 22023 or what jsonb_in raises. */
static Jsonb *
parse(const char *text)
{
	Jsonb	   *object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	size_t		total = 0;

	if (!JB_ROOT_IS_OBJECT(object))
		np_raise_input("annotations must be a JSON object");
	np_headers_each(object, check_annotation, &total);
	return object;
}

/* NULL: none.  Raises 22023 for what can't be annotations, or what jsonb_in raises. */
Jsonb *
np_annotations_parse(NpSpan text)
{
	require_length(text.length);
	return text.length == 0 ? NULL : parse(pnstrdup(text.data, text.length));
}

/* The same, of which nothing but the errors is wanted. */
void
np_annotations_check(const char *text)
{
	(void) np_annotations_parse((NpSpan) {text, strlen(text)});
}

static void
try_check(void *text)
{
	np_annotations_check(text);
}

static bool
is_about_text(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION;
}

/* In the postmaster, and while a session begins, there is no encoding to check it in: then a message meets it first. */
static bool
check_annotations(char **newval, void **extra, GucSource source)
{
	const ErrorData *error = IsTransactionState() ? np_catch(try_check, *newval, is_about_text) : NULL;

	if (error != NULL)
		GUC_check_errdetail("%s.", error->message);
	return error == NULL;
}

/* To be called when the library is loaded, before the rest of the settings. */
void
np_annotations_define(void)
{
	DefineCustomStringVariable(NP_ANNOTATIONS_SETTING,
							   "Headers of all messages that are published: a JSON object.",
							   "nats_annotate() sets it for the rest of a transaction.",
							   &annotations, "",
							   PGC_USERSET, 0,
							   check_annotations, NULL, NULL);
}

/*
 * The annotations that are set, as an object of scalars of which null is no
 * header; kept until they change.  NULL: there are none.
 *
 * Raises 22023, or what jsonb_in raises, for what could not be checked when it was set.
 */
Jsonb *
np_annotations_current(void)
{
	static char *text = NULL;
	static Jsonb *parsed = NULL;
	Jsonb	   *object;

	if (annotations[0] == '\0')
		return NULL;
	if (text != NULL && strcmp(text, annotations) == 0)
		return parsed;
	object = parse(annotations);
	if (text != NULL)
	{
		pfree(text);
		pfree(parsed);
		text = NULL;
	}
	parsed = MemoryContextAlloc(TopMemoryContext, VARSIZE(object));
	memcpy(parsed, object, VARSIZE(object));
	text = MemoryContextStrdup(TopMemoryContext, annotations);
	return parsed;
}
