/*-------------------------------------------------------------------------
 *
 * replies.c
 *	  What the server answers to messages and requests.
 *
 * All is handled in a scratch context, by whoever receives it.  What throws is
 * what ends a message (delivery.c), and the lack of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/encoding.h"
#include "message/message.h"
#include "publish/denials.h"
#include "publish/replies.h"

/* Of JetStream. */
#define ERROR_NOT_FOR_ACCOUNT	10039
#define ERROR_NOT_ENABLED		10076

static MemoryContext scratch_context;	/* reset after each use; NULL: not used yet */

static MemoryContext
enter_scratch(void)
{
	if (scratch_context == NULL)
		scratch_context = AllocSetContextCreate(TopMemoryContext, "nats_publish reply", ALLOCSET_DEFAULT_SIZES);
	return MemoryContextSwitchTo(scratch_context);
}

/* Why does nobody take a message?  A question that was not answered is asked again. */
static void
want_look(NpSession *session)
{
	if (session->look == NP_LOOK_NONE ||
		(session->look == NP_LOOK_ASKED && np_now() >= session->looked_at + NP_LOOK_TIME))
		session->look = NP_LOOK_WANTED;
}

static void
handle_no_responders(NpSession *session, NpPending *message)
{
	NpFailure	failure = np_delivery_untaken(session);

	if (message->untaken == 0)
		want_look(session);
	/* the relay has a back-off of its own, and others not to keep waiting */
	if (message->untaken++ < NP_NO_RESPONDERS_RETRIES && message->mode != NP_RELAYED)
		np_delivery_retry_after(session, message, NP_NO_RESPONDERS_DELAY, &failure);
	else
		np_delivery_fail(session, message, failure);
}

/* Without an id only what is certainly not stored can be sent again. */
static void
handle_retry(NpSession *session, NpPending *message, const NpFailure *failure)
{
	if (message->id_length == 0 && failure->fault == NP_FAULT_UNKNOWN)
	{
		np_delivery_fail(session, message, *failure);
		return;
	}
	message->in_doubt |= failure->fault == NP_FAULT_UNKNOWN;
	/* whatever another stream has said */
	message->refused = false;
	np_delivery_retry_after(session, message, np_delay_after(message->attempts), failure);
}

static void
handle_ack(NpSession *session, NpPending *message, NpPubAck *ack)
{
	NpSpan		expected = {message->bytes + message->stream_offset, message->stream_length};

	/* it is kept for each message, and only that of a counter has one */
	if (message->needs < NP_FEATURE_COUNTER)
		ack->value = (NpSpan) {NULL, 0};
	if (expected.length > 0 && !np_span_equals(expected, ack->stream))
	{
		NpFailure	failure = np_failure(NP_FAULT_CONFLICT, "stream \"%s\" answered, not the expected one",
										 np_from_utf8(ack->stream));

		failure.hint = "Another stream takes this subject.";
		np_delivery_fail(session, message, failure);
	}
	else
		np_delivery_complete(session, message, ack, NULL);
}

/* With two JetStream domains the expected stream may take it too, and be slower to answer. */
static void
handle_other_stream(NpSession *session, NpPending *message, const NpFailure *failure)
{
	/* the right one may have answered that it is to be sent again */
	if (message->refused || message->retry_at != 0)
		return;
	np_delivery_retry_after(session, message, NP_OTHERS_TIME, failure);
	message->refused = true;
}

static void
handle_request_reply(NpSession *session, NpPending *message, const NpOperation *operation)
{
	if (operation->status == 503)
	{
		np_delivery_fail(session, message, np_failure(NP_FAULT_NO_JETSTREAM, "nobody answers"));
		return;
	}
	np_delivery_keep_reply(message, operation->payload);
	np_delivery_complete(session, message, &(NpPubAck) {.sequence = 0}, NULL);
}

static void
handle_reply(NpSession *session, NpPending *message, const NpOperation *operation)
{
	NpReply		reply;

	np_reply_parse(operation, &reply);
	if (message->mode == NP_BATCH)
	{
		np_delivery_answer_member(session, message, &reply, true);
		return;
	}
	switch (reply.kind)
	{
		case NP_REPLY_STAGED:
			np_delivery_fail(session, message, np_failure(NP_FAULT_UNKNOWN, "the reply is empty"));
			break;
		case NP_REPLY_ACK:
			handle_ack(session, message, &reply.ack);
			break;
		case NP_REPLY_NO_RESPONDERS:
			handle_no_responders(session, message);
			break;
		case NP_REPLY_RETRY:
			handle_retry(session, message, &reply.failure);
			break;
		case NP_REPLY_FAILURE:
			if (reply.error_code == NP_ERROR_OTHER_STREAM)
				handle_other_stream(session, message, &reply.failure);
			else
				np_delivery_fail(session, message, reply.failure);
			break;
	}
}

/* Is JetStream there, and for the account? */
static void
handle_look_reply(NpSession *session, const NpOperation *operation)
{
	NpReply		reply;

	np_reply_parse(operation, &reply);
	session->look = reply.kind == NP_REPLY_NO_RESPONDERS ? NP_LOOK_NOBODY : NP_LOOK_NONE;
	session->absence = reply.error_code == ERROR_NOT_FOR_ACCOUNT ? NP_ABSENT_FOR_ACCOUNT :
		reply.error_code == ERROR_NOT_ENABLED ? NP_ABSENT_STOPPED : NP_ABSENT_NOT_KNOWN;
}

static void
on_look_reply(NpSession *session, const NpOperation *operation)
{
	MemoryContext previous = enter_scratch();

	handle_look_reply(session, operation);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/* A reply to a token; that of a message which is not pending any more is ignored. */
static void
on_reply(void *owner, uint64 token, const NpOperation *operation)
{
	NpSession  *session = owner;
	NpPending  *message = np_window_find(&session->window, token);
	NpSpan		subject = {NULL, 0};
	MemoryContext previous;

	if (token == NP_QUESTION_TOKEN)
		on_look_reply(session, operation);
	if (message == NULL)
		return;
	np_connection_confirm(session->connection, message->position + message->length);
	previous = enter_scratch();
	if (session->window.denied > 0)
	{
		subject = np_pending_subject(message);
		subject.data = pnstrdup(subject.data, subject.length);
		np_denials_reply(session, message);
	}
	if (message->mode == NP_REQUEST)
		handle_request_reply(session, message, operation);
	else if (message->mode == NP_PROBE)
		session->probe.answered(session->probe.owner, operation);
	else
		handle_reply(session, message, operation);
	if (session->window.denied > 0 && subject.data != NULL)
		np_denials_fail(session, subject);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

static void
on_server_error(void *owner, NpSpan text)
{
	NpSession  *session = owner;
	MemoryContext previous = enter_scratch();

	if (session->look == NP_LOOK_ASKED && np_denials_are_about(text, NP_QUESTION_SUBJECT))
		session->look = NP_LOOK_NONE;
	np_denials_server_error(owner, text);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

const NpConnectionEvents np_reply_events = {
	.reply = on_reply,
	.server_error = on_server_error
};
