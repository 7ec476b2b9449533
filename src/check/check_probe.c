/*-------------------------------------------------------------------------
 *
 * check_probe.c
 *	  Who answers on a subject?  The doctor's only check that publishes.
 *
 * An empty message goes out that expects to be stored by a stream whose name
 * no stream can have.  So each stream that takes the subject, in whatever
 * domain, refuses it by its name and stores nothing; and whoever else answers
 * there, is no stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "mb/pg_wchar.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "check/check.h"
#include "message/puback.h"
#include "publish/session.h"

/* A dot is in no stream's name. */
#define HEADERS			"NATS/1.0\r\nNats-Expected-Stream: nats_check.probe\r\n\r\n"

#define MAX_ANSWERS		8
#define NAME_LENGTH		256

/* What a probe was answered; more streams than there is room for are only counted. */
typedef struct Probe
{
	char		streams[MAX_ANSWERS][NAME_LENGTH];
	int			stream_count;
	int			stranger_count; /* answers that are not JetStream's */
	bool		nobody;			/* there is not even anybody who listens */
	char		refusal[NAME_LENGTH];	/* that is not about the name; empty: none */
	const NpWatch *watch;		/* for what ends the probe: the server's own error, a lost connection */
} Probe;

static void
record_stream(Probe *probe, NpSpan name)
{
	if (probe->stream_count < MAX_ANSWERS)
		snprintf(probe->streams[probe->stream_count], NAME_LENGTH, "%.*s", (int) Min(name.length, NAME_LENGTH - 1), name.data);
	probe->stream_count++;
}

static void
on_answer(void *owner, const NpOperation *operation)
{
	Probe	   *probe = owner;
	NpReply		reply;

	np_reply_parse(operation, &reply);
	if (reply.kind == NP_REPLY_NO_RESPONDERS)
		probe->nobody = true;
	else if (reply.stream.data != NULL && reply.error_code == NP_ERROR_OTHER_STREAM)
		record_stream(probe, reply.stream);
	else if (reply.stream.data != NULL && reply.error_code != 0)
	{
		record_stream(probe, reply.stream);
		strlcpy(probe->refusal, reply.failure.text, pg_mbcliplen(reply.failure.text, strlen(reply.failure.text), NAME_LENGTH - 1) + 1);
	}
	else
		probe->stranger_count++;
}

static bool
is_answered(NpSession *session, void *argument)
{
	const Probe *probe = argument;

	return probe->nobody || probe->stream_count + probe->stranger_count > 0 || probe->watch->done;
}

static bool
has_ended(NpSession *session, void *argument)
{
	const Probe *probe = argument;

	return probe->nobody || probe->watch->done;
}

static void
send_probe(Probe *probe, NpSession *session, NpSpan subject)
{
	NpPublication publication = {
		.subject = subject,
		.headers = {HEADERS, strlen(HEADERS)},
		.payload = {"", 0},
		.reply_prefix = np_connection_inbox(session->connection),
		.token = np_delivery_next_token()
	};
	size_t		control_line;
	size_t		length = np_publication_size(&publication, &control_line);

	probe->watch = np_delivery_watch(publication.token);
	(void) np_delivery_add(session, &publication, length, NP_PROBE);
	session->probe = (NpProbeListener) {on_answer, probe};
}

static void
end_probe(const Probe *probe, NpSession *session)
{
	NpPending  *pending = np_window_find(&session->window, probe->watch->token);

	if (pending != NULL)
		np_delivery_drop(session, pending);
	session->probe = (NpProbeListener) {0};
}

/* Ask, and listen until all have had their time. */
static void
run_probe(Probe *probe, NpSession *session, NpSpan subject)
{
	send_probe(probe, session, subject);
	PG_TRY();
	{
		if (np_session_wait(session, NP_WAIT_ACK, is_answered, probe, np_ack_timeout, NP_FOREVER))
			(void) np_session_wait(session, NP_WAIT_ACK, has_ended, probe, INT_MAX, np_now() + NP_OTHERS_TIME);
	}
	PG_FINALLY();
	{
		end_probe(probe, session);
	}
	PG_END_TRY();
}

/* ---- What it means ------------------------------------------------------------------- */

static void
find_no_answer(const Probe *probe, const NpExamination *examination, NpFinding *finding)
{
	if (probe->watch->done)
		np_find(finding, probe->watch->result.failure.fault == NP_FAULT_NOT_PERMITTED ? NP_CHECK_FAILED : NP_CHECK_UNKNOWN,
				"The probe failed: %s.", probe->watch->result.failure.text);
	else if (probe->nobody && examination->stream == NULL)
		np_find(finding, NP_CHECK_FAILED, "Nobody answers the probe. Create a stream with nats_create_stream().");
	else
		np_find(finding, NP_CHECK_FAILED, "No stream answers the probe within %d ms, so no message would be acknowledged. See that the stream has a leader, and no_ack is not set.", np_ack_timeout);
}

static void
find_answers(const Probe *probe, NpFinding *finding)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < Min(probe->stream_count, MAX_ANSWERS); i++)
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "",
						 np_string_from_utf8(probe->streams[i]));
	if (probe->stream_count == 1)
		np_find(finding, NP_CHECK_OK, "%s answers the probe.", names.data);
	if (probe->stream_count > 1)
		np_find(finding, NP_CHECK_WARNING, "%d streams answer the probe: %s. Two streams or two domains take the subject, and the first to answer acknowledges: let only one take it, or publish with expect_stream.",
				probe->stream_count, names.data);
	if (probe->refusal[0] != '\0')
		np_find(finding, NP_CHECK_FAILED, "It refuses the probe: %s. Mend that, or publish to another stream.", probe->refusal);
	if (probe->stranger_count > 0)
		np_find(finding, NP_CHECK_WARNING, "Somebody else than JetStream answers on the subject, and may be taken for its acknowledgment. Let it answer elsewhere.");
}

/* Adds to the check of the stream. */
void
np_check_probe(NpExamination *examination, NpFinding *finding)
{
	NpFailure	failure;

	if (examination->bad_subject != NULL)
		return;
	if (np_publishing != NP_PUBLISHING_ON)
		np_find(finding, NP_CHECK_UNKNOWN, "There is no probe, as nats_publish.publishing is not on.");
	else if (!np_session_ready(examination->session, true, &failure))
		np_find(finding, NP_CHECK_UNKNOWN, "The probe could not be sent: %s.", failure.text);
	else
	{
		Probe	   *probe = palloc0(sizeof(Probe));

		run_probe(probe, examination->session, examination->subject);
		if (probe->stream_count == 0 && probe->stranger_count == 0)
			find_no_answer(probe, examination, finding);
		else
			find_answers(probe, finding);
	}
}
