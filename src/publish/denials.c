/*-------------------------------------------------------------------------
 *
 * denials.c
 *	  What the NATS user may not publish.
 *
 * A publish that is denied has no reply, but an error of the connection.
 * Allocates in the current context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"

#include "base/encoding.h"
#include "publish/denials.h"

/* An escape of Go's %q: the letter behind the backslash, and how many hexadecimal digits or which byte it stands for. */
static const struct
{
	char		letter;
	uint8		digits;
	char		byte;
}			escapes[] = {
	{'x', 2, 0}, {'u', 4, 0}, {'U', 8, 0},
	{'a', 0, '\a'}, {'b', 0, '\b'}, {'f', 0, '\f'}, {'n', 0, '\n'}, {'r', 0, '\r'}, {'t', 0, '\t'}, {'v', 0, '\v'}
};

/* The number in so many hexadecimal digits; false: that is not what is there. */
static bool
hexadecimal(NpSpan text, size_t digits, uint32 *number)
{
	*number = 0;
	if (text.length < digits)
		return false;
	for (size_t i = 0; i < digits; i++)
	{
		char		digit = text.data[i];

		if (!isxdigit((unsigned char) digit))
			return false;
		*number = *number * 16 + (isdigit((unsigned char) digit) ? digit - '0' : (digit | 0x20) - 'a' + 10);
	}
	return true;
}

/* Write a character of \u or \U, which is no longer than its escape, or the byte of \x; returns the length. */
static size_t
put_number(uint32 number, bool is_byte, char *to)
{
	if (is_byte)
	{
		*to = (char) number;
		return 1;
	}
	unicode_to_utf8(number, (unsigned char *) to);
	return pg_encoding_mblen(PG_UTF8, to);
}

/*
 * Write what is escaped behind a backslash to *to, which goes behind it; returns how much of the
 * text that was.  What is no escape stands for itself, as quotes and backslashes do.
 */
static size_t
unescape(NpSpan text, char **to)
{
	uint32		number;

	for (int i = 0; i < lengthof(escapes); i++)
	{
		size_t		digits = escapes[i].digits;

		if (escapes[i].letter != text.data[0])
			continue;
		if (digits == 0)
			*(*to)++ = escapes[i].byte;
		else if (hexadecimal((NpSpan) {text.data + 1, text.length - 1}, digits, &number))
			*to += put_number(number, digits == 2, *to);
		else
			break;
		return 1 + digits;
	}
	*(*to)++ = text.data[0];
	return 1;
}

/*
 * The text that the server has quoted (Go's %q), palloc'd.  Besides quotes and
 * backslashes it escapes what can't be seen: control characters, spaces of
 * many kinds, characters without a width, and bytes that are no UTF-8.
 */
static NpSpan
unquoted(NpSpan quoted)
{
	char	   *text = palloc(quoted.length + 1);
	char	   *to = text;
	size_t		i = 0;

	while (i < quoted.length && quoted.data[i] != '"')
	{
		if (quoted.data[i] == '\\' && i + 1 < quoted.length)
			i += 1 + unescape((NpSpan) {quoted.data + i + 1, quoted.length - i - 1}, &to);
		else
			*to++ = quoted.data[i++];
	}
	return i < quoted.length ? (NpSpan) {text, to - text} : (NpSpan) {NULL, 0};
}

/* What stands behind a prefix; absent when the text does not begin with it. */
static NpSpan
behind(NpSpan text, const char *prefix)
{
	size_t		length = strlen(prefix);

	if (text.length < length || strncmp(text.data, prefix, length) != 0)
		return (NpSpan) {NULL, 0};
	return (NpSpan) {text.data + length, text.length - length};
}

static void
fail_not_permitted(NpSession *session, NpPending *message, bool reply_subject)
{
	NpFailure	failure = {.fault = NP_FAULT_NOT_PERMITTED};

	failure.text = reply_subject ? "the NATS user may not ask for replies to its inbox" :
		"the NATS user may not publish to this subject";
	if (reply_subject)
		failure.hint = "Set nats_publish.inbox_prefix, or the option inbox_prefix of the foreign server, to a subject that the NATS user may use.";
	np_delivery_fail(session, message, failure);
}

/* The next message to a subject, from a token on, that is on its way and not marked. */
static NpPending *
next_undenied(NpSession *session, NpSpan subject, uint64 next)
{
	NpPending  *message;

	while ((message = np_window_next(&session->window, &next)) != NULL)
		if (!message->denied && message->retry_at == 0 &&
			message->position + message->length <= np_session_outbound(session)->sent &&
			np_span_equals(np_pending_subject(message), subject))
			return message;
	return NULL;
}

static bool
is_published_to(NpSession *session, NpSpan subject)
{
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(&session->window, &next)) != NULL)
		if (np_span_equals(np_pending_subject(message), subject))
			return true;
	return false;
}

/*
 * A server whose account maps subjects tells of the one that it has made of a
 * message's.  Whose that was is not known, but why there may be no answer.
 */
static void
note_strange(NpSession *session, NpSpan text)
{
	np_text_cut(session->strange_denial, sizeof(session->strange_denial), np_from_utf8(text));
	session->strange_until = np_delivery_next_token();
}

/* Errors come in the order of the messages, so the next one is likely behind the last. */
static NpPending *
find_undenied(NpSession *session, NpSpan subject)
{
	NpPending  *message = next_undenied(session, subject, session->window.last_denied);

	return message != NULL ? message : next_undenied(session, subject, 0);
}

static void
mark_next_denied(NpSession *session, NpSpan subject)
{
	NpPending  *message = find_undenied(session, subject);

	if (message == NULL)
		return;
	np_window_set_denied(&session->window, message, true);
	session->window.last_denied = message->token;
}

/* If all messages to a subject that are on their way are denied, they have failed. */
void
np_denials_fail(NpSession *session, NpSpan subject)
{
	NpPending  *message;
	uint64		next = 0;

	if (find_undenied(session, subject) != NULL)
		return;
	while ((message = np_window_next(&session->window, &next)) != NULL)
		if (message->denied && np_span_equals(np_pending_subject(message), subject))
			fail_not_permitted(session, message, false);
}

/* The message has a reply: if one to its subject is denied, that is another one. */
void
np_denials_reply(NpSession *session, NpPending *message)
{
	if (!message->denied)
		return;
	mark_next_denied(session, np_pending_subject(message));
	np_window_set_denied(&session->window, message, false);
}

/* Here it is known which one. */
static void
fail_denied_reply(NpSession *session, NpSpan reply)
{
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(&session->window, &next)) != NULL)
		if (np_span_equals(np_pending_reply(message), reply))
			fail_not_permitted(session, message, true);
}

#define DENIED_SUBJECT	"Permissions Violation for Publish to \""

/* Does the server's error deny publishing to this subject?  Never throws. */
bool
np_denials_are_about(NpSpan text, const char *subject)
{
	NpSpan		rest = behind(text, DENIED_SUBJECT);

	return rest.data != NULL && behind(rest, subject).data != NULL;
}

/*
 * A denied publish has no reply, only this error with its subject (and a
 * denied reply subject one with that).  Which of the messages to the subject it
 * is about is not said, and some may be stored, when a permission has just
 * changed: one is marked for each error.
 */
void
np_denials_server_error(NpSession *session, NpSpan text)
{
	NpSpan		subject = behind(text, DENIED_SUBJECT);
	NpSpan		reply = behind(text, "Permissions Violation for Publish with Reply of \"");

	if (subject.data != NULL && (subject = unquoted(subject)).data != NULL)
	{
		if (!is_published_to(session, subject))
			note_strange(session, text);
		mark_next_denied(session, subject);
		np_denials_fail(session, subject);
		/* nothing is published to our inbox but the trace that a probe asks for */
		if (behind(subject, np_connection_inbox(session->connection).data).data != NULL)
			fail_denied_reply(session, subject);
	}
	if (reply.data != NULL && (reply = unquoted(reply)).data != NULL)
		fail_denied_reply(session, reply);
}
