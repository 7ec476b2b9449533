/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  Publishing: sending messages, and room for them.
 *
 * Bytes go to the socket when nothing else is in flight, so that a lone
 * message loses no time, and otherwise when FLUSH_BYTES have gathered; acks
 * are read as sending goes on, for a server disconnects a client that leaves
 * too many unread.  When the window is full, the call waits for acks first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "base/subject.h"
#include "ledger/levels.h"
#include "ledger/queue.h"
#include "publish/await.h"
#include "publish/current_session.h"
#include "publish/delivery.h"
#include "publish/publisher.h"
#include "publish/session.h"
#include "publish/sessions.h"
#include "stats/stats.h"
#include "wire/server_info.h"

#define FLUSH_BYTES				(32 * 1024)

/* The longest that a message waits for others to be sent with, if calls go on. */
#define FLUSH_INTERVAL			NP_MILLISECONDS(10)

/*
 * Tokens from the oldest pending one on: bounds the window behind a straggler,
 * but by no less than max_pending.
 */
#define MAX_TOKEN_RANGE			(256 * 1024)

/* ---- Room in the window ---------------------------------------------------- */

/* What is not sent counts as pending, also when nobody waits for it any more. */
static bool
is_clear(NpSession *session)
{
	return session->window.count == 0 && np_outbound_unsent(np_session_outbound(session)) == 0;
}

/* The window has a place for each token since its first one, and those of other sessions are among them. */
static bool
is_in_range(const NpSession *session)
{
	return session->window.count == 0 ||
		np_delivery_next_token() - session->window.first < Max(MAX_TOKEN_RANGE, np_max_pending);
}

/* For a message of this length. */
static bool
window_has_room(NpSession *session, size_t length)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	if (is_clear(session))
		return true;
	return session->window.count < np_max_pending && is_in_range(session) &&
		np_session_outbound(session)->bytes + (int64) length <= bytes;
}

/*
 * A part of the window is free: waiting for one message at a time would cost
 * a wake-up each, and waiting for all of them would leave the server idle.
 * An eighth keeps the longest call short.
 */
static bool
window_is_part_free(NpSession *session, void *length)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	return is_clear(session) ||
		(window_has_room(session, *(size_t *) length) && session->window.count <= np_max_pending - np_max_pending / 8 &&
		 np_session_outbound(session)->bytes <= bytes - bytes / 8);
}

/* Can a message of so many bytes be published without a wait for room? */
bool
np_publisher_has_room(NpSession *session, size_t length)
{
	return window_has_room(session, length);
}

/* Is there room for more than one? */
bool
np_publisher_is_part_free(NpSession *session, size_t length)
{
	return window_is_part_free(session, &length);
}

/*
 * Without a wait for room: is the next token in the range of the window?
 * False: *failure says why not.
 */
bool
np_publisher_reach_token(NpSession *session, NpFailure *failure)
{
	if (!is_in_range(session))
		np_session_expire_overdue(session);
	if (is_in_range(session))
		return true;
	*failure = np_failure(NP_FAULT_LOST, "a message of long ago is not acknowledged");
	return false;
}

/*
 * Have room in the window.  False: *failure says why not (palloc'd).
 */
static bool
make_room(NpSession *session, size_t length, NpFailure *failure)
{
	if (window_has_room(session, length))
		return true;
	np_connection_send(session->connection);
	np_connection_receive(session->connection);
	if (window_has_room(session, length))
		return true;
	if (np_on_full == NP_ON_FULL_ERROR)
	{
		*failure = np_failure(NP_FAULT_WINDOW_FULL, session->window.count == 1 ?
							  "%d message is not acknowledged yet" :
							  "%d messages are not acknowledged yet", session->window.count);
		return false;
	}
	if (np_session_wait(session, NP_WAIT_WINDOW, window_is_part_free, &length, np_session_timeout(), NP_FOREVER))
		return true;
	np_session_expire_overdue(session);
	if (np_session_is_open(session) && window_has_room(session, length))
		return true;
	/* what is known of them is told by whoever waits for them; this one was not sent */
	*failure = np_failure(NP_FAULT_LOST, session->window.count == 1 ?
						  "%d earlier message is not acknowledged, and none was within %d ms" :
						  "%d earlier messages are not acknowledged, and none was within %d ms",
						  session->window.count, np_session_timeout());
	return false;
}

/* By what the server has said last. */
static bool
is_too_long(const NpSession *session, size_t length)
{
	return length > (size_t) np_connection_max_payload(session->connection);
}

/*
 * Headers and payload may be no longer than the server allows, or it would
 * close the connection.  Asked again before an error: it may allow more by now.
 * One that has been restarted is not the one of the connection any more, which
 * need not have been looked at since, and has said what it allows when it is
 * connected again; and of one that does not answer, what it has said counts.
 *
 * False: there is no connection; *failure says why not.
 */
static bool
check_length(NpSession *session, size_t length, bool critical, NpFailure *failure)
{
	if (!is_too_long(session, length))
		return true;
	np_session_check(session, critical);
	if (!np_session_is_open(session) && !np_session_ready(session, critical, failure))
		return false;
	if (is_too_long(session, length))
		np_server_refresh_max_payload(session->connection);
	if (!is_too_long(session, length))
		return true;
	*failure = np_failure(NP_FAULT_SIZE,
						  "message is %zu bytes long with its headers, the server's max_payload is " INT64_FORMAT,
						  length, np_connection_max_payload(session->connection));
	np_raise(failure);
}

/* Likewise, for a call that can't do without a connection: raises why there is none, too. */
void
np_publisher_check_length(NpSession *session, size_t length)
{
	NpFailure	failure;

	if (!check_length(session, length, true, &failure))
		np_raise(&failure);
}

static size_t
content_length(const NpPublication *publication)
{
	return publication->headers.length + publication->payload.length;
}

static void
check_control_line(size_t length)
{
	NpFailure	failure;

	if (length <= NP_MAX_CONTROL_LINE)
		return;
	failure = np_failure(NP_FAULT_SIZE, "subject and inbox make a protocol line of %zu bytes, the limit is %d", length, NP_MAX_CONTROL_LINE);
	np_raise(&failure);
}

/* The limits of one command. */
void
np_publisher_check_size(NpSession *session, const NpPublication *publication, size_t control_line)
{
	np_publisher_check_length(session, content_length(publication));
	check_control_line(control_line);
}

/* The inboxes of a foreign server, which the message did not know when it was built. */
void
np_publisher_check_inbox(const NpSession *session, NpSpan subject)
{
	if (OidIsValid(session->server_id) && session->server.values[NP_SERVER_INBOX_PREFIX] != NULL)
		np_message_check_reserved(subject, session->server.values[NP_SERVER_INBOX_PREFIX]);
}

/* ---- Publishing ------------------------------------------------------------------ */

/* Send now, or leave it to go with others? */
static void
send_or_gather(NpSession *session, NpTime now)
{
	if (session->window.count > 1 && np_outbound_unsent(np_session_outbound(session)) < FLUSH_BYTES && now - session->last_sent < FLUSH_INTERVAL)
		return;
	session->last_sent = now;
	np_connection_send(session->connection);
	if (session->window.count > 1)
		np_connection_receive(session->connection);
	np_session_send_due(session, now);
	np_session_watch(session, now);
}

static void
record_message(NpSession *session, NpPending *pending, const NpMessage *message)
{
	/* the block stands before the payload and the last CR LF */
	size_t		headers = pending->length - 2 - message->payload.length - message->headers.length;

	if (message->id.data != NULL)
	{
		pending->id_offset = headers + (message->id.data - message->headers.data);
		pending->id_length = message->id.length;
		pending->has_own_id = !message->has_automatic_id;
	}
	if (message->expect_stream.data != NULL)
	{
		pending->stream_offset = headers + (message->expect_stream.data - message->headers.data);
		pending->stream_length = message->expect_stream.length;
	}
	pending->may_be_refused = message->may_be_refused;
	pending->needs = message->needs;
	if (pending->needs > 0)
		session->window.needing++;
	if (message->is_again)
		return;
	np_stats_of(np_stats_mode)->published++;
	np_stats_of(np_stats_mode)->bytes += message->payload.length;
}

static void
count_unsent(const NpMessage *message, const NpFailure *failure)
{
	np_stats_add_unsent(np_stats_mode, 1);
	np_stats_record_failure(np_stats_mode, message->subject, failure);
}

/* Is it an ERROR of the call that there is no way to send a message?  Else of COMMIT, or none. */
static bool
fails_call(NpMode mode)
{
	return mode != NP_UNCRITICAL && np_stats_mode != NP_STATS_ON_COMMIT;
}

/*
 * Publish a message that needs no answer before it is reported that there was no
 * way to send it.
 */
static uint64
fail_unsent(const NpMessage *message, NpMode mode, const NpFailure *failure)
{
	NpResult	result = {
		.token = np_delivery_use_token(),
		.critical = mode == NP_CRITICAL,
		.subject = message->subject,
		.id = message->id,
		.failure = *failure
	};

	np_levels_enter(result.token);
	np_futures_add(result.critical);
	np_futures_complete(&result);
	if (result.critical)
		return result.token;
	np_delivery_record_failure(message->subject, failure);
	np_stats_of(np_stats_mode)->failed_uncritical++;
	np_delivery_report_failures(WARNING);
	return result.token;
}

/*
 * There is no way to send a message: raise that, if it is an ERROR of the call.
 * Returns its token.
 */
static uint64
give_up_unsent(const NpMessage *message, NpMode mode, const NpFailure *failure)
{
	count_unsent(message, failure);
	if (!fails_call(mode))
		return fail_unsent(message, mode, failure);
	if (failure->fault == NP_FAULT_LOST || failure->fault == NP_FAULT_WINDOW_FULL)
		np_raise_message(failure, np_from_utf8(message->subject));
	np_raise(failure);
}

/* Have a connection to a server that knows what the message needs; raises 0A000 when it does not. */
static bool
have_server(NpSession *session, const NpMessage *message, bool critical, NpFailure *failure)
{
	return np_session_ready(session, critical, failure) &&
		np_session_try_require(session, message->needs, critical, failure);
}

/*
 * The way that every message takes.  Returns its token.
 */
static uint64
publish(NpSession *session, const NpMessage *message, NpMode mode)
{
	NpPublication publication = {
		.subject = message->subject,
		.headers = message->headers,
		.payload = message->payload
	};
	bool		critical = mode != NP_UNCRITICAL;
	NpPending  *pending;
	NpFailure	failure;
	size_t		control_line;
	size_t		length;

	np_delivery_report_failures(WARNING);
	np_publisher_check_inbox(session, message->subject);
	if (!have_server(session, message, critical, &failure))
		return give_up_unsent(message, mode, &failure);
	publication.reply_prefix = np_connection_inbox(session->connection);
	publication.token = np_delivery_next_token();
	length = np_publication_size(&publication, &control_line);
	check_control_line(control_line);
	if (!check_length(session, content_length(&publication), critical, &failure) || !make_room(session, length, &failure))
		return give_up_unsent(message, mode, &failure);

	/* a wait may have changed the connection, but not the inbox */
	if (np_session_is_open(session) &&
		!(check_length(session, content_length(&publication), critical, &failure) &&
		  np_session_try_require(session, message->needs, critical, &failure)))
		return give_up_unsent(message, mode, &failure);
	if (mode == NP_CRITICAL || mode == NP_UNCRITICAL)
		np_levels_enter(publication.token);
	pending = np_delivery_add(session, &publication, length, mode);
	record_message(session, pending, message);
	if (mode == NP_CRITICAL || mode == NP_UNCRITICAL)
		np_futures_add(mode == NP_CRITICAL);
	send_or_gather(session, pending->published_at);
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
	NpSession  *session = np_current_session();
	NpWatch    *watch;

	np_stats_mode = NP_STATS_SYNC;
	watch = np_delivery_watch(np_delivery_next_token());
	(void) publish(session, message, NP_SYNC);
	np_await_watched(session, watch, NP_FOREVER);
	*result = watch->result;
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
	np_stats_mode = NP_STATS_ASYNC;
	return publish(np_current_session(), message, critical ? NP_CRITICAL : NP_UNCRITICAL);
}

/* The same for a message that was held for the transaction's end. */
void
np_publish_held(const NpMessage *message)
{
	np_stats_mode = NP_STATS_ON_COMMIT;
	(void) publish(np_sessions_get(message->session), message, NP_CRITICAL);
}

/* Publish without waiting; what becomes of it is reported to the session's listener. */
void
np_publish_relayed(NpSession *session, const NpMessage *message)
{
	np_stats_mode = NP_STATS_OUTBOX;
	(void) publish(session, message, NP_RELAYED);
}

/*
 * Hold a message until the transaction commits; then it goes out over this
 * session.
 *
 * It is checked as far as it can be without connecting: a limit of the server
 * is known to a session that is connected, and else is checked by the commit
 * before anything is sent.
 */
void
np_publish_on_commit_over(NpSession *session, const NpMessage *message)
{
	size_t		length = message->headers.length + message->payload.length;

	np_publisher_check_inbox(session, message->subject);
	if (np_session_is_open(session) && is_too_long(session, length))
		np_session_check(session, true);
	if (np_session_is_open(session))
		np_publisher_check_length(session, length);
	np_levels_enter(np_delivery_next_token());
	np_queue_add(message, session->number);
}

void
np_publish_on_commit(const NpMessage *message)
{
	np_publish_on_commit_over(np_current_session(), message);
}

/* ---- Connections -------------------------------------------------------------- */

/* This call's session, connected; raises why it can't be. */
NpSession *
np_publisher_connect(void)
{
	NpSession  *session = np_current_session();
	NpFailure	failure;

	np_stats_mode = NP_STATS_SYNC;
	np_delivery_report_failures(WARNING);
	if (!np_session_ready(session, true, &failure))
		np_raise(&failure);
	return session;
}

static bool
disconnect(NpSession *session)
{
	if (!np_session_is_open(session))
		return false;
	(void) np_connection_drain(session->connection, np_now() + NP_MILLISECONDS(np_ack_timeout));
	np_connection_close(session->connection);
	return true;
}

/*
 * Wait for what is pending and close all connections.  False: there was none.
 */
bool
np_publisher_disconnect(void)
{
	NpSession  *session;
	bool		had_one = np_await_all(NP_FOREVER) > 0;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		had_one |= disconnect(session);
	return had_one;
}
