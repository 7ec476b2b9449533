/*-------------------------------------------------------------------------
 *
 * header.c
 *	  What can be a header at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/report.h"
#include "base/subject.h"
#include "message/header.h"

/* Raises 22023 for what can't be the name of any header. */
void
np_header_require_name(const char *name, size_t length)
{
	size_t		position;

	switch (np_header_name_check((NpSpan) {name, length}, &position))
	{
		case NP_TEXT_OK:
			break;
		case NP_TEXT_EMPTY:
			np_raise_input("header name is empty");
		default:
			np_raise_input("header name has the invalid byte 0x%02x at position %zu",
						   (unsigned char) name[position], position + 1);
	}
}

/* Raises 22023 for what can't be the value of a header. */
void
np_header_require_value(const char *name, NpSpan value)
{
	size_t		position;

	if (np_header_value_check(value, &position) != NP_TEXT_OK)
		np_raise_input("value of header \"%s\" has the invalid byte 0x%02x at position %zu",
					   name, (unsigned char) value.data[position], position + 1);
}

/* Visit the names and values of a JSON object, in its order. */
void
np_headers_each(Jsonb *headers, NpVisitHeader visit, void *argument)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		visit(argument, (NpSpan) {key.val.string.val, key.val.string.len}, &value);
	}
}
