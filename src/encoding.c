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

#include "encoding.h"

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

/* Convert valid UTF-8 without throwing; NULL when that is not possible. */
static char *
convert_from_utf8(NpSpan text)
{
	int			encoding = GetDatabaseEncoding();
	int			room = text.length * MAX_CONVERSION_GROWTH + 1;
	Oid			conversion;
	char	   *converted;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return pnstrdup(text.data, text.length);
	if (!IsTransactionState())
		return NULL;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(conversion))
		return NULL;
	converted = palloc(room);
	if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
									  (unsigned char *) unconstify(char *, text.data), text.length,
									  (unsigned char *) converted, room, true) != text.length)
		return NULL;
	return converted;
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
	char	   *copy;

	if (pg_verify_mbstr(PG_UTF8, text.data, text.length, true))
	{
		copy = convert_from_utf8(text);
		if (copy != NULL)
			return copy;
	}
	copy = pnstrdup(text.data, text.length);
	for (char *byte = copy; *byte != '\0'; byte++)
		if (IS_HIGHBIT_SET(*byte))
			*byte = '?';
	return copy;
}
