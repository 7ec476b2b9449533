/*-------------------------------------------------------------------------
 *
 * delivery.c
 *	  What becomes of a message once it is in the window.
 *
 * Each message has a token, which is the last token of its reply subject and
 * the number of its future, and is never used again.  From its call to its
 * end a message is in the window, with the bytes of its command at hand:
 *
 *	  added ──► sent ──► acknowledged
 *		▲		 │ ──► refused
 *		│		 ├ 503, 429, "in process": after a while ──► sent again
 *		│		 └ connection lost: on the next one ──► sent again, if it
 *		│											   has an id; else failed
 *
 * Nothing here waits.  The server's answers come from replies.c.  Only the
 * lack of memory or disk throws: a future that can't be recorded fails its
 * transaction (futures.c) and leaves the window all the same; any other
 * message is not known to be answered.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "message/message.h"
#include "publish/delivery.h"
#include "stats/stats.h"

static MemoryContext delivery_context;	/* of everything here; NULL: not used yet */
static MemoryContext watch_context; /* of what the watch points to */
static uint64 last_token;		/* of all sessions */

/* Of a message that may be stored, by what publishing it again does. */
#define HINT_SAME_ID	"Publish it again with the same msg_id: JetStream then stores it once."
#define HINT_OTHER_ID	"Publish it again, and it may be stored twice. With a msg_id of your own, the same one each time, it is stored once."

/* Not the call's own, which an interrupt leaves by longjmp: then the end of the transaction takes its message away. */
static NpWatch watch;

/* Failed messages published with critical => false that were not reported yet. */
static int64 unreported_count;
static NpFailedMessage first_unreported;

static void
create_contexts(void)
{
	MemoryContext context;

	if (delivery_context != NULL)
		return;
	context = AllocSetContextCreate(TopMemoryContext, "nats_publish", ALLOCSET_DEFAULT_SIZES);
	watch_context = AllocSetContextCreate(context, "nats_publish result", ALLOCSET_SMALL_SIZES);
	delivery_context = context;
}

/*
 * Make a session's connection (not opened), of which something else hears the
 * events, and window.
 */
void
np_delivery_begin(NpSession *session, const NpConnectionEvents *events)
{
	create_contexts();
	np_window_init(&session->window, delivery_context);
	session->next_retry = NP_FOREVER;
	session->connection = np_connection_create(delivery_context, events, session);
}

/* The token that the next message gets. */
uint64
np_delivery_next_token(void)
{
	return last_token + 1;
}

/* Use up a token for a message that never enters the window. */
uint64
np_delivery_use_token(void)
{
	return ++last_token;
}

/* Did a message come to its end since this was asked the last time? */
bool
np_delivery_has_progressed(NpSession *session)
{
	bool		result = session->progressed;

	session->progressed = false;
	return result;
}

/* ---- The end of a message ------------------------------------------------ */

/*
 * Keep what becomes of a token, which may not be added yet; 0 for none.  The
 * one watched before is dropped.
 */
NpWatch *
np_delivery_watch(uint64 token)
{
	if (watch_context != NULL)
		MemoryContextReset(watch_context);
	memset(&watch, 0, sizeof(watch));
	watch.token = token;
	return &watch;
}

/* The token that is watched; 0: none. */
uint64
np_delivery_watched(void)
{
	return watch.token;
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
	watch.result.subject = copy_span(result->subject, watch_context);
	watch.result.id = copy_span(result->id, watch_context);
	watch.result.ack.stream = copy_span(result->ack.stream, watch_context);
	watch.result.ack.domain = copy_span(result->ack.domain, watch_context);
	watch.result.ack.value = copy_span(result->ack.value, watch_context);
	if (!result->acked)
		watch.result.failure = np_failure_copy(&result->failure, watch_context);
	watch.done = true;
}

/* The same for the reply to a request, if that is watched. */
void
np_delivery_keep_reply(const NpPending *request, NpSpan reply)
{
	if (request->token == watch.token)
		watch.reply = copy_span(reply.length > 0 ? reply : (NpSpan) {"", 0}, watch_context);
}

/* Keep a failure that nobody waits for, until it can be reported. */
void
np_delivery_record_failure(NpSpan subject, const NpFailure *failure)
{
	if (unreported_count == 0)
	{
		first_unreported.subject = MemoryContextStrdup(delivery_context, np_from_utf8(subject));
		first_unreported.failure = np_failure_copy(failure, delivery_context);
	}
	unreported_count++;
}

/* Report such failures; elevel is below ERROR. */
void
np_delivery_report_failures(int elevel)
{
	NpFailedMessage first = first_unreported;
	int64		count = unreported_count;

	if (count == 0)
		return;
	/* reset first, for the report can throw */
	unreported_count = 0;
	np_warn_messages(elevel, &first, count);
	pfree(first.subject);
	np_failure_free(&first.failure);
}

static void
count_ack(const NpSession *session, const NpPending *message, bool duplicate)
{
	NpStats    *stats = np_stats_of(message->counted_as);

	stats->acked++;
	if (duplicate)
		stats->duplicates++;
	np_histogram_add(&stats->acks, np_connection_received_at(session->connection) - message->published_at, 1);
}

static void
count_failure(const NpPending *message, const NpFailure *failure)
{
	NpStats    *stats = np_stats_of(message->counted_as);

	stats->failed++;
	if (message->mode == NP_UNCRITICAL)
		stats->failed_uncritical++;
	np_stats_record_failure(message->counted_as, np_pending_subject(message), failure);
}

/* Take a message out of the window, whatever has become of it.  What is unsent of it goes out. */
void
np_delivery_drop(NpSession *session, NpPending *message)
{
	NpChunk    *chunk = message->chunk;

	np_window_remove(&session->window, message);
	np_outbound_release(np_session_outbound(session), chunk);
}

/* The same; if nothing of it has left yet, nothing does. */
void
np_delivery_retract(NpSession *session, NpPending *message)
{
	(void) np_outbound_retract(np_session_outbound(session), message->chunk, message->position, message->length);
	np_delivery_drop(session, message);
}

/* A member of a batch has its answer; it is the batch that has an end. */
void
np_delivery_answer_member(NpSession *session, NpPending *message, const NpReply *reply, bool was_sent)
{
	uint64		token = message->token;

	np_delivery_drop(session, message);
	session->progressed = true;
	if (session->members.answered != NULL)
		session->members.answered(session->members.owner, token, reply, was_sent);
}

/* Or does it only ask something? */
static bool
is_message(const NpPending *message)
{
	return message->mode != NP_REQUEST && message->mode != NP_PROBE;
}

/* Its reply will not come again, for a message that no later transaction can know. */
static void
complete_future(NpSession *session, NpPending *message, const NpResult *result)
{
	PG_TRY();
	{
		np_futures_complete(result);
	}
	PG_CATCH();
	{
		np_delivery_drop(session, message);
		session->progressed = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * A message has come to its end: acknowledged, or failed.  ERROR when out of
 * memory or of disk.
 */
void
np_delivery_complete(NpSession *session, NpPending *message, const NpPubAck *ack, const NpFailure *failure)
{
	NpResult	result = {
		.token = message->token,
		.critical = message->mode == NP_CRITICAL,
		.subject = np_pending_subject(message),
		.id = np_pending_id(message),
		.acked = ack != NULL
	};
	bool		is_end = true;

	if (ack != NULL)
		result.ack = *ack;
	if (failure != NULL)
		result.failure = *failure;
	if (message->mode == NP_RELAYED && session->relay.completed != NULL)
		is_end = session->relay.completed(session->relay.owner, &result);
	if (message->token == watch.token)
		keep_watched(&result);
	else if (message->mode == NP_UNCRITICAL && !result.acked)
		np_delivery_record_failure(result.subject, &result.failure);
	if (is_message(message) && result.acked)
		count_ack(session, message, ack->duplicate);
	else if (is_message(message) && is_end)
		count_failure(message, failure);
	/* last: a message that stays because something above threw must not be counted twice */
	if (message->mode == NP_CRITICAL || message->mode == NP_UNCRITICAL)
		complete_future(session, message, &result);
	np_delivery_drop(session, message);
	session->progressed = true;
}

/*
 * The same, for a message that failed.  The failure's texts are copied.
 *
 * If it went out on a connection that was then lost, or is "in process", that
 * first copy may be stored, whatever has become of the second: a server may
 * refuse it just because of the first (it checks expected sequences before
 * duplicates).
 */
void
np_delivery_fail(NpSession *session, NpPending *message, NpFailure failure)
{
	if (message->mode == NP_BATCH)
	{
		NpReply		reply = {.kind = NP_REPLY_FAILURE,.failure = failure};

		np_delivery_answer_member(session, message, &reply, true);
		return;
	}
	if (message->may_be_refused && failure.fault == NP_FAULT_CONFLICT)
	{
		NpPubAck	there = {.duplicate = true};

		/* whether by an earlier copy of it, or by something newer */
		np_delivery_complete(session, message, &there, NULL);
		return;
	}
	if (message->in_doubt && is_message(message) && failure.fault != NP_FAULT_UNKNOWN)
	{
		failure.fault = NP_FAULT_UNKNOWN;
		failure.text = psprintf("%s; it was sent before, and may be stored", failure.text);
	}
	if (failure.fault == NP_FAULT_UNKNOWN)
		failure.hint = message->has_own_id ? HINT_SAME_ID : HINT_OTHER_ID;
	np_delivery_complete(session, message, NULL, &failure);
}

/* ---- Nobody is there ---------------------------------------------------------- */

/* As a clause, and what to do about it; NULL: not known. */
static const struct
{
	const char *clause;
	const char *hint;
}			absences[] = {
	[NP_ABSENT_NOT_KNOWN] = {NULL, NULL},
	[NP_ABSENT_OFF] = {"JetStream is not switched on at the NATS server", NP_HINT_SWITCH_ON},
	[NP_ABSENT_HERE] = {"JetStream is not switched on at the NATS server", NP_HINT_ELSEWHERE},
	[NP_ABSENT_FOR_ACCOUNT] = {"the account of the NATS user has no JetStream", NP_HINT_ACCOUNT},
	[NP_ABSENT_STOPPED] = {"JetStream is no longer enabled at the NATS server", NP_HINT_STOPPED},
};

/* Of a message that no stream takes, with what is known of JetStream. */
NpFailure
np_delivery_untaken(const NpSession *session)
{
	NpFailure	failure = {.fault = NP_FAULT_UNTAKEN,.text = "no stream takes this subject"};

	if (session->absence == NP_ABSENT_OFF)
		return np_delivery_unanswered(session);
	/* here it may be imported from another account, or another server may have the stream */
	if (absences[session->absence].clause != NULL)
		failure.text = psprintf("%s, and %s", failure.text, absences[session->absence].clause);
	failure.hint = absences[session->absence].hint;
	return failure;
}

/* Of a request to JetStream that nobody answers. */
NpFailure
np_delivery_unanswered(const NpSession *session)
{
	NpFailure	failure = {.fault = NP_FAULT_NO_JETSTREAM,.text = absences[session->absence].clause};

	if (failure.text == NULL)
		failure.text = "the server does not answer JetStream requests";
	failure.hint = absences[session->absence].hint;
	return failure;
}

/* ---- Sending and sending again -------------------------------------------- */

/*
 * Write a command of the given length to the end of what is to be sent, and
 * enter it into the window.  Its token must be np_delivery_next_token().
 * ERROR when out of memory.
 */
NpPending *
np_delivery_add(NpSession *session, const NpPublication *publication, size_t length, NpMode mode)
{
	uint64		position = np_session_outbound(session)->appended;
	NpChunk    *chunk;
	char	   *place;
	NpPending  *pending;

	/* first, for what is appended goes out */
	np_window_make_room(&session->window, publication->token);
	place = np_outbound_append(np_session_outbound(session), length, &chunk);
	np_publication_encode(publication, place);
	pending = np_window_add(&session->window, publication->token);
	last_token = publication->token;
	pending->bytes = place;
	pending->chunk = chunk;
	pending->position = position;
	pending->length = length;
	pending->content_length = publication->headers.length + publication->payload.length;
	pending->subject_offset = publication->headers.data != NULL ? 5 : 4;	/* HPUB, PUB */
	pending->subject_length = publication->subject.length;
	pending->mode = mode;
	pending->counted_as = np_stats_mode;
	pending->published_at = np_now();
	if (mode == NP_CRITICAL)
		session->window.critical++;
	if (mode == NP_UNCRITICAL)
		session->window.uncritical++;
	return pending;
}

/* Put the message's command at the end of what is to be sent. */
static void
send_again(NpSession *session, NpPending *message)
{
	NpChunk    *old = message->chunk;
	uint64		position = np_session_outbound(session)->appended;
	char	   *place = np_outbound_append(np_session_outbound(session), message->length, &message->chunk);

	memcpy(place, message->bytes, message->length);
	message->bytes = place;
	message->position = position;
	message->retry_at = 0;
	message->refused = false;
	np_window_set_denied(&session->window, message, false);
	np_outbound_release(np_session_outbound(session), old);
}

/* Send a message again after a time, for which the server has given a cause. */
void
np_delivery_retry_after(NpSession *session, NpPending *message, NpTime delay, const NpFailure *cause)
{
	if (message->cause == NULL)
		message->cause = MemoryContextAllocZero(delivery_context, sizeof(NpFailure));
	else
		np_failure_free(message->cause);
	*message->cause = np_failure_copy(cause, delivery_context);
	if (message->attempts < UINT8_MAX)
		message->attempts++;
	message->retry_at = np_now() + delay;
	session->next_retry = Min(session->next_retry, message->retry_at);
}

/* With up to half of it off, so that sessions do not come in step. */
NpTime
np_jittered(NpTime delay)
{
	return delay - (NpTime) pg_prng_uint64_range(&pg_global_prng_state, 0, delay / 2);
}

/* The back-off after a number of attempts. */
NpTime
np_delay_after(int attempts)
{
	return np_jittered(attempts > 4 ? NP_LAST_DELAY : NP_FIRST_DELAY << attempts);
}

/*
 * How long after its first copy a message may be sent again, ms: as long as
 * it is waited for, and a connection then made.  The doctor compares that
 * with the duplicate_window of the stream.
 */
int
np_delivery_resend_time(void)
{
	return Max(np_ack_timeout, np_commit_timeout) + np_connect_timeout;
}

/* Is it a request of the JetStream API that changes nothing, or nothing more the second time? */
static bool
is_repeatable(NpSpan request)
{
	static const char *const names[] = {
		"INFO", "STREAM.INFO.", "STREAM.NAMES", "STREAM.LIST", "STREAM.MSG.GET.", "STREAM.CREATE.", "STREAM.UPDATE.",
		"CONSUMER.INFO.", "CONSUMER.NAMES.", "CONSUMER.LIST.", "DIRECT.GET."
	};
	const char *api = memmem(request.data, request.length, ".API.", 5);
	size_t		length = api == NULL ? 0 : request.data + request.length - (api += 5);

	for (int i = 0; i < lengthof(names); i++)
	{
		size_t		needed = strlen(names[i]);

		if (length >= needed && memcmp(api, names[i], needed) == 0)
			return true;
	}
	return false;
}

/*
 * Why a message that may be stored can't be sent again: JetStream would not
 * know the copy for one.  NULL: it can.
 */
static const char *
keeps_from_resend(const NpPending *message)
{
	if (message->mode == NP_REQUEST)
		return is_repeatable(np_pending_subject(message)) ? NULL : "it may have been carried out";
	if (message->id_length == 0)
		return "it has no id";
	if (np_now() - message->published_at > NP_MILLISECONDS(np_delivery_resend_time()))
		return "it was first sent too long ago";
	return NULL;
}

/* Nobody else has answered; where the connection is lost, nobody can have been heard. */
static void
fail_refused(NpSession *session, NpPending *message)
{
	message->in_doubt |= !np_connection_is_open(session->connection);
	np_delivery_fail(session, message, *message->cause);
}

/*
 * Send again what is due, of which next_retry says when that is.
 */
void
np_delivery_send_due(NpSession *session, NpTime now)
{
	NpPending  *message;
	uint64		next = 0;

	if (now < session->next_retry)
		return;
	session->next_retry = NP_FOREVER;
	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (message->retry_at == 0)
			continue;
		if (message->retry_at > now)
			session->next_retry = Min(session->next_retry, message->retry_at);
		else if (message->refused)
			fail_refused(session, message);
		else if (message->in_doubt && keeps_from_resend(message) != NULL)
			np_delivery_fail(session, message, *message->cause);
		else
		{
			send_again(session, message);
			np_stats_of(message->counted_as)->retried++;
		}
	}
}

static NpFailure
too_large(const NpPending *message)
{
	return np_failure(NP_FAULT_SIZE, "message is %u bytes long with its headers, over the server's max_payload",
					  message->content_length);
}

/*
 * The server has ended the connection for a message over a max_payload that
 * it had not announced (one lowered by a reload).  The largest of those sent is
 * over it too, so it is not sent again.  It may be stored if anything behind it
 * can have been the cause.
 */
static void
fail_largest(NpSession *session, uint64 sent)
{
	NpPending  *largest = NULL;
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (message->position >= sent || message->mode == NP_BATCH)
			continue;
		if (largest == NULL || message->content_length > largest->content_length)
			largest = message;
	}
	if (largest == NULL)
		return;
	largest->in_doubt |= largest->position + largest->length < sent;
	np_delivery_fail(session, largest, too_large(largest));
}

/* On the connection that was lost.  One that waits for its retry was answered: it is not stored. */
static bool
was_sent(const NpPending *message, uint64 sent)
{
	return message->position < sent && (message->retry_at == 0 || message->refused);
}

/* On a new connection: what needs more than its server knows is not sent to it. */
void
np_delivery_fail_newer(NpSession *session, NpFeature known)
{
	uint64		sent = np_connection_sent_before_loss(session->connection);
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (message->needs <= known)
			continue;
		message->in_doubt |= was_sent(message, sent);
		np_delivery_fail(session, message, np_failure(NP_FAULT_FEATURE, "the connection was lost, and the next server does not support %s",
													  np_feature_origin(message->needs)->name));
	}
}

static void
fail_in_doubt(NpSession *session, NpPending *message, const char *why)
{
	NpFailure	failure = np_failure(is_message(message) ? NP_FAULT_UNKNOWN : NP_FAULT_UNANSWERED,
									 "the connection was lost, and the %s can't be sent again (%s)",
									 is_message(message) ? "message" : "request", why);

	np_delivery_fail(session, message, failure);
}

/*
 * On a new connection: send what is pending, in the order of the calls.
 *
 * What was (perhaps in part) sent on the old one may be stored, so it needs
 * an id, and is sent again only inside the time for which JetStream knows
 * ids, counted from the first copy: then it stores it once.
 */
void
np_delivery_resend(NpSession *session)
{
	uint64		sent = np_connection_sent_before_loss(session->connection);
	NpPending  *message;
	uint64		next = 0;
	int			resent = 0;

	if (np_connection_was_lost_for_size(session->connection))
		fail_largest(session, sent);
	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		bool		is_sent = was_sent(message, sent);
		const char *why_not = is_sent || message->in_doubt ? keeps_from_resend(message) : NULL;

		if (message->mode == NP_BATCH)
			np_delivery_answer_member(session, message, NULL, is_sent);
		else if (message->content_length > np_connection_max_payload(session->connection))
		{
			/* a lower limit than before: the old server may have stored it */
			message->in_doubt |= is_sent;
			np_delivery_fail(session, message, too_large(message));
		}
		else if (why_not != NULL)
			fail_in_doubt(session, message, why_not);
		else
		{
			send_again(session, message);
			if (is_sent)
			{
				message->in_doubt = true;
				np_stats_of(message->counted_as)->resent++;
				resent++;
			}
		}
	}
	np_connection_begin_use(session->connection);
	if (resent > 0)
		ereport(DEBUG1,
				(errmsg_plural("nats_publish sent %d message again", "nats_publish sent %d messages again", resent, resent)));
}
