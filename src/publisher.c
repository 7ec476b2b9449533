/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  Sending messages, and seeing them acknowledged.
 *
 * Each message has a token, which is the last token of its reply subject and
 * the number of its future, and is never used again.  From its call to its
 * acknowledgment a message is in the window, with the bytes of its command at
 * hand:
 *
 *	  published ──► sent ──► acknowledged
 *		  ▲			 │ ──► refused
 *		  │			 ├ 503, 429, "in process": after a while ──► sent again
 *		  │			 └ connection lost: on the next one ──► sent again, if it
 *		  │											   has an id; else failed
 *		  └ when the window is full, the call waits for acks first
 *
 * Bytes go to the socket when nothing else is in flight, so that a lone
 * message loses no time, and otherwise when FLUSH_BYTES have gathered; acks
 * are read as sending goes on, for a server disconnects a client that leaves
 * too many unread (jetstream.md §3.5).
 *
 * Every wait is for progress: it gives up when no message has come to an end
 * for a time, however long the whole takes.
 *
 * An interrupt can leave any wait by longjmp.  What it leaves is a message
 * in the window, which the end of the transaction removes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "puback.h"
#include "publisher.h"
#include "server_info.h"
#include "settings.h"
#include "stats.h"
#include "subject.h"
#include "window.h"

#define FLUSH_BYTES				(32 * 1024)

/* The longest that a message waits for others to be sent with, if calls go on. */
#define FLUSH_INTERVAL			NP_MILLISECONDS(10)

/* ADR-22: a 503 is asked again; we do it three times. */
#define NO_RESPONDERS_RETRIES	3
#define NO_RESPONDERS_DELAY		NP_MILLISECONDS(250)

/* Back-off for other answers that ask for patience, and for reconnecting. */
#define FIRST_DELAY				NP_MILLISECONDS(50)
#define LAST_DELAY				NP_MILLISECONDS(1000)

/* After a failed connect, critical => false does not try again for so long. */
#define UNCRITICAL_PAUSE		NP_MILLISECONDS(1000)

/* At exit, for what is buffered. */
#define EXIT_TIMEOUT			NP_MILLISECONDS(500)

/* Tokens from the oldest pending one on: bounds the window behind a straggler. */
#define MAX_TOKEN_RANGE			(256 * 1024)

static MemoryContext publisher_context; /* of everything here; NULL: not used yet */
static MemoryContext scratch_context;	/* while a reply is handled */
static MemoryContext connect_context;	/* while a lost connection is made again */
static NpConnection *connection;
static NpWindow window;
static uint64 last_token;

static bool progressed;			/* a message came to an end since this was cleared */
static NpTime last_sent;		/* when bytes were last handed to the socket */
static NpTime next_retry = NP_FOREVER;	/* the earliest retry_at in the window */
static NpTime next_connect;		/* not earlier ... */
static NpTime connect_delay;	/* ... and so long after a failure */
static NpTime uncritical_pause_until;
static char connect_failure[512];	/* what the last attempt said */

/* The message or request that a call waits for. */
static struct
{
	uint64		token;
	bool		done;
	MemoryContext context;		/* of what result points to, reset with each watch */
	NpResult	result;
	NpSpan		reply;			/* to a request */
}			watch;

/* Failed messages published with critical => false that were not told yet. */
static int64 untold_count;
static NpFailedMessage untold_first;

static void on_reply(uint64 token, const NpOperation *operation);
static void on_server_error(NpSpan text);

static const NpConnectionEvents connection_events = {
	.reply = on_reply,
	.server_error = on_server_error
};

static void
initialize(void)
{
	MemoryContext context;

	if (connection != NULL)
		return;
	context = AllocSetContextCreate(TopMemoryContext, "nats_publish", ALLOCSET_DEFAULT_SIZES);
	scratch_context = AllocSetContextCreate(context, "nats_publish reply", ALLOCSET_DEFAULT_SIZES);
	connect_context = AllocSetContextCreate(context, "nats_publish connect", ALLOCSET_SMALL_SIZES);
	watch.context = AllocSetContextCreate(context, "nats_publish result", ALLOCSET_SMALL_SIZES);
	np_window_init(&window, context);
	publisher_context = context;
	connection = np_connection_create(context, &connection_events);
}

static bool
is_open(void)
{
	return np_connection_is_open(connection);
}

static NpOutbound *
outbound(void)
{
	return np_connection_outbound(connection);
}

/* ---- The end of a message ------------------------------------------------ */

/* Begin to wait for a token. */
static void
watch_for(uint64 token)
{
	MemoryContextReset(watch.context);
	watch.token = token;
	watch.done = false;
	memset(&watch.result, 0, sizeof(watch.result));
	watch.reply = (NpSpan) {NULL, 0};
}

static bool
watched_is_done(void)
{
	return watch.done;
}

static NpSpan
copy_span(NpSpan span, MemoryContext context)
{
	char	   *copy;

	if (span.data == NULL)
		return span;
	copy = MemoryContextAllocHuge(context, span.length + 1);
	memcpy(copy, span.data, span.length);
	copy[span.length] = '\0';
	return (NpSpan) {copy, span.length};
}

static void
keep_watched(const NpResult *result)
{
	watch.result = *result;
	watch.result.subject = copy_span(result->subject, watch.context);
	watch.result.id = copy_span(result->id, watch.context);
	watch.result.ack.stream = copy_span(result->ack.stream, watch.context);
	watch.result.ack.domain = copy_span(result->ack.domain, watch.context);
	if (!result->acked)
		watch.result.failure = np_failure_copy(&result->failure, watch.context);
	watch.done = true;
}

/* Remember a failure that nobody waits for, until it can be told. */
static void
note_untold(NpSpan subject, const NpFailure *failure)
{
	np_stats.failed_uncritical++;
	if (untold_count++ > 0)
		return;
	untold_first.subject = MemoryContextStrdup(publisher_context, np_from_utf8(subject));
	untold_first.failure = np_failure_copy(failure, publisher_context);
}

static void
tell_untold(int elevel)
{
	NpFailedMessage first = untold_first;
	int64		count = untold_count;

	if (count == 0)
		return;
	/* forgotten first, for the report can throw */
	untold_count = 0;
	np_warn_messages(elevel, &first, count);
	pfree(first.subject);
	np_failure_free(&first.failure);
}

static void
count_result(const NpResult *result)
{
	if (!result->acked)
		np_stats.failed++;
	else
	{
		np_stats.acked++;
		if (result->ack.duplicate)
			np_stats.duplicates++;
	}
}

/* Take a message out of the window, whatever has become of it. */
static void
drop(NpPending *message)
{
	NpChunk    *chunk = message->chunk;

	np_window_remove(&window, message);
	np_outbound_release(outbound(), chunk);
}

/*
 * A message has come to its end: acknowledged, or failed.  ERROR when out of
 * memory or of disk; then the message is still in the window, to be removed
 * by the end of the transaction.
 */
static void
complete(NpPending *message, const NpPubAck *ack, const NpFailure *failure)
{
	NpResult	result = {
		.token = message->token,
		.critical = message->mode == NP_CRITICAL,
		.subject = np_pending_subject(message),
		.id = np_pending_id(message),
		.acked = ack != NULL
	};

	if (ack != NULL)
		result.ack = *ack;
	else
		result.failure = *failure;
	if (message->mode == NP_CRITICAL || message->mode == NP_UNCRITICAL)
		np_futures_complete(&result);
	if (message->mode == NP_UNCRITICAL && !result.acked)
		note_untold(result.subject, &result.failure);
	if (message->token == watch.token)
		keep_watched(&result);
	if (message->mode != NP_REQUEST)
		count_result(&result);
	drop(message);
	progressed = true;
}

static void
fail(NpPending *message, NpFailure failure)
{
	complete(message, NULL, &failure);
}

/* ---- Sending and sending again -------------------------------------------- */

/* Put the message's command at the end of what is to be sent. */
static void
send_again(NpPending *message)
{
	NpChunk    *old = message->chunk;
	uint64		position = outbound()->appended;
	char	   *place = np_outbound_append(outbound(), message->length, &message->chunk);

	memcpy(place, message->bytes, message->length);
	message->bytes = place;
	message->position = position;
	message->retry_at = 0;
	np_outbound_release(outbound(), old);
}

/* Send a message again after a time, for which the server has given a cause. */
static void
schedule_retry(NpPending *message, NpTime delay, const NpFailure *cause)
{
	if (message->cause == NULL)
		message->cause = MemoryContextAllocZero(publisher_context, sizeof(NpFailure));
	else
		np_failure_free(message->cause);
	*message->cause = np_failure_copy(cause, publisher_context);
	if (message->attempts < UINT8_MAX)
		message->attempts++;
	message->retry_at = np_now() + delay;
	next_retry = Min(next_retry, message->retry_at);
}

/* With up to half of it off, so that sessions do not come in step. */
static NpTime
jittered(NpTime delay)
{
	return delay - (NpTime) pg_prng_uint64_range(&pg_global_prng_state, 0, delay / 2);
}

static NpTime
delay_after(int attempts)
{
	return jittered(attempts > 4 ? LAST_DELAY : FIRST_DELAY << attempts);
}

static void
send_due_retries(NpTime now)
{
	if (now < next_retry)
		return;
	next_retry = NP_FOREVER;
	for (NpPending *message = np_window_from(&window, 0); message != NULL;
		 message = np_window_from(&window, message->token + 1))
	{
		if (message->retry_at == 0)
			continue;
		if (message->retry_at > now)
			next_retry = Min(next_retry, message->retry_at);
		else
		{
			send_again(message);
			np_stats.retried++;
		}
	}
}

/*
 * The inbox is another one: acks of what was sent would not arrive.  Only
 * after the settings were changed while a connection was lost.
 */
static bool
expects_reply_here(const NpPending *message)
{
	NpSpan		inbox = np_connection_inbox(connection);
	const char *reply = message->bytes + message->subject_offset + message->subject_length + 1;

	return memcmp(reply, inbox.data, inbox.length) == 0;
}

/*
 * On a new connection: send what is pending, in the order of the calls.
 *
 * What was (perhaps in part) sent on the old one may be stored, so it needs
 * an id; JetStream then stores it once.
 */
static void
resend_pending(void)
{
	uint64		sent = np_connection_sent_before_loss(connection);
	NpPending  *next;

	for (NpPending *message = np_window_from(&window, 0); message != NULL; message = next)
	{
		uint64		token = message->token;
		bool		was_sent = message->position < sent;

		if ((was_sent && message->id_length == 0 && message->retry_at == 0) ||
			!expects_reply_here(message))
			fail(message, np_failure(NP_FAULT_LOST,
									 "the connection was lost, and the message can't be sent again (%s)",
									 message->id_length == 0 ? "it has no id" : "the settings have changed"));
		else
		{
			send_again(message);
			if (was_sent)
				np_stats.resent++;
		}
		next = np_window_from(&window, token + 1);
	}
}

/* Try to connect once; what is pending goes out again. */
static bool
try_connect(NpTime deadline, NpFailure *failure)
{
	if (np_connection_open(connection, deadline, failure))
	{
		connect_delay = 0;
		next_connect = 0;
		resend_pending();
		return true;
	}
	snprintf(connect_failure, sizeof(connect_failure), "%s", failure->detail);
	connect_delay = Min(Max(connect_delay * 2, FIRST_DELAY), LAST_DELAY);
	next_connect = np_now() + jittered(connect_delay);
	uncritical_pause_until = np_now() + UNCRITICAL_PAUSE;
	return false;
}

/* ---- Replies --------------------------------------------------------------- */

static void
handle_no_responders(NpPending *message)
{
	NpFailure	failure = np_failure(NP_FAULT_NO_STREAM, "no stream takes this subject");

	if (message->attempts < NO_RESPONDERS_RETRIES)
		schedule_retry(message, NO_RESPONDERS_DELAY, &failure);
	else
		fail(message, failure);
}

/* Without an id only what is certainly not stored can be sent again. */
static void
handle_retry(NpPending *message, const NpFailure *failure)
{
	if (message->id_length > 0 || failure->fault != NP_FAULT_UNKNOWN)
		schedule_retry(message, delay_after(message->attempts), failure);
	else
		fail(message, *failure);
}

static void
handle_ack(NpPending *message, const NpPubAck *ack)
{
	NpSpan		expected = {NULL, 0};

	if (message->expects_stream)
		expected = np_message_header((NpSpan) {message->bytes, message->length},
									 "Nats-Expected-Stream");
	if (expected.data != NULL && (expected.length != ack->stream.length ||
								  memcmp(expected.data, ack->stream.data, expected.length) != 0))
		fail(message, np_failure(NP_FAULT_CONFLICT, "stream \"%s\" has answered, not the expected one",
								 np_from_utf8(ack->stream)));
	else
		complete(message, ack, NULL);
}

static void
handle_request_reply(NpPending *message, const NpOperation *operation)
{
	NpSpan		reply = operation->payload;

	if (operation->status == 503)
	{
		fail(message, np_failure(NP_FAULT_FEATURE, "the server does not answer JetStream requests"));
		return;
	}
	if (message->token == watch.token)
		watch.reply = copy_span(reply.length > 0 ? reply : (NpSpan) {"", 0}, watch.context);
	complete(message, &(NpPubAck) {.sequence = 0}, NULL);
}

static void
handle_reply(NpPending *message, const NpOperation *operation)
{
	NpReply		reply;

	np_reply_parse(operation, &reply);
	switch (reply.kind)
	{
		case NP_REPLY_ACK:
			handle_ack(message, &reply.ack);
			break;
		case NP_REPLY_NO_RESPONDERS:
			handle_no_responders(message);
			break;
		case NP_REPLY_RETRY:
			handle_retry(message, &reply.failure);
			break;
		case NP_REPLY_FAILURE:
			fail(message, reply.failure);
			break;
	}
}

/* A reply to a token; that of a message which is not pending any more is ignored. */
static void
on_reply(uint64 token, const NpOperation *operation)
{
	NpPending  *message = np_window_find(&window, token);
	MemoryContext previous;

	if (message == NULL)
		return;
	previous = MemoryContextSwitchTo(scratch_context);
	if (message->mode == NP_REQUEST)
		handle_request_reply(message, operation);
	else
		handle_reply(message, operation);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/*
 * Is quoted, as the server writes it (Go's %q), the text?  Only quotes and
 * backslashes are escaped in what can be a subject of ours.
 */
static bool
equals_quoted(NpSpan quoted, NpSpan text)
{
	size_t		place = 0;

	for (size_t i = 0; i < quoted.length; i++)
	{
		if (quoted.data[i] == '"')
			return place == text.length;
		if (quoted.data[i] == '\\' && i + 1 < quoted.length)
			i++;
		if (place >= text.length || text.data[place++] != quoted.data[i])
			return false;
	}
	return false;
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
fail_not_permitted(NpPending *message, bool reply_subject)
{
	NpFailure	failure = {.fault = NP_FAULT_NOT_PERMITTED};

	failure.text = reply_subject ? "the NATS user may not ask for replies to its inbox" :
		"the NATS user may not publish to this subject";
	if (reply_subject)
		failure.hint = "Set nats_publish.inbox_prefix to a subject that the NATS user may use.";
	fail(message, failure);
}

/*
 * A refused publish has no reply, only this error with its subject (and
 * a refused reply subject one with that).
 */
static void
on_server_error(NpSpan text)
{
	NpSpan		subject = behind(text, "Permissions Violation for Publish to \"");
	NpSpan		reply = behind(text, "Permissions Violation for Publish with Reply of \"");
	MemoryContext previous;
	NpPending  *next;

	if (subject.data == NULL && reply.data == NULL)
		return;
	previous = MemoryContextSwitchTo(scratch_context);
	for (NpPending *message = np_window_from(&window, 0); message != NULL; message = next)
	{
		uint64		token = message->token;
		NpSpan		own_reply = {message->bytes + message->subject_offset + message->subject_length + 1, 0};

		while (own_reply.data[own_reply.length] != ' ')
			own_reply.length++;
		if (subject.data != NULL && equals_quoted(subject, np_pending_subject(message)))
			fail_not_permitted(message, false);
		else if (reply.data != NULL && equals_quoted(reply, own_reply))
			fail_not_permitted(message, true);
		next = np_window_from(&window, token + 1);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/* ---- Waiting ---------------------------------------------------------------- */

/* Connect again if what is pending needs it and it is time. */
static void
keep_connected(NpTime deadline)
{
	MemoryContext previous;
	NpFailure	failure;

	if (is_open() || np_now() < next_connect)
		return;
	previous = MemoryContextSwitchTo(connect_context);
	(void) try_connect(deadline, &failure);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(connect_context);
}

/*
 * Wait until the condition holds, sending, receiving, retrying and
 * reconnecting as it takes.
 *
 * False: for timeout_ms no message has come to its end, or the limit is
 * reached.  Interrupts as in np_wait.
 */
static bool
wait_until(bool (*condition) (void), int timeout_ms, NpTime limit)
{
	NpTime		last_progress = np_now();

	progressed = false;
	for (;;)
	{
		NpTime		now = np_now();
		NpTime		deadline;

		if (progressed)
			last_progress = now;
		progressed = false;
		deadline = Min(last_progress + NP_MILLISECONDS(timeout_ms), limit);
		keep_connected(deadline);
		send_due_retries(now);
		if (is_open())
			np_connection_send(connection);
		if (condition())
			return true;
		if (now >= deadline)
			return false;
		if (is_open())
			np_connection_wait(connection, Min(deadline, next_retry));
		else
			np_sleep(Min(deadline, next_connect));
	}
}

static bool
window_is_empty(void)
{
	return window.count == 0;
}

static bool
nothing_is_awaited(void)
{
	return np_futures_awaited() == 0;
}

/* Why a message that was waited for in vain has failed; palloc'd. */
static NpFailure
failure_of_unanswered(const NpPending *message, int timeout_ms)
{
	NpFailure	failure;

	if (message->cause != NULL)
		return *message->cause;
	if (is_open())
		return np_failure(NP_FAULT_UNKNOWN, "no acknowledgment arrived within %d ms", timeout_ms);
	if (message->position < np_connection_sent_before_loss(connection))
		failure = np_failure(NP_FAULT_UNKNOWN, "the connection was lost before an acknowledgment arrived (%s)",
							 np_connection_loss(connection));
	else
		failure = np_failure(NP_FAULT_LOST, "the connection was lost before the message was sent (%s)",
							 np_connection_loss(connection));
	if (connect_failure[0] != '\0')
		failure.detail = pstrdup(connect_failure);
	return failure;
}

/* ---- Ready to publish --------------------------------------------------------- */

/* The settings have changed: finish with the old connection. */
static void
leave_connection(void)
{
	if (window.count > 0 && !wait_until(window_is_empty, np_ack_timeout, NP_FOREVER))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNKNOWN,
										 "could not change the NATS connection: %d messages are not acknowledged",
										 window.count);

		np_raise(&failure);
	}
	np_connection_close(connection);
}

/*
 * Have a connection for the settings as they are.
 *
 * One that was closed while nobody looked (an idle session does not answer
 * the server's PINGs) is made again unseen.  One that was lost with messages
 * on it for which the transaction waits is given as much time as they are.
 *
 * False: *failure says why not (palloc'd).
 */
static bool
make_ready(bool critical, NpFailure *failure)
{
	initialize();
	if (is_open() && !np_connection_is_for_settings(connection))
		leave_connection();
	if (is_open() && window.count == 0)
		np_connection_receive(connection);
	if (is_open())
		return true;
	if (!critical && np_now() < uncritical_pause_until)
	{
		*failure = np_failure(NP_FAULT_UNREACHABLE, "NATS could not be reached a moment ago");
		failure->detail = pstrdup(connect_failure);
		return false;
	}
	if (!critical || np_futures_awaited() == 0)
		return try_connect(NP_FOREVER, failure);
	if (wait_until(is_open, np_ack_timeout, NP_FOREVER))
		return true;
	*failure = np_failure(NP_FAULT_LOST, "the connection was lost and could not be made again");
	failure->detail = pstrdup(connect_failure);
	return false;
}

/* The size of the message for which there must be room. */
static size_t room_wanted;

static bool
window_has_room(void)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	if (window.count == 0)
		return true;
	return window.count < np_max_pending &&
		last_token - window.first < MAX_TOKEN_RANGE &&
		outbound()->bytes + (int64) room_wanted <= bytes;
}

/* Waiting for half of the window saves wake-ups; the other half keeps the server busy. */
static bool
window_is_half_empty(void)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	if (window.count == 0)
		return true;
	return window_has_room() && window.count <= np_max_pending / 2 &&
		last_token - window.first < MAX_TOKEN_RANGE / 2 &&
		(outbound()->bytes <= bytes / 2);
}

/* Give up the messages that nobody waits for and that are overdue. */
static void
expire_uncritical(void)
{
	NpTime		before = np_now() - NP_MILLISECONDS(np_ack_timeout);
	NpPending  *next;

	if (window.uncritical == 0)
		return;
	for (NpPending *message = np_window_from(&window, 0); message != NULL; message = next)
	{
		uint64		token = message->token;

		if (message->mode == NP_UNCRITICAL && message->published_at <= before)
			fail(message, failure_of_unanswered(message, np_ack_timeout));
		next = np_window_from(&window, token + 1);
	}
}

/*
 * Have room in the window.  False: *failure says why not (palloc'd).
 */
static bool
make_room(size_t length, NpFailure *failure)
{
	room_wanted = length;
	if (window_has_room())
		return true;
	np_connection_send(connection);
	np_connection_receive(connection);
	if (window_has_room())
		return true;
	if (np_on_full == NP_ON_FULL_ERROR)
	{
		*failure = np_failure(NP_FAULT_WINDOW_FULL, "%d messages are not acknowledged yet", window.count);
		return false;
	}
	if (wait_until(window_is_half_empty, np_ack_timeout, NP_FOREVER))
		return true;
	expire_uncritical();
	if (is_open() && window_has_room())
		return true;
	*failure = np_failure(is_open() ? NP_FAULT_UNKNOWN : NP_FAULT_LOST,
						  "%d earlier messages are not acknowledged, and none was within %d ms",
						  window.count, np_ack_timeout);
	return false;
}

/* The limits that the server has told: beyond them it would close the connection. */
static void
check_size(const NpPublication *publication, size_t control_line)
{
	size_t		length = publication->headers.length + publication->payload.length;
	NpFailure	failure;

	if (length > (size_t) np_connection_max_payload(connection))
		failure = np_failure(NP_FAULT_SIZE,
							 "message is %zu bytes long with its headers, the server's max_payload is " INT64_FORMAT,
							 length, np_connection_max_payload(connection));
	else if (control_line > NP_MAX_CONTROL_LINE)
		failure = np_failure(NP_FAULT_SIZE,
							 "subject and inbox make a protocol line of %zu bytes, the limit is %d",
							 control_line, NP_MAX_CONTROL_LINE);
	else
		return;
	np_raise(&failure);
}

/* ---- Publishing ------------------------------------------------------------------ */

/* Send now, or leave it to go with others? */
static void
send_or_gather(void)
{
	uint64		unsent = outbound()->appended - outbound()->sent;
	NpTime		now = np_now();

	if (window.count > 1 && unsent < FLUSH_BYTES && now - last_sent < FLUSH_INTERVAL)
		return;
	last_sent = now;
	np_connection_send(connection);
	if (window.count > 1)
		np_connection_receive(connection);
}

/* Write the command and enter it into the window. */
static NpPending *
enqueue(const NpPublication *publication, size_t length, NpMode mode)
{
	NpChunk    *chunk;
	uint64		position = outbound()->appended;
	char	   *place = np_outbound_append(outbound(), length, &chunk);
	NpPending  *pending;

	np_publication_encode(publication, place);
	PG_TRY();
	{
		pending = np_window_add(&window, publication->token);
	}
	PG_CATCH();
	{
		np_outbound_release(outbound(), chunk);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pending->bytes = place;
	pending->chunk = chunk;
	pending->position = position;
	pending->length = length;
	pending->subject_offset = publication->headers.data != NULL ? 5 : 4;	/* HPUB, PUB */
	pending->subject_length = publication->subject.length;
	pending->mode = mode;
	return pending;
}

static void
note_message(NpPending *pending, const NpMessage *message)
{
	/* the block stands before the payload and the last CR LF */
	size_t		headers = pending->length - 2 - message->payload.length - message->headers.length;

	if (message->id.data != NULL)
	{
		pending->id_offset = headers + (message->id.data - message->headers.data);
		pending->id_length = message->id.length;
	}
	pending->expects_stream = message->expect_stream.data != NULL;
	if (pending->mode == NP_UNCRITICAL)
	{
		pending->published_at = np_now();
		window.uncritical++;
	}
	np_stats.published++;
	np_stats.bytes += message->payload.length;
}

/*
 * Publish a message that needs no answer before it is told that there was no
 * way to send it.
 */
static uint64
fail_unsent(const NpMessage *message, const NpFailure *failure)
{
	NpResult	result = {
		.token = ++last_token,
		.subject = message->subject,
		.id = message->id,
		.failure = *failure
	};

	np_futures_add(result.token, false);
	np_futures_complete(&result);
	note_untold(message->subject, failure);
	np_stats.published++;
	np_stats.failed++;
	tell_untold(WARNING);
	return result.token;
}

/*
 * The way that every message takes.  Returns its token.
 */
static uint64
publish(const NpMessage *message, NpMode mode)
{
	NpPublication publication = {
		.subject = message->subject,
		.headers = message->headers,
		.payload = message->payload
	};
	NpFailure	failure;
	size_t		control_line;
	size_t		length;

	tell_untold(WARNING);
	if (!make_ready(mode != NP_UNCRITICAL, &failure))
	{
		if (mode == NP_UNCRITICAL)
			return fail_unsent(message, &failure);
		if (failure.fault == NP_FAULT_LOST)
			np_raise_message(&failure, np_from_utf8(message->subject));
		np_raise(&failure);
	}
	if (message->has_ttl)
		np_server_require(connection, 2, 11, "ttl");
	publication.reply_prefix = np_connection_inbox(connection);
	publication.token = last_token + 1;
	length = np_publication_size(&publication, &control_line);
	check_size(&publication, control_line);
	if (!make_room(length, &failure))
	{
		if (mode == NP_UNCRITICAL)
			return fail_unsent(message, &failure);
		np_raise_message(&failure, np_from_utf8(message->subject));
	}

	/* a wait may have lost the connection, but not the inbox */
	last_token = publication.token;
	note_message(enqueue(&publication, length, mode), message);
	if (mode == NP_CRITICAL || mode == NP_UNCRITICAL)
		np_futures_add(publication.token, mode == NP_CRITICAL);
	send_or_gather();
	return publication.token;
}

/*
 * Publish and wait for the acknowledgment.
 *
 * What *result points to lives until the next call.  Raises the failure of
 * the message, or whatever keeps it from being sent.
 */
void
np_publish(const NpMessage *message, NpResult *result)
{
	uint64		token;

	initialize();
	watch_for(last_token + 1);
	token = publish(message, NP_SYNC);
	Assert(token == watch.token);
	if (!wait_until(watched_is_done, np_ack_timeout, NP_FOREVER))
	{
		NpPending  *pending = np_window_find(&window, token);
		NpFailure	failure = failure_of_unanswered(pending, np_ack_timeout);

		failure.text = pstrdup(failure.text);
		drop(pending);
		np_stats.failed++;
		np_raise_message(&failure, np_from_utf8(message->subject));
	}
	*result = watch.result;
	if (!result->acked)
		np_raise_message(&result->failure, np_from_utf8(message->subject));
}

/*
 * Publish without waiting; returns the future.
 *
 * A critical message is waited for at the end of the transaction.  Of another
 * one only its own faults are raised; that it could not be sent is a WARNING.
 */
uint64
np_publish_async(const NpMessage *message, bool critical)
{
	return publish(message, critical ? NP_CRITICAL : NP_UNCRITICAL);
}

/*
 * One request to the JetStream API; returns the reply, which lives until the
 * next call.  Raises what keeps it from being sent or answered.
 */
NpSpan
np_request(const char *subject, NpSpan payload)
{
	NpPublication publication = {
		.subject = {subject, strlen(subject)},
		.payload = payload
	};
	NpFailure	failure;
	size_t		control_line;
	size_t		length;

	tell_untold(WARNING);
	if (!make_ready(true, &failure))
		np_raise(&failure);
	publication.reply_prefix = np_connection_inbox(connection);
	publication.token = ++last_token;
	length = np_publication_size(&publication, &control_line);
	check_size(&publication, control_line);
	watch_for(publication.token);
	(void) enqueue(&publication, length, NP_REQUEST);
	if (!wait_until(watched_is_done, np_ack_timeout, NP_FOREVER))
	{
		NpPending  *pending = np_window_find(&window, publication.token);

		failure = failure_of_unanswered(pending, np_ack_timeout);
		drop(pending);
		failure.text = psprintf("JetStream request \"%s\" failed: no answer within %d ms",
								subject, np_ack_timeout);
		failure.hint = "";
		np_raise(&failure);
	}
	if (!watch.result.acked)
	{
		failure = watch.result.failure;
		failure.text = psprintf("JetStream request \"%s\" failed: %s", subject, failure.text);
		np_raise(&failure);
	}
	return watch.reply;
}

/* ---- Futures --------------------------------------------------------------------- */

static NpFailure
unanswered_in_time(void)
{
	return np_failure(NP_FAULT_UNKNOWN, "no acknowledgment arrived in time");
}

/*
 * Wait for a future; the limit counts, or without one ack_timeout.
 *
 * Raises 22023 for a future that this transaction does not know, 08007 when
 * it is not complete in time; then it is still pending.  A failed future is
 * returned like an acknowledged one; what *result points to lives until the
 * next call.
 */
void
np_publisher_await(uint64 future, NpTime limit, NpResult *result)
{
	NpPending  *pending;

	tell_untold(WARNING);
	initialize();
	if (!np_futures_contain(future))
		np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
	pending = np_window_find(&window, future);
	if (pending == NULL)
	{
		if (!np_futures_find(future, result))
			np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
		return;
	}
	watch_for(future);
	if (!wait_until(watched_is_done, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
	{
		NpFailure	failure = unanswered_in_time();

		np_raise_message(&failure, np_from_utf8(np_pending_subject(pending)));
	}
	*result = watch.result;
}

/*
 * Wait until nothing is pending; returns how many messages that was.
 *
 * Raises 08007 when that is not so in time, then the failures of the
 * transaction's critical messages.
 */
int64
np_publisher_flush(NpTime limit)
{
	int64		count = window.count;

	tell_untold(WARNING);
	if (count > 0 &&
		!wait_until(window_is_empty, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNKNOWN, "%d messages are not acknowledged in time",
										 window.count);

		np_raise(&failure);
	}
	np_futures_raise_failures();
	tell_untold(WARNING);
	return count;
}

/* Call visit for each future of this transaction that is pending, in order. */
void
np_publisher_each_pending(void (*visit) (const NpResult *result, void *argument), void *argument)
{
	if (connection == NULL)
		return;
	for (NpPending *message = np_window_from(&window, 0); message != NULL;
		 message = np_window_from(&window, message->token + 1))
	{
		NpResult	result = {
			.token = message->token,
			.critical = message->mode == NP_CRITICAL,
			.subject = np_pending_subject(message),
			.id = np_pending_id(message)
		};

		if (np_futures_contain(message->token))
			visit(&result, argument);
	}
}

/* ---- The connection ---------------------------------------------------------------- */

/* The open connection; raises why there is none. */
NpConnection *
np_publisher_connect(void)
{
	NpFailure	failure;

	tell_untold(WARNING);
	if (!make_ready(true, &failure))
		np_raise(&failure);
	return connection;
}

/* The time of one round trip to the server and back. */
NpTime
np_publisher_round_trip(void)
{
	NpTime		start = np_now();

	if (!np_connection_ping(connection, start + NP_MILLISECONDS(np_ack_timeout)))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNREACHABLE, "the NATS server does not answer");

		np_raise(&failure);
	}
	return np_now() - start;
}

/*
 * Wait for what is pending and close.  False: there was no connection.
 */
bool
np_publisher_disconnect(void)
{
	if (connection == NULL || (!is_open() && window.count == 0))
		return false;
	(void) np_publisher_flush(NP_FOREVER);
	np_connection_close(connection);
	return true;
}

/* ---- Ends of transactions and of the backend ------------------------------------------ */

/* What the transaction waits for has not come in time: it failed. */
static void
fail_awaited(void)
{
	MemoryContext previous = MemoryContextSwitchTo(scratch_context);
	NpPending  *next;

	for (NpPending *message = np_window_from(&window, 0); message != NULL; message = next)
	{
		uint64		token = message->token;

		if (message->mode == NP_CRITICAL)
			fail(message, failure_of_unanswered(message, np_commit_timeout));
		next = np_window_from(&window, token + 1);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/*
 * Before the transaction becomes durable: everything critical is acknowledged,
 * or ERROR.
 */
void
np_publisher_finish_transaction(void)
{
	if (connection == NULL)
		return;
	if (np_futures_awaited() > 0 && !wait_until(nothing_is_awaited, np_commit_timeout, NP_FOREVER))
		fail_awaited();
	np_futures_raise_failures();
	if (is_open())
	{
		np_connection_send(connection);
		if (window.uncritical > 0)
			np_connection_receive(connection);
	}
	expire_uncritical();
	tell_untold(WARNING);
	np_futures_close();
}

/* Take what nobody waits for any more out of the window, from a token on. */
static void
abandon_from(uint64 first, bool critical)
{
	NpPending  *next;

	for (NpPending *message = np_window_from(&window, first); message != NULL; message = next)
	{
		uint64		token = message->token;

		if (message->mode == NP_SYNC || message->mode == NP_REQUEST ||
			(critical && message->mode == NP_CRITICAL))
			drop(message);
		next = np_window_from(&window, token + 1);
	}
}

/*
 * The transaction was rolled back: its messages stay with NATS, but nobody
 * waits for them.  Never throws, waits or connects.
 */
void
np_publisher_forget_transaction(void)
{
	np_futures_forget();
	if (connection == NULL)
		return;
	watch.token = 0;
	abandon_from(0, true);
	np_connection_send(connection);
}

/* The same for a subtransaction. */
void
np_publisher_forget_subtransaction(int nest_level)
{
	uint64		first = np_futures_subabort(nest_level, last_token + 1);

	if (connection == NULL)
		return;
	watch.token = 0;
	abandon_from(0, false);
	if (first != 0)
		abandon_from(first, true);
	np_connection_send(connection);
}

/* Wait for a while until the server has seen everything, then for the acks. */
static void
drain_at_exit(void)
{
	NpTime		limit = np_now() + EXIT_TIMEOUT;

	if (outbound()->sent == outbound()->appended && window.count == 0)
		return;
	(void) np_connection_ping(connection, limit);
	while (is_open() && window.count > 0 && np_now() < limit)
		np_connection_wait(connection, limit);
}

/*
 * The backend exits: what is buffered goes out, in bounded time, and what is
 * known of failures goes to the log.  Never throws.
 */
void
np_publisher_exit(void)
{
	if (connection == NULL)
		return;
	np_publisher_forget_transaction();
	PG_TRY();
	{
		if (is_open())
			drain_at_exit();
		np_ack_timeout = 0;		/* what is still pending is overdue now */
		expire_uncritical();
		tell_untold(LOG);
	}
	PG_CATCH();
	{
		FlushErrorState();
	}
	PG_END_TRY();
	np_connection_close(connection);
}
