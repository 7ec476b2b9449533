/*-------------------------------------------------------------------------
 *
 * header_json.c
 *	  A block of headers is read: one of them, or all as JSON.
 *
 * The block can be one that others have stored, and be anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/json.h"

#include "base/encoding.h"
#include "message/header_json.h"
#include "message/protocol.h"

/* The value of a header in a block; absent when it has none. */
NpSpan
np_message_header(NpSpan headers, const char *name)
{
	NpSpan		rest = headers;
	NpSpan		found;
	NpSpan		value;

	while (np_header_next(&rest, &found, &value))
		if (found.length == strlen(name) && strncmp(found.data, name, found.length) == 0)
			return value;
	return (NpSpan) {NULL, 0};
}

/* Append all values of a name in a block, with commas; returns how many. */
static int
append_values(StringInfo json, NpSpan headers, NpSpan name)
{
	NpSpan		found;
	NpSpan		value;
	int			count = 0;

	while (np_header_next(&headers, &found, &value))
	{
		if (!np_span_equals(found, name))
			continue;
		if (count == 0 && found.data != name.data)
			return 0;			/* written already, with its first */
		if (count++ > 0)
			appendStringInfoString(json, ", ");
		escape_json(json, np_from_utf8(value));
	}
	return count;
}

/*
 * A header block as a JSON object in the database's encoding, palloc'd: the
 * values of a repeated header become an array, in the order of the block.
 */
char *
np_message_headers_to_json(NpSpan headers)
{
	StringInfoData json;
	StringInfoData values;
	NpSpan		rest = headers;
	NpSpan		name;
	NpSpan		value;

	initStringInfo(&json);
	initStringInfo(&values);
	appendStringInfoChar(&json, '{');
	while (np_header_next(&rest, &name, &value))
	{
		int			count;

		CHECK_FOR_INTERRUPTS(); /* it is quadratic, and who knows what a stream holds */
		resetStringInfo(&values);
		count = append_values(&values, headers, name);
		if (count == 0)
			continue;
		if (json.len > 1)
			appendStringInfoString(&json, ", ");
		escape_json(&json, np_from_utf8(name));
		appendStringInfo(&json, count == 1 ? ": %s" : ": [%s]", values.data);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}
