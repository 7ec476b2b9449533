/*-------------------------------------------------------------------------
 *
 * list.c
 *	  Comma-separated lists in settings and options.
 *
 * Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "base/list.h"

#include <ctype.h>
#include <string.h>

/*
 * Take the next item off a comma-separated list, without the blanks around it.
 *
 * *rest starts as the whole list; false at its end.  Items can be empty.
 */
bool
np_list_next(const char **rest, NpSpan *item)
{
	const char *start = *rest;
	size_t		length;

	if (start == NULL)
		return false;
	length = strcspn(start, ",");
	*rest = start[length] == ',' ? start + length + 1 : NULL;

	while (length > 0 && isspace((unsigned char) *start))
		start++, length--;
	while (length > 0 && isspace((unsigned char) start[length - 1]))
		length--;
	item->data = start;
	item->length = length;
	return true;
}
