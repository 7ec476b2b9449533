/*-------------------------------------------------------------------------
 *
 * check_probe.c
 *	  Who takes a message to a subject?
 *
 * Servers since 2.11 tell it of a message that only leaves a trace: nobody
 * gets it, and each server that it would have gone through says where to.  A
 * trace ends at another account that does not allow it, and at an older
 * server.
 *
 * There, and only when the user has asked for it, an empty message goes out
 * that expects to be stored by a stream whose name no stream can have.  So each
 * stream that takes the subject, in whatever domain, refuses it by its name and
 * stores nothing; and whoever else answers there, is no stream.  A trace has
 * that header too, should it ever come to a server that ignores the others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "mb/pg_wchar.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "check/check.h"
#include "message/puback.h"
#include "publish/session.h"
#include "wire/server_info.h"

/* A dot is in no stream's name. */
#define EXPECTATION		"Nats-Expected-Stream: nats_check.probe\r\n"

/* Of connections, in a trace. */
#define KIND_CLIENT		0
#define KIND_LEAF		4

/* A question that is out. */
typedef struct Probe
{
	NpAnswers  *answers;
	bool		is_trace;
	const NpWatch *watch;		/* for what ends it: the server's own error, a lost connection */

	/* of a trace */
	char		account[256];	/* of the NATS user; empty: the server that we are connected to has told
								 * nothing yet */
	char		accounts[NP_MAX_ANSWERS][256];	/* of the streams */
	bool		is_behind_leaf[NP_MAX_ANSWERS]; /* a stream */
	int			servers;		/* that have told */
	int			hops;			/* to others, that will */
	bool		is_imported;	/* by another account, that may not allow it */
	bool		is_cut;			/* at a server that knows none */
} Probe;

/* ---- Answers to a message ------------------------------------------------------------- */

static void
add_answer(NpAnswers *answers, NpSpan stream)
{
	int			number = answers->count++;

	if (number < NP_MAX_ANSWERS)
		np_utf8_copy(answers->list[number].stream, sizeof(answers->list[number].stream), stream);
}

static void
record_refusal(NpAnswers *answers, const char *text)
{
	np_text_cut(answers->refusal, sizeof(answers->refusal), text);
}

static void
take_reply(Probe *probe, const NpReply *reply)
{
	NpAnswers  *answers = probe->answers;

	if (reply->kind == NP_REPLY_NO_RESPONDERS)
		answers->nobody = true;
	else if (reply->stream.data != NULL && reply->error_code != 0)
	{
		add_answer(answers, reply->stream);
		if (reply->error_code != NP_ERROR_OTHER_STREAM)
			record_refusal(answers, reply->failure.text);
	}
	else
		answers->strangers++;
}

/* ---- A trace ------------------------------------------------------------------------------ */

/* What one server tells; the texts are in the database's encoding, or NULL. */
typedef struct Step
{
	const char *account;		/* where the message is by now */
	bool		is_behind_leaf;
} Step;

static void
copy_text(char *buffer, size_t size, const char *text)
{
	const char *utf8 = text != NULL ? np_to_utf8_somehow(text) : "";

	np_utf8_copy(buffer, size, (NpSpan) {utf8, strlen(utf8)});
}

static void
take_stream(Probe *probe, const Step *step, Jsonb *event)
{
	char	   *name = np_json_text(event, "stream");
	char	   *error = np_json_text(event, "error");
	int			number = probe->answers->count;

	if (name == NULL)
		return;
	name = np_to_utf8_somehow(name);
	add_answer(probe->answers, (NpSpan) {name, strlen(name)});
	if (number < NP_MAX_ANSWERS)
	{
		copy_text(probe->accounts[number], sizeof(probe->accounts[number]), step->account);
		probe->is_behind_leaf[number] = step->is_behind_leaf;
	}
	/* the expectation of ours is checked too */
	if (error != NULL && strstr(error, "expected stream does not match") == NULL)
		record_refusal(probe->answers, error);
}

static void
take_egress(Probe *probe, Jsonb *event)
{
	if (np_json_text(event, "error") != NULL)
		probe->is_cut = true;
	else if (np_json_text(event, "hop") != NULL)
		probe->hops++;
	else if (np_json_int64(event, "kind", KIND_CLIENT) == KIND_CLIENT)
		probe->answers->subscribers++;
}

static void
take_event(Probe *probe, Step *step, Jsonb *event)
{
	const char *type = np_json_text(event, "type");

	if (type == NULL)
		return;
	if (strcmp(type, "in") == 0)
	{
		step->account = np_json_text(event, "acc");
		step->is_behind_leaf = np_json_int64(event, "kind", KIND_CLIENT) == KIND_LEAF;
	}
	else if (strcmp(type, "si") == 0)
	{
		step->account = np_json_text(event, "acc");
		probe->is_imported = true;
	}
	else if (strcmp(type, "js") == 0)
		take_stream(probe, step, event);
	else if (strcmp(type, "eg") == 0)
		take_egress(probe, event);
}

/* Did it begin at this server? */
static bool
is_first(Jsonb *trace)
{
	Jsonb	   *request = np_json_child(trace, "request");
	Jsonb	   *header = request != NULL ? np_json_child(request, "header") : NULL;

	return header == NULL || np_json_child(header, "Nats-Trace-Hop") == NULL;
}

/* What one server tells, in the order of what happened. */
static void
take_trace(Probe *probe, Jsonb *trace)
{
	Jsonb	   *events = np_json_child(trace, "events");
	Step		step = {0};

	if (events == NULL)
		return;
	probe->servers++;
	for (int i = 0; i < np_json_count(events); i++)
	{
		Jsonb	   *event = np_json_element(events, i);

		if (event == NULL)
			continue;
		take_event(probe, &step, event);
		if (i == 0 && is_first(trace))
			copy_text(probe->account, sizeof(probe->account), step.account != NULL ? step.account : "?");
	}
}

/* ---- Asking --------------------------------------------------------------------------------- */

static void
on_answer(void *owner, const NpOperation *operation)
{
	Probe	   *probe = owner;
	NpReply		reply;

	if (probe->is_trace)
	{
		Jsonb	   *trace = np_json_parse(operation->payload);

		if (trace != NULL && JB_ROOT_IS_OBJECT(trace))
			take_trace(probe, trace);
		return;
	}
	np_reply_parse(operation, &reply);
	take_reply(probe, &reply);
}

static bool
is_complete(NpSession *session, void *argument)
{
	const Probe *probe = argument;

	return probe->watch->done || (probe->account[0] != '\0' && probe->servers == probe->hops + 1);
}

static bool
is_answered(NpSession *session, void *argument)
{
	const Probe *probe = argument;

	return probe->watch->done || probe->answers->nobody || probe->answers->count + probe->answers->strangers > 0;
}

static bool
has_ended(NpSession *session, void *argument)
{
	const Probe *probe = argument;

	return probe->watch->done || probe->answers->nobody;
}

static NpSpan
make_headers(const Probe *probe, uint64 token, NpSpan inbox)
{
	StringInfoData headers;
	char		text[NP_TOKEN_LENGTH];
	int			length = (int) np_token_encode(token, text);

	initStringInfo(&headers);
	appendStringInfoString(&headers, "NATS/1.0\r\n" EXPECTATION);
	if (probe->is_trace)
		appendStringInfo(&headers, "Nats-Trace-Only: true\r\nNats-Trace-Dest: %.*s%.*s\r\n",
						 (int) inbox.length, inbox.data, length, text);
	appendStringInfoString(&headers, "\r\n");
	return (NpSpan) {headers.data, headers.len};
}

static void
send_probe(Probe *probe, NpSession *session, NpSpan subject)
{
	NpSpan		inbox = np_connection_inbox(session->connection);
	NpPublication publication = {
		.subject = subject,
		.payload = {"", 0},
		.reply_prefix = inbox,
		.token = np_delivery_next_token()
	};
	size_t		control_line;
	size_t		length;

	publication.headers = make_headers(probe, publication.token, inbox);
	length = np_publication_size(&publication, &control_line);
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

/* Until all servers have told, or until all who answer have had their time. */
static void
listen(Probe *probe, NpSession *session)
{
	if (probe->is_trace)
		(void) np_session_wait(session, NP_WAIT_ACK, is_complete, probe, np_ack_timeout, NP_FOREVER);
	else if (np_session_wait(session, NP_WAIT_ACK, is_answered, probe, np_ack_timeout, NP_FOREVER))
		(void) np_session_wait(session, NP_WAIT_ACK, has_ended, probe, INT_MAX, np_now() + NP_OTHERS_TIME);
	if (probe->watch->done)
		probe->answers->failure = np_failure_copy(&probe->watch->result.failure, CurrentMemoryContext);
}

static void
run_probe(Probe *probe, NpSession *session, NpSpan subject)
{
	probe->answers = palloc0(sizeof(NpAnswers));
	send_probe(probe, session, subject);
	PG_TRY();
	{
		listen(probe, session);
	}
	PG_FINALLY();
	{
		end_probe(probe, session);
	}
	PG_END_TRY();
}

static void
ask_by_message(NpExamination *examination)
{
	Probe		probe = {.is_trace = false};

	run_probe(&probe, examination->session, examination->subject);
	probe.answers->subscribers = -1;
	for (int i = 0; i < Min(probe.answers->count, NP_MAX_ANSWERS); i++)
		probe.answers->list[i].place = "reached by a mapping or an import, or in another domain";
	examination->answers = probe.answers;
}

/* A trace tells where the streams are. */
static void
find_places(Probe *probe)
{
	for (int i = 0; i < Min(probe->answers->count, NP_MAX_ANSWERS); i++)
	{
		if (strcmp(probe->accounts[i], probe->account) != 0)
			probe->answers->list[i].place = psprintf("in the account \"%s\"", np_string_from_utf8(probe->accounts[i]));
		else if (probe->is_behind_leaf[i])
			probe->answers->list[i].place = "on a server behind a leaf node";
	}
}

/* False: it does not tell all that one can know. */
static bool
ask_by_trace(NpExamination *examination)
{
	Probe		probe = {.is_trace = true};
	bool		is_whole;

	run_probe(&probe, examination->session, examination->subject);
	/* a NATS user may not ask for one who may not publish to its inbox */
	if (probe.answers->failure.fault != NP_FAULT_NONE)
		return false;
	is_whole = is_complete(NULL, &probe) && !probe.is_cut && !(probe.is_imported && probe.answers->count == 0);
	find_places(&probe);
	probe.answers->nobody = is_whole && probe.answers->count == 0;
	if (is_whole || probe.answers->count > 0)
		examination->answers = probe.answers;
	return is_whole;
}

static void
examine_version(NpExamination *examination, void *knows_traces)
{
	*(bool *) knows_traces = np_server_is_at_least(examination->session->connection, 2, 11);
}

/*
 * Find out who takes the subject, once: as far as it can be without anybody else
 * seeing it, or as far as it can be at all if the user has asked for a probe.
 */
void
np_examine_answers(NpExamination *examination)
{
	bool		knows_traces = false;
	NpFailure	failure;

	if (examination->asked_answers || examination->bad_subject != NULL)
		return;
	examination->asked_answers = true;
	if (np_publishing != NP_PUBLISHING_ON)
		examination->no_answers = "No probe was sent: nats_publish.publishing is not on.";
	else if (!np_session_ready(examination->session, true, &failure))
		examination->no_answers = psprintf("The probe could not be sent: %s.", failure.text);
	else
	{
		(void) np_check_attempt(examine_version, examination, &knows_traces, &failure);
		if ((!knows_traces || !ask_by_trace(examination)) && examination->probe)
			ask_by_message(examination);
	}
}

/* ---- What it means ------------------------------------------------------------------------------ */

static void
find_no_answer(const NpExamination *examination, NpFinding *finding)
{
	const NpAnswers *answers = examination->answers;

	if (answers->failure.fault != NP_FAULT_NONE)
		np_find(finding, answers->failure.fault == NP_FAULT_NOT_PERMITTED ? NP_CHECK_FAILED : NP_CHECK_UNKNOWN,
				"The probe failed: %s.", answers->failure.text);
	else if (answers->nobody && examination->stream == NULL)
		np_find(finding, NP_CHECK_FAILED, "%s takes the probe. %s", answers->subscribers > 0 ? "No stream" : "Nobody",
				np_advice_without_stream(examination));
	else
		np_find(finding, NP_CHECK_FAILED, "No stream answers the probe within %d ms, so no message would be acknowledged. Check that the stream has a leader, no_ack is not set, and no mapping leads messages elsewhere.", np_ack_timeout);
}

/* "A", "B" */
static const char *
names_of(const NpAnswers *answers)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < Min(answers->count, NP_MAX_ANSWERS); i++)
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "", np_string_from_utf8(answers->list[i].stream));
	return names.data;
}

static void
find_answers(const NpAnswers *answers, NpFinding *finding)
{
	if (answers->count == 1)
		np_find(finding, NP_CHECK_OK, "%s takes the probe.", names_of(answers));
	if (answers->count > 1)
		np_find(finding, NP_CHECK_WARNING, "%d streams take the probe: %s. Two streams or two domains take the subject, and the first to answer acknowledges: let only one take it, or publish with expect_stream.",
				answers->count, names_of(answers));
	if (answers->refusal[0] != '\0')
		np_find(finding, NP_CHECK_FAILED, "It refuses the probe: %s. Fix that, or publish to another stream.", answers->refusal);
	if (answers->strangers > 0)
		np_find(finding, NP_CHECK_WARNING, "Something other than JetStream answers on the subject, and its answer may be taken for an acknowledgment. Make it answer elsewhere.");
	if (answers->subscribers > 0)
		np_find(finding, NP_CHECK_OK, "It would also go to %s, whose answers might be taken for an acknowledgment.",
				np_count_of(answers->subscribers, "subscriber"));
}

/* Adds to the check of the stream what the probe has found. */
void
np_check_answers(const NpExamination *examination, NpFinding *finding)
{
	if (examination->no_answers != NULL)
		np_find(finding, NP_CHECK_UNKNOWN, "%s", examination->no_answers);
	if (examination->answers == NULL)
		return;
	if (examination->answers->count == 0 && examination->answers->strangers == 0)
		find_no_answer(examination, finding);
	else
		find_answers(examination->answers, finding);
}
