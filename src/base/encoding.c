/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Text between the database's encoding and UTF-8, which is NATS's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
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

/*
 * UTF-8 as it should be: the text itself, or (palloc'd) with U+FFFD for each
 * byte that belongs to no character.  A table can hold such bytes, by a cast of
 * one's own or from an old version.
 */
NpSpan
np_utf8_mend(NpSpan text)
{
	static const char replacement[] = "\xef\xbf\xbd";
	StringInfoData mended;
	const char *end = text.data + text.length;
	int			length;

	if (pg_encoding_verifymbstr(PG_UTF8, text.data, text.length) == text.length)
		return text;
	initStringInfo(&mended);
	/* by characters: that function goes through all of the text before it tells where it is wrong */
	for (const char *at = text.data; at < end; at += Max(length, 1))
	{
		length = pg_encoding_verifymbchar(PG_UTF8, at, end - at);
		if (length > 0)
			appendBinaryStringInfo(&mended, at, length);
		else
			appendStringInfoString(&mended, replacement);
	}
	return (NpSpan) {mended.data, mended.len};
}

/* One question mark for each character that the other encoding does not have. */
static char *
convert_by(Oid conversion, NpSpan text, int from, int to)
{
	int			room = text.length * MAX_CONVERSION_GROWTH + 1;
	char	   *converted = palloc(room);
	size_t		done = 0;
	int			written = 0;

	converted[0] = '\0';
	while (done < text.length)
	{
		done += pg_do_encoding_conversion_buf(conversion, from, to,
											  (unsigned char *) unconstify(char *, text.data) + done, text.length - done,
											  (unsigned char *) converted + written, room - written, true);
		written += strlen(converted + written);
		if (done >= text.length)
			break;
		done += pg_encoding_mblen(from, text.data + done);
		converted[written++] = '?';
		converted[written] = '\0';
	}
	return converted;
}

/* Convert valid text without throwing; NULL when that is not possible. */
static char *
convert(NpSpan text, int from, int to)
{
	Oid			conversion;

	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return pnstrdup(text.data, text.length);
	if (!IsTransactionState())
		return NULL;
	conversion = FindDefaultConversionProc(from, to);
	return OidIsValid(conversion) ? convert_by(conversion, text, from, to) : NULL;
}

/* With question marks for what can't be converted, and for all that is not ASCII if the text is not valid. */
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

/* ---- JSON ---------------------------------------------------------------------------- */

/* The number in \uXXXX; -1: something else is there. */
static int
escaped_unit(const char *text, const char *end)
{
	int			unit = 0;

	if (end - text < 6 || text[0] != '\\' || text[1] != 'u')
		return -1;
	for (int i = 2; i < 6; i++)
	{
		if (!isxdigit((unsigned char) text[i]))
			return -1;
		unit = unit * 16 + (isdigit((unsigned char) text[i]) ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10);
	}
	return unit;
}

/* The character outside of ASCII that is escaped here, behind which *text goes; 0: there is none. */
static pg_wchar
take_escaped(const char **text, const char *end)
{
	int			unit = escaped_unit(*text, end);
	int			second;

	if (unit <= 0x7F || is_utf16_surrogate_second(unit))
		return 0;
	if (!is_utf16_surrogate_first(unit))
	{
		*text += 6;
		return unit;
	}
	second = escaped_unit(*text + 6, end);
	if (second < 0 || !is_utf16_surrogate_second(second))
		return 0;
	*text += 12;
	return surrogate_pair_to_codepoint(unit, second);
}

/*
 * JSON in UTF-8 without escapes of what is not ASCII: palloc'd, or the bytes
 * themselves.
 *
 * PostgreSQL's parser takes such escapes only of characters that the
 * database's encoding has, gives them in that encoding, and in SQL_ASCII
 * raises.  NUL and half a pair of surrogates stay: it never takes them.
 */
NpSpan
np_json_unescape(NpSpan json)
{
	const char *text = json.data;
	const char *end = json.data + json.length;
	unsigned char *copy;
	unsigned char *to;

	if (json.length == 0 || memchr(json.data, '\\', json.length) == NULL)
		return json;
	copy = to = palloc(json.length + 1);
	while (text < end)
	{
		pg_wchar	character = take_escaped(&text, end);

		if (character != 0)
		{
			unicode_to_utf8(character, to);
			to += pg_encoding_mblen(PG_UTF8, (char *) to);
			continue;
		}
		/* what is behind a backslash is no beginning of another escape */
		if (*text == '\\' && text + 1 < end)
			*to++ = *text++;
		*to++ = *text++;
	}
	*to = '\0';
	return (NpSpan) {(char *) copy, to - copy};
}

/* ---- Buffers ------------------------------------------------------------------------- */

/* Put text of the database into a buffer, cut where it is too long. */
void
np_text_cut(char *buffer, size_t size, const char *text)
{
	strlcpy(buffer, text, pg_mbcliplen(text, strlen(text), size - 1) + 1);
}

/* Put UTF-8 into a buffer, cut where it is too long. */
void
np_utf8_copy(char *buffer, size_t size, NpSpan utf8)
{
	int			length = pg_encoding_mbcliplen(PG_UTF8, utf8.data, utf8.length, size - 1);

	memcpy(buffer, utf8.data, length);
	buffer[length] = '\0';
}
