/*-------------------------------------------------------------------------
 *
 * request.c
 *	  What a call asks the server: the JetStream API, and whether it answers.
 *
 * A request goes through the window as a message does, and is sent again like
 * one; but it is no message, and is not counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "base/subject.h"
#include "publish/await.h"
#include "publish/current_session.h"
#include "publish/jetstream.h"
#include "publish/publisher.h"
#include "publish/request.h"
#include "publish/session.h"
#include "stats/stats.h"

/*
 * One request to the JetStream API, for which the limit counts, or without one
 * ack_timeout; with one it is not asked again on another connection.  True:
 * *reply lives until the next call.  False: *failure says what kept it from
 * being sent or answered.
 */
bool
np_try_request(NpSession *session, const char *subject, NpSpan payload, NpTime limit, NpSpan *reply, NpFailure *failure)
{
	NpPublication publication = {
		.subject = {subject, strlen(subject)},
		.payload = payload
	};
	NpWatch    *watch;
	size_t		control_line;
	size_t		length;

	/* names that somebody in the network has told can be a part of it */
	if (np_subject_check(publication.subject, &length) != NP_TEXT_OK)
	{
		*failure = np_failure(NP_FAULT_INPUT, "a name that the NATS server has told cannot be a part of a subject");
		return false;
	}
	if (!np_session_ready(session, true, failure))
		return false;
	if (!np_publisher_reach_token(session, failure))
		return false;
	publication.reply_prefix = np_connection_inbox(session->connection);
	publication.token = np_delivery_next_token();
	length = np_publication_size(&publication, &control_line);
	np_publisher_check_size(session, &publication, control_line);
	watch = np_delivery_watch(publication.token);
	(void) np_delivery_add(session, &publication, length, NP_REQUEST);
	np_await_watched(session, watch, limit);
	*reply = watch->reply;
	*failure = watch->result.failure;
	return watch->result.acked;
}

/* The same; raises the failure. */
NpSpan
np_request(const char *subject, NpSpan payload)
{
	NpSession  *session = np_current_session();
	NpSpan		reply;
	NpFailure	failure;

	np_stats_mode = NP_STATS_SYNC;
	np_delivery_report_failures(WARNING);
	if (!np_try_request(session, subject, payload, NP_FOREVER, &reply, &failure))
	{
		if (failure.fault == NP_FAULT_NO_JETSTREAM && np_session_is_open(session))
		{
			np_jetstream_look(session);
			failure = np_delivery_unanswered(session);
		}
		failure.text = psprintf("JetStream request \"%s\" failed: %s",
								np_string_from_utf8(subject), failure.text);
		np_raise(&failure);
	}
	return reply;
}

/*
 * The time of one round trip to the server and back, of a connected session; a
 * server that does not answer in half of the time is left for the next one.
 */
NpTime
np_round_trip(NpSession *session)
{
	NpTime		start = np_now();
	NpTime		deadline = start + NP_MILLISECONDS(np_ack_timeout);
	NpFailure	failure;

	if (np_connection_ping(session->connection, NP_WAIT_ACK, start + NP_MILLISECONDS(np_ack_timeout) / 2))
		return np_now() - start;
	if (np_session_wait(session, NP_WAIT_CONNECT, np_session_is_connected, NULL, np_ack_timeout, deadline))
	{
		start = np_now();
		if (np_connection_ping(session->connection, NP_WAIT_ACK, deadline))
			return np_now() - start;
	}
	failure = np_failure(NP_FAULT_UNREACHABLE, "the NATS server does not answer");
	np_raise(&failure);
}
