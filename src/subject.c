/*-------------------------------------------------------------------------
 *
 * subject.c
 *	  What may be a NATS subject, a header name, a header value.
 *
 * Neither libnats nor the server (unless it is pedantic) checks what is
 * published: a space ends the connection, and a CR LF in a subject or in a
 * header name is a forged protocol message.  So nothing goes to the wire that
 * did not pass here.  Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "subject.h"

#include <string.h>

/*
 * Is the token a wildcard?  Only whole tokens are: "a*b" is an ordinary one.
 */
static bool
token_is_wildcard(const char *token, size_t length)
{
	return length == 1 && (token[0] == '*' || token[0] == '>');
}

/*
 * Check a subject to publish to, in UTF-8.
 *
 * Returns the first problem in it, with its byte offset in *position where
 * the problem has a place.
 */
NpTextProblem
np_subject_check(NpSpan subject, size_t *position)
{
	size_t		token = 0;

	*position = 0;
	if (subject.length == 0)
		return NP_TEXT_EMPTY;
	if (subject.length > NP_MAX_SUBJECT_LENGTH)
		return NP_TEXT_TOO_LONG;

	for (size_t i = 0; i <= subject.length; i++)
	{
		unsigned char byte = i < subject.length ? (unsigned char) subject.data[i] : '.';

		*position = i;
		if (byte <= ' ' || byte == 0x7f)
			return NP_TEXT_BAD_BYTE;
		if (byte != '.')
			continue;
		*position = token;
		if (i == token)
			return NP_TEXT_EMPTY_TOKEN;
		if (token_is_wildcard(subject.data + token, i - token))
			return NP_TEXT_WILDCARD;
		token = i + 1;
	}
	return NP_TEXT_OK;
}

static bool
is_under(NpSpan subject, const char *prefix, size_t length)
{
	return subject.length >= length && memcmp(subject.data, prefix, length) == 0 &&
		(subject.length == length || subject.data[length] == '.');
}

/*
 * Does the subject belong to the server's own protocols or to the inboxes?
 *
 * Publishing there would be an API request, or an ack forged for another
 * session.  $KV and $O are streams like any other and not reserved.
 */
bool
np_subject_is_reserved(NpSpan subject, NpSpan inbox_prefix)
{
	return is_under(subject, "$JS", 3) || is_under(subject, "$SYS", 4) ||
		is_under(subject, inbox_prefix.data, inbox_prefix.length);
}

/*
 * Check a header name: printable ASCII but the colon (ADR-4).
 */
NpTextProblem
np_header_name_check(NpSpan name, size_t *position)
{
	*position = 0;
	if (name.length == 0)
		return NP_TEXT_EMPTY;
	for (size_t i = 0; i < name.length; i++)
	{
		unsigned char byte = (unsigned char) name.data[i];

		*position = i;
		if (byte <= ' ' || byte >= 0x7f || byte == ':')
			return NP_TEXT_BAD_BYTE;
	}
	return NP_TEXT_OK;
}

/*
 * Check a header value: anything that does not end its line.
 *
 * libnats would turn CR and LF into blanks; a value that is not what the user
 * gave is worse than an error.
 */
NpTextProblem
np_header_value_check(NpSpan value, size_t *position)
{
	*position = 0;
	for (size_t i = 0; i < value.length; i++)
	{
		*position = i;
		if (value.data[i] == '\r' || value.data[i] == '\n' || value.data[i] == '\0')
			return NP_TEXT_BAD_BYTE;
	}
	return NP_TEXT_OK;
}
