/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Text between the database's encoding and UTF-8, which is NATS's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"

#include "base/compat.h"
#include "base/encoding.h"

/*
 * Text of the database in UTF-8: palloc'd, or the text's own bytes.  Raises
 * what the conversion raises.
 */
NpSpan
np_to_utf8(const char *text, size_t length)
{
	char	   *converted = pg_server_to_any(text, length, PG_UTF8);

	return (NpSpan) {converted, converted == text ? length : strlen(converted)};
}

/* Convert valid text without throwing; NULL when that is not possible. */
static char *
convert(NpSpan text, int from, int to)
{
	int			room = text.length * MAX_CONVERSION_GROWTH + 1;
	Oid			conversion;
	char	   *converted;

	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return pnstrdup(text.data, text.length);
	if (!IsTransactionState())
		return NULL;
	conversion = FindDefaultConversionProc(from, to);
	if (!OidIsValid(conversion))
		return NULL;
	converted = palloc(room);
	if (pg_do_encoding_conversion_buf(conversion, from, to,
									  (unsigned char *) unconstify(char *, text.data), text.length,
									  (unsigned char *) converted, room, true) != text.length)
		return NULL;
	return converted;
}

/* With question marks for what can't be converted, and whatever the text is. */
static char *
convert_somehow(NpSpan text, int from, int to)
{
	char	   *copy;

	if (pg_verify_mbstr(from, text.data, text.length, true))
	{
		copy = convert(text, from, to);
		if (copy != NULL)
			return copy;
	}
	copy = pnstrdup(text.data, text.length);
	for (char *byte = copy; *byte != '\0'; byte++)
		if (IS_HIGHBIT_SET(*byte))
			*byte = '?';
	return copy;
}

/*
 * UTF-8 from the wire, palloc'd in the database's encoding.
 *
 * What the server sends may be anything, and it must not turn a report about
 * the server into an ERROR about its text: what can't be converted is shown
 * with question marks.
 */
char *
np_from_utf8(NpSpan text)
{
	return convert_somehow(text, PG_UTF8, GetDatabaseEncoding());
}

/* The same for a string. */
char *
np_string_from_utf8(const char *utf8)
{
	return np_from_utf8((NpSpan) {utf8, strlen(utf8)});
}

/* np_to_utf8 for a text value; NULL is absent. */
NpSpan
np_text_to_utf8(const text *value)
{
	return value == NULL ? (NpSpan) {NULL, 0} : np_to_utf8(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

/*
 * Text of the database in UTF-8, palloc'd.  With question marks as above, for
 * who would rather have these than an error.
 */
char *
np_to_utf8_somehow(const char *text)
{
	return convert_somehow((NpSpan) {text, strlen(text)}, GetDatabaseEncoding(), PG_UTF8);
}

/* Put UTF-8 into a buffer, cut where it is too long. */
void
np_utf8_copy(char *buffer, size_t size, NpSpan utf8)
{
	int			length = pg_encoding_mbcliplen(PG_UTF8, utf8.data, utf8.length, size - 1);

	memcpy(buffer, utf8.data, length);
	buffer[length] = '\0';
}
