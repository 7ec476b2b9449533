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
#include "base/list.h"
#include "base/subject.h"

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

/* Can a stream, or a domain, have this name, in UTF-8?  What the network tells need not be one. */
bool
np_is_stream_name(NpSpan name)
{
	static const char forbidden[] = {'.', '*', '>', '/', '\\'};
	size_t		position;

	for (size_t i = 0; i < sizeof(forbidden); i++)
		if (name.length > 0 && memchr(name.data, forbidden[i], name.length) != NULL)
			return false;
	return np_subject_check(name, &position) == NP_TEXT_OK;
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

/* NULL, or what is wrong with an inbox prefix, as a sentence. */
const char *
np_inbox_prefix_problem(const char *prefix)
{
	NpSpan		text = {prefix, strlen(prefix)};
	size_t		position;

	if (np_subject_check(text, &position) != NP_TEXT_OK)
		return "It must be a NATS subject without wildcards.";
	if (np_subject_is_reserved(text, (NpSpan) {"$JS", 3}))
		return "It must not be under \"$JS\" or \"$SYS\".";
	if (text.length > NP_MAX_INBOX_PREFIX_LENGTH)
		return "It can be at most 32 bytes long.";
	return NULL;
}

/* ---- Patterns -------------------------------------------------------------- */

/* Take the first token off; false: nothing is left. */
static bool
next_token(NpSpan *rest, NpSpan *token)
{
	const char *dot;

	if (rest->data == NULL)
		return false;
	dot = memchr(rest->data, '.', rest->length);
	token->data = rest->data;
	token->length = dot == NULL ? rest->length : (size_t) (dot - rest->data);
	if (dot == NULL)
		rest->data = NULL;
	else
	{
		rest->data = dot + 1;
		rest->length -= token->length + 1;
	}
	return true;
}

static bool
is_byte(NpSpan token, char byte)
{
	return token.length == 1 && token.data[0] == byte;
}

/* What is wrong with a pattern, as a clause; NULL: nothing. */
const char *
np_pattern_problem(NpSpan pattern)
{
	NpSpan		token;

	if (pattern.length == 0)
		return "it is empty";
	for (size_t i = 0; i < pattern.length; i++)
		if ((unsigned char) pattern.data[i] <= ' ' || pattern.data[i] == 0x7f)
			return "it has a blank or a control character";
	while (next_token(&pattern, &token))
	{
		if (token.length == 0)
			return "it has an empty token";
		if (is_byte(token, '>') && pattern.data != NULL)
			return "\">\" is not its last token";
		if (token.length > 1 && (memchr(token.data, '*', token.length) || memchr(token.data, '>', token.length)))
			return "a wildcard is not a token of its own";
	}
	return NULL;
}

/*
 * Does a subject match a pattern, or all that another pattern stands for?  By
 * the rules of NATS: "*" is one token, ">" is one or more at the end.
 */
bool
np_pattern_matches(NpSpan pattern, NpSpan subject)
{
	NpSpan		wanted;
	NpSpan		token;

	while (next_token(&pattern, &wanted))
	{
		if (!next_token(&subject, &token))
			return false;
		if (is_byte(wanted, '>'))
			return true;
		if (is_byte(token, '>') || (!is_byte(wanted, '*') && !np_span_equals(wanted, token)))
			return false;
	}
	return subject.data == NULL;
}

/*
 * Check a comma-separated list of patterns.  NULL, or what is wrong with the
 * first bad one, as a clause; *position becomes its number, counted from 1.
 */
const char *
np_pattern_list_problem(const char *list, int *position)
{
	NpSpan		pattern;

	for (*position = 1; np_list_next(&list, &pattern); (*position)++)
	{
		const char *problem = np_pattern_problem(pattern);

		if (problem != NULL)
			return problem;
	}
	return NULL;
}

/* The same for any pattern of a list that was checked. */
bool
np_pattern_list_matches(const char *list, NpSpan subject)
{
	NpSpan		pattern;

	while (np_list_next(&list, &pattern))
		if (np_pattern_matches(pattern, subject))
			return true;
	return false;
}

/* ---- Headers ------------------------------------------------------------------ */

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
