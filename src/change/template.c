/*-------------------------------------------------------------------------
 *
 * template.c
 *	  Texts with {names} in them.
 *
 * A template is text with names in braces: "orders.{customer}.{op}".  Doubled
 * braces are literal ones, and a name in double quotes (doubled inside) is
 * never one of the predefined ones.  What a name stands for is the caller's.
 *
 * Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "change/template.h"

#include <string.h>

static NpTemplatePart
part(NpTemplatePartKind kind, const char *data, size_t length)
{
	NpTemplatePart result = {.kind = kind,.text = {data, length}};

	return result;
}

static NpTemplatePart
problem(const char *clause)
{
	return part(NP_PART_PROBLEM, clause, strlen(clause));
}

static void
skip(NpSpan *rest, size_t length)
{
	rest->data += length;
	rest->length -= length;
}

/* The text up to the next brace. */
static NpTemplatePart
next_text(NpSpan *rest)
{
	NpTemplatePart found;
	size_t		length = 0;

	while (length < rest->length && rest->data[length] != '{' && rest->data[length] != '}')
		length++;
	found = part(NP_PART_TEXT, rest->data, length);
	skip(rest, length);
	return found;
}

/* {"name"}; rest begins with the quote. */
static NpTemplatePart
next_quoted(NpSpan *rest)
{
	NpTemplatePart found;
	size_t		end = 1;

	while (end < rest->length)
	{
		if (rest->data[end] != '"')
			end++;
		else if (end + 1 < rest->length && rest->data[end + 1] == '"')
			end += 2;
		else
			break;
	}
	if (end + 1 >= rest->length || rest->data[end + 1] != '}')
		return problem("has a quoted name that is not closed");
	if (end == 1)
		return problem("has an empty name");
	found = part(NP_PART_QUOTED, rest->data + 1, end - 1);
	skip(rest, end + 2);
	return found;
}

/*
 * The next part of a template, which is taken off *rest.  Parts are inside
 * the template; after a problem there is nothing to go on with.
 */
NpTemplatePart
np_template_next(NpSpan *rest)
{
	NpTemplatePart found;
	const char *close;
	char		first;

	if (rest->length == 0)
		return part(NP_PART_END, NULL, 0);
	first = rest->data[0];
	if (first != '{' && first != '}')
		return next_text(rest);

	if (rest->length > 1 && rest->data[1] == first)
	{
		found = part(NP_PART_TEXT, rest->data, 1);
		skip(rest, 2);
		return found;
	}
	if (first == '}')
		return problem("has a \"}\" without a \"{\"");
	skip(rest, 1);
	if (rest->length > 0 && rest->data[0] == '"')
		return next_quoted(rest);
	close = rest->length == 0 ? NULL : memchr(rest->data, '}', rest->length);
	if (close == NULL)
		return problem("has a \"{\" without a \"}\"");
	if (close == rest->data)
		return problem("has an empty name");
	found = part(NP_PART_NAME, rest->data, close - rest->data);
	skip(rest, found.text.length + 1);
	return found;
}

/*
 * The name of a NP_PART_QUOTED, without the doubling of quotes; name has room
 * for the part's length.  Returns its length.
 */
size_t
np_template_unquote(NpSpan quoted, char *name)
{
	size_t		length = 0;

	for (size_t i = 0; i < quoted.length; i++)
	{
		name[length++] = quoted.data[i];
		if (quoted.data[i] == '"')
			i++;
	}
	return length;
}
