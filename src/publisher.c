/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  Publishing, and the ends of transactions.
 *
 * Bytes go to the socket when nothing else is in flight, so that a lone
 * message loses no time, and otherwise when FLUSH_BYTES have gathered; acks
 * are read as sending goes on, for a server disconnects a client that leaves
 * too many unread (jetstream.md §3.5).  When the window is full, the call
 * waits for acks first.
 *
 * An interrupt can leave any wait by longjmp.  What it leaves is a message
 * in the window, which the end of the transaction removes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "batch.h"
#include "delivery.h"
#include "encoding.h"
#include "publisher.h"
#include "queue.h"
#include "server_info.h"
#include "session.h"
#include "settings.h"
#include "stats.h"
#include "subject.h"

#define FLUSH_BYTES				(32 * 1024)

/* The longest that a message waits for others to be sent with, if calls go on. */
#define FLUSH_INTERVAL			NP_MILLISECONDS(10)

/* At exit, for what is buffered. */
#define EXIT_TIMEOUT			NP_MILLISECONDS(500)

/* Tokens from the oldest pending one on: bounds the window behind a straggler. */
#define MAX_TOKEN_RANGE			(256 * 1024)

static NpConnection *connection;	/* NULL: nothing was published yet */
static NpWindow *window;
static const NpWatch *watch;	/* what the present call waits for */

static NpTime last_sent;		/* when bytes were last handed to the socket */
static MemoryContext scratch_context;	/* reset after each use */

static void
initialize(void)
{
	if (connection != NULL)
		return;
	scratch_context = AllocSetContextCreate(TopMemoryContext, "nats_publish scratch",
											ALLOCSET_SMALL_SIZES);
	window = np_delivery_window();
	connection = np_session_begin();
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

static bool
watched_is_done(void)
{
	return watch->done;
}

static bool
window_is_empty(void)
{
	return window->count == 0;
}

static bool
nothing_is_awaited(void)
{
	return np_futures_awaited() == 0;
}

/* ---- Room in the window ---------------------------------------------------- */

/* The size of the message for which there must be room. */
static size_t room_wanted;

static bool
window_has_room(void)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	if (window->count == 0)
		return true;
	return window->count < np_max_pending &&
		np_delivery_next_token() - window->first < MAX_TOKEN_RANGE &&
		outbound()->bytes + (int64) room_wanted <= bytes;
}

/*
 * A part of the window is free: waiting for one message at a time would cost
 * a wake-up each, and waiting for all of them would leave the server idle.
 * An eighth keeps the longest call short.
 */
static bool
window_is_part_free(void)
{
	int64		bytes = (int64) np_max_pending_bytes * 1024;

	return window->count == 0 ||
		(window_has_room() && window->count <= np_max_pending - np_max_pending / 8 &&
		 outbound()->bytes <= bytes - bytes / 8);
}

/* Give up the messages that nobody waits for and that were published before. */
static void
expire_uncritical(NpTime before)
{
	NpPending  *message;
	uint64		next = 0;

	if (window->uncritical == 0)
		return;
	while ((message = np_window_next(window, &next)) != NULL)
	{
		if (message->mode == NP_UNCRITICAL && message->published_at <= before)
			np_delivery_fail(message, np_session_explain(message));
	}
}

static void
expire_overdue(void)
{
	expire_uncritical(np_now() - NP_MILLISECONDS(np_ack_timeout));
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
		*failure = np_failure(NP_FAULT_WINDOW_FULL, window->count == 1 ?
							  "%d message is not acknowledged yet" :
							  "%d messages are not acknowledged yet", window->count);
		return false;
	}
	if (np_session_wait(window_is_part_free, np_session_patience(), NP_FOREVER))
		return true;
	expire_overdue();
	if (is_open() && window_has_room())
		return true;
	*failure = np_failure(is_open() ? NP_FAULT_UNKNOWN : NP_FAULT_LOST,
						  "%d earlier messages are not acknowledged, and none was within %d ms",
						  window->count, np_session_patience());
	return false;
}

/*
 * Headers and payload may be no longer than the server allows, or it would
 * close the connection.  Asked again before an error: it may allow more by now.
 */
static void
check_length(size_t length)
{
	NpFailure	failure;

	if (length <= (size_t) np_connection_max_payload(connection))
		return;
	np_server_refresh_max_payload(connection);
	if (length <= (size_t) np_connection_max_payload(connection))
		return;
	failure = np_failure(NP_FAULT_SIZE,
						 "message is %zu bytes long with its headers, the server's max_payload is " INT64_FORMAT,
						 length, np_connection_max_payload(connection));
	np_raise(&failure);
}

/* The limits of one command. */
static void
check_size(const NpPublication *publication, size_t control_line)
{
	check_length(publication->headers.length + publication->payload.length);
	if (control_line > NP_MAX_CONTROL_LINE)
	{
		NpFailure	failure = np_failure(NP_FAULT_SIZE,
										 "subject and inbox make a protocol line of %zu bytes, the limit is %d",
										 control_line, NP_MAX_CONTROL_LINE);

		np_raise(&failure);
	}
}

/* ---- Publishing ------------------------------------------------------------------ */

/* Send now, or leave it to go with others? */
static void
send_or_gather(void)
{
	uint64		unsent = outbound()->appended - outbound()->sent;
	NpTime		now = np_now();

	if (window->count > 1 && unsent < FLUSH_BYTES && now - last_sent < FLUSH_INTERVAL)
		return;
	last_sent = now;
	np_connection_send(connection);
	if (window->count > 1)
		np_connection_receive(connection);
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
	pending->has_ttl = message->has_ttl;
	if (message->has_ttl)
		window->with_ttl++;
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
		.token = np_delivery_take_token(),
		.subject = message->subject,
		.id = message->id,
		.failure = *failure
	};

	np_futures_add(result.token, false);
	np_futures_complete(&result);
	np_delivery_note_untold(message->subject, failure);
	np_stats.published++;
	np_stats.failed++;
	np_stats.failed_uncritical++;
	np_delivery_tell_untold(WARNING);
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

	np_delivery_tell_untold(WARNING);
	initialize();
	if (!np_session_ready(mode != NP_UNCRITICAL, &failure))
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
	publication.token = np_delivery_next_token();
	length = np_publication_size(&publication, &control_line);
	check_size(&publication, control_line);
	if (!make_room(length, &failure))
	{
		if (mode == NP_UNCRITICAL)
			return fail_unsent(message, &failure);
		np_raise_message(&failure, np_from_utf8(message->subject));
	}

	/* a wait may have lost the connection, but not the inbox */
	note_message(np_delivery_add(&publication, length, mode), message);
	if (mode == NP_CRITICAL || mode == NP_UNCRITICAL)
		np_futures_add(publication.token, mode == NP_CRITICAL);
	send_or_gather();
	return publication.token;
}

/* Wait for what the call has just sent; what is not answered in time has failed. */
static void
wait_for_watched(void)
{
	NpPending  *pending;

	if (np_session_wait(watched_is_done, np_ack_timeout, NP_FOREVER))
		return;
	pending = np_window_find(window, watch->token);
	np_delivery_fail(pending, np_session_explain(pending));
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
	initialize();
	watch = np_delivery_watch(np_delivery_next_token());
	(void) publish(message, NP_SYNC);
	wait_for_watched();
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
	return publish(message, critical ? NP_CRITICAL : NP_UNCRITICAL);
}

/* Publish without waiting; who listens to the relay is told what becomes of it. */
void
np_publish_relayed(const NpMessage *message)
{
	(void) publish(message, NP_RELAYED);
}

/*
 * Hold a message until the transaction commits.
 *
 * It is checked as far as it can be without connecting: a limit of the server
 * is known to a session that is connected, and else is checked by the commit
 * before anything is sent.
 */
void
np_publish_on_commit(const NpMessage *message)
{
	if (connection != NULL && is_open())
		check_length(message->headers.length + message->payload.length);
	np_queue_add(message);
}

/*
 * One request to the JetStream API.  True: *reply lives until the next call.
 * False: *failure says what kept it from being sent or answered.
 */
bool
np_try_request(const char *subject, NpSpan payload, NpSpan *reply, NpFailure *failure)
{
	NpPublication publication = {
		.subject = {subject, strlen(subject)},
		.payload = payload
	};
	size_t		control_line;
	size_t		length;

	initialize();
	if (!np_session_ready(true, failure))
		return false;
	publication.reply_prefix = np_connection_inbox(connection);
	publication.token = np_delivery_next_token();
	length = np_publication_size(&publication, &control_line);
	check_size(&publication, control_line);
	watch = np_delivery_watch(publication.token);
	(void) np_delivery_add(&publication, length, NP_REQUEST);
	wait_for_watched();
	*reply = watch->reply;
	*failure = watch->result.failure;
	return watch->result.acked;
}

/* The same; raises the failure. */
NpSpan
np_request(const char *subject, NpSpan payload)
{
	NpSpan		reply;
	NpFailure	failure;

	np_delivery_tell_untold(WARNING);
	if (!np_try_request(subject, payload, &reply, &failure))
	{
		failure.text = psprintf("JetStream request \"%s\" failed: %s",
								np_from_utf8((NpSpan) {subject, strlen(subject)}), failure.text);
		np_raise(&failure);
	}
	return reply;
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

	np_delivery_tell_untold(WARNING);
	initialize();
	if (!np_futures_contain(future))
		np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
	pending = np_window_find(window, future);
	if (pending == NULL)
	{
		if (!np_futures_find(future, result))
			np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
		return;
	}
	watch = np_delivery_watch(future);
	if (!np_session_wait(watched_is_done, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
	{
		NpFailure	failure = unanswered_in_time();

		np_raise_message(&failure, np_from_utf8(np_pending_subject(pending)));
	}
	*result = watch->result;
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
	int64		count;

	np_delivery_tell_untold(WARNING);
	initialize();
	count = window->count;
	if (count > 0 &&
		!np_session_wait(window_is_empty, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNKNOWN, "%d messages are not acknowledged in time",
										 window->count);

		np_raise(&failure);
	}
	np_futures_raise_failures(0);
	np_delivery_tell_untold(WARNING);
	return count;
}

/*
 * Give up what is overdue, and tell of what nobody was told: for a call that
 * does neither by publishing or waiting.
 */
void
np_publisher_tell(void)
{
	if (connection != NULL)
		expire_overdue();
	np_delivery_tell_untold(WARNING);
}

/* Call visit for each future of this transaction that is pending, in order. */
void
np_publisher_each_pending(void (*visit) (const NpResult *result, void *argument), void *argument)
{
	NpPending  *message;
	uint64		next = 0;

	if (connection == NULL)
		return;
	while ((message = np_window_next(window, &next)) != NULL)
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

	np_delivery_tell_untold(WARNING);
	initialize();
	if (!np_session_ready(true, &failure))
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
	if (connection == NULL || (!is_open() && window->count == 0))
		return false;
	(void) np_publisher_flush(NP_FOREVER);
	if (is_open())
		(void) np_connection_drain(connection, np_now() + NP_MILLISECONDS(np_ack_timeout));
	np_connection_close(connection);
	return true;
}

/* ---- Ends of transactions and of the backend ------------------------------------------ */

/* What the transaction waits for has not come in time: it failed. */
static void
fail_awaited(void)
{
	MemoryContext previous = MemoryContextSwitchTo(scratch_context);
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(window, &next)) != NULL)
	{
		if (message->mode == NP_CRITICAL)
			np_delivery_fail(message, np_session_explain(message));
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/*
 * Wait for what the transaction has sent, and raise what failed of it; unsent
 * messages are only told of.
 */
static void
finish_futures(int64 unsent)
{
	if (np_futures_awaited() > 0 && !np_session_wait(nothing_is_awaited, np_commit_timeout, NP_FOREVER))
		fail_awaited();
	np_futures_raise_failures(unsent);
}

/* What must be known of the held messages before any is sent. */
static void
check_held(const NpQueueSummary *held)
{
	check_length(held->largest);
	if (held->has_ttl)
		np_server_require(connection, 2, 11, "ttl");
}

/*
 * Send what the transaction holds; returns how many messages were not sent,
 * because another one had failed already.
 */
static int64
send_held(void)
{
	NpQueueSummary held = np_queue_summary();
	NpMessage	message;
	NpFailure	failure;

	if (held.count == 0)
		return 0;
	initialize();
	if (!np_session_ready(true, &failure))
		np_raise(&failure);
	/* what was published at once can fail the transaction: then nothing of it is sent */
	finish_futures(held.count);
	if (np_commit_batch == NP_COMMIT_ATOMIC)
	{
		np_batch_publish();
		return 0;
	}
	check_held(&held);
	np_queue_rewind();
	while (np_futures_failed() == 0 && np_queue_next(&message))
	{
		(void) publish(&message, NP_CRITICAL);
		held.count--;
	}
	return held.count;
}

/*
 * Before the transaction becomes durable: what it holds is sent, and
 * everything critical is acknowledged, or ERROR.
 */
void
np_publisher_finish_transaction(void)
{
	int64		unsent;

	np_session_set_committing(true);
	np_futures_close();
	unsent = send_held();
	np_queue_close();
	if (connection == NULL)
		return;
	finish_futures(unsent);
	if (is_open())
	{
		np_connection_send(connection);
		if (window->uncritical > 0)
			np_connection_receive(connection);
	}
	np_publisher_tell();
}

/*
 * The same before PREPARE TRANSACTION, which can't hold messages: who commits
 * it may be another session, or nobody for a long time.
 */
void
np_publisher_prepare_transaction(void)
{
	int64		held = np_queue_summary().count;

	np_queue_close();
	np_publisher_finish_transaction();
	if (held > 0)
	{
		NpFailure	failure = np_failure(NP_FAULT_FEATURE,
										 "cannot PREPARE a transaction that holds messages for its commit");

		failure.hint = "Publish them with nats_publish_async(), which PREPARE TRANSACTION waits for.";
		np_raise(&failure);
	}
}

/*
 * Take what nobody waits for any more out of the window: critical messages
 * from a token on, and what an interrupted call has left.  Never throws.
 */
static void
abandon(uint64 first_critical)
{
	NpPending  *message;
	uint64		next = first_critical;

	/* only the call that was interrupted last can have left something */
	if (watch != NULL && watch->token != 0)
		next = Min(next, watch->token);
	while ((message = np_window_next(window, &next)) != NULL)
	{
		if (message->mode == NP_SYNC || message->mode == NP_REQUEST || message->mode == NP_BATCH ||
			(message->mode == NP_CRITICAL && message->token >= first_critical))
			np_delivery_drop(message);
	}
	(void) np_delivery_watch(0);
	np_connection_send(connection);
}

/*
 * The transaction was rolled back, or has committed and left nothing: its
 * messages stay with NATS, but nobody waits for them.  Never throws, waits or
 * connects.
 */
void
np_publisher_forget_transaction(void)
{
	np_session_set_committing(false);
	np_futures_forget();
	np_queue_forget();
	if (connection == NULL)
		return;
	abandon(0);
	np_outbound_give_back(outbound());
}

/* What the subtransaction has published is its parent's. */
void
np_publisher_merge_subtransaction(int nest_level)
{
	np_futures_subcommit(nest_level);
	np_queue_subcommit(nest_level);
}

/* np_publisher_forget_transaction for a subtransaction that was rolled back. */
void
np_publisher_forget_subtransaction(int nest_level)
{
	uint64		first = np_futures_subabort(nest_level, np_delivery_next_token());

	np_queue_subabort(nest_level);
	if (connection != NULL)
		abandon(first != 0 ? first : PG_UINT64_MAX);
}

/* Wait for a while until the server has seen everything, then for the acks. */
static void
drain_at_exit(void)
{
	NpTime		limit = np_now() + EXIT_TIMEOUT;

	(void) np_connection_drain(connection, limit);
	while (is_open() && window->count > 0 && np_now() < limit)
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
		expire_uncritical(np_now());
		np_delivery_tell_untold(LOG);
	}
	PG_CATCH();
	{
		FlushErrorState();
	}
	PG_END_TRY();
	np_connection_close(connection);
}
