/*-------------------------------------------------------------------------
 *
 * streams.c
 *	  What the relay knows of the streams that take its messages.
 *
 * A stream is known by its acknowledgments.  Then it is asked once which
 * subjects it takes, so that it is known beforehand of each row where it goes,
 * and whether its messages may be chained (chains.c):
 *
 *	  unused ──► heard ──► pipelined ──► by subject ──► heard
 *					 └───► barred ──► heard
 *
 * A replicated stream is barred.  Its leader can't see the id before while that
 * message is still being agreed on; and from 2.14 on a replica that does not
 * find the id, when it applies a message, freezes the stream for good
 * (nats-server 2.14 and 2.15).  As any stream of a cluster can become a
 * replicated one at any time, those of a server that names a cluster are barred,
 * too.
 *
 * Chained messages keep the headers that chain them.  Before 2.11.5 a stream that
 * mirrors this one, and before 2.10.14 one that has it as a source, applies them
 * to itself, and stops for good.  So with such a server it is relay_ordering =
 * pipelined that says that there is none.
 *
 * A user who may not ask, or whom nobody answers, has his messages sent by
 * subject.  All is asked again after a time, for a stream can be changed.
 *
 * When it is another relay of this server that writes to a stream, it goes by
 * subject for as long as that one does, and no longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subject.h"
#include "outbox/relay_streams.h"
#include "publish/request.h"
#include "publish/session.h"
#include "relay/streams.h"

/* Of a question: what waits for acknowledgments waits for it, too. */
#define QUESTION_TIME		NP_MILLISECONDS(1000)

/* When a stream is asked about again. */
#define ASK_AGAIN			NP_MILLISECONDS(60000)
#define ASK_BARRED_AGAIN	NP_MILLISECONDS(600000)
#define ASK_LOST_AGAIN		NP_MILLISECONDS(100)

/* How long a stream goes by subject: the first time, and at most. */
#define FIRST_REST			NP_MILLISECONDS(10000)
#define LAST_REST			NP_MILLISECONDS(300000)

/* How often other relays are told what this one writes to, and are looked for. */
#define TELL_INTERVAL		NP_MILLISECONDS(200)
#define LOOK_FOR_RELAYS		NP_MILLISECONDS(500)

/* Who has told for so long before may be who writes between our messages, and who has not, has nothing more to write. */
#define TOLD_LATELY			NP_MILLISECONDS(10000)
#define TOLD_JUST_NOW		NP_MILLISECONDS(1000)

/* Each row is compared with all of them. */
#define MAX_SUBJECTS		100

NpStream	np_streams[NP_MAX_STREAMS];
int			np_streams_used;	/* none from here on has ever been */

/* No row waits in its chain, or went from there, or was passed by. */
static bool
is_idle(NpStream *stream)
{
	return stream->chain.laneless == 0 && stream->chain.passed == 0 && dlist_is_empty(&stream->chain.waiting) && dlist_is_empty(&stream->chain.returned);
}

/* What was known of it counts as long as rows wait in its chain, before which others must not go. */
static bool
counts(NpStream *stream)
{
	return stream->mode == NP_STREAM_PIPELINED || stream->mode == NP_STREAM_BY_SUBJECT || !is_idle(stream);
}

/* The known stream that takes a subject, or NULL. */
NpStream *
np_stream_of(NpSpan subject)
{
	for (int i = 0; i < np_streams_used; i++)
		for (int j = 0; j < np_streams[i].subject_count; j++)
			if (np_pattern_matches(np_streams[i].subjects[j], subject) && counts(&np_streams[i]))
				return &np_streams[i];
	return NULL;
}

/* How the order is kept; *shared becomes the name of a stream that others write to, or "". */
NpRelayOrder
np_streams_order(const char **shared)
{
	int			pipelined = 0;
	int			others = 0;

	*shared = "";
	for (int i = 0; i < np_streams_used; i++)
	{
		pipelined += np_streams[i].mode == NP_STREAM_PIPELINED;
		others += np_streams[i].mode == NP_STREAM_BARRED || np_streams[i].mode == NP_STREAM_BY_SUBJECT;
		if (np_streams[i].mode == NP_STREAM_BY_SUBJECT && np_streams[i].has_others)
			*shared = np_streams[i].name;
	}
	return pipelined == 0 ? NP_ORDER_BY_SUBJECT : others == 0 ? NP_ORDER_PIPELINED : NP_ORDER_MIXED;
}

/* ---- Becoming known -------------------------------------------------------------------- */

static bool
is_named(const NpStream *stream, const NpPubAck *ack)
{
	return np_span_equals((NpSpan) {stream->name, strlen(stream->name)}, ack->stream) &&
		np_span_equals((NpSpan) {stream->domain, strlen(stream->domain)}, ack->domain);
}

/* No row points to it any more. */
static bool
is_free(NpStream *stream)
{
	return stream->mode == NP_STREAM_UNUSED && stream->chain.on_way == 0 && is_idle(stream);
}

static NpStream *
free_place(void)
{
	for (int i = 0; i < np_streams_used; i++)
		if (is_free(&np_streams[i]))
			return &np_streams[i];
	return np_streams_used < NP_MAX_STREAMS ? &np_streams[np_streams_used++] : NULL;
}

static void
begin_stream(NpStream *stream, const NpPubAck *ack)
{
	MemoryContext context = stream->context;

	memset(stream, 0, sizeof(*stream));
	stream->context = context;
	memcpy(stream->name, ack->stream.data, ack->stream.length);
	if (ack->domain.length > 0)
		memcpy(stream->domain, ack->domain.data, ack->domain.length);
	stream->mode = NP_STREAM_HEARD;
	dlist_init(&stream->chain.waiting);
	dlist_init(&stream->chain.returned);
	np_stream_reset_delay(stream);
}

/* A message is about to go to it, or was stored there: other relays of this server are to know. */
void
np_stream_tell(NpStream *stream)
{
	NpTime		now = np_now();

	if (now < stream->next_telling)
		return;
	np_relay_streams_tell(stream->name, stream->domain);
	stream->next_telling = now + TELL_INTERVAL;
}

/* A stream that was heard of before has acknowledged a message. */
static void
hear_again(NpStream *stream)
{
	/* it takes subjects that it did not take when it was asked */
	if (stream->mode == NP_STREAM_PIPELINED)
		stream->next_question = Min(stream->next_question, np_now() + NP_MILLISECONDS(1000));
	np_stream_tell(stream);
}

/* A stream has acknowledged a message, of which it was known that it takes it (expected) or not. */
void
np_streams_heard(const NpPubAck *ack, NpStream *expected)
{
	NpStream   *stream;

	if (expected != NULL && is_named(expected, ack))
		return;
	if (expected != NULL)
		np_stream_doubt(expected);
	if (ack->stream.length > NP_MAX_CHAIN_TEXT || ack->domain.length > NP_MAX_CHAIN_TEXT ||
		!np_is_stream_name(ack->stream) || (ack->domain.length > 0 && !np_is_stream_name(ack->domain)))
		return;
	for (int i = 0; i < np_streams_used; i++)
		if (np_streams[i].mode != NP_STREAM_UNUSED && is_named(&np_streams[i], ack))
		{
			hear_again(&np_streams[i]);
			return;
		}
	stream = free_place();
	if (stream == NULL)
		return;
	begin_stream(stream, ack);
	np_stream_tell(stream);
}

/* Is any to be asked about before it is known where its messages go? */
bool
np_streams_any_heard(void)
{
	for (int i = 0; i < np_streams_used; i++)
		if (np_streams[i].mode == NP_STREAM_HEARD)
			return true;
	return false;
}

/* ---- Asking ------------------------------------------------------------------------------ */

static NpSpan
subject_at(Jsonb *subjects, int index)
{
	char	   *text = np_json_element_text(subjects, index);

	return text == NULL ? (NpSpan) {"", 0} : np_to_utf8(text, strlen(text));
}

static bool
has_subjects(const NpStream *stream, Jsonb *subjects, int count)
{
	if (stream->subject_count != count)
		return false;
	for (int i = 0; i < count; i++)
		if (!np_span_equals(stream->subjects[i], subject_at(subjects, i)))
			return false;
	return true;
}

static void
keep_subjects(NpStream *stream, Jsonb *subjects, int count)
{
	if (stream->context == NULL)
		stream->context = AllocSetContextCreate(TopMemoryContext, "nats_publish stream", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(stream->context);
	stream->subject_count = 0;
	stream->subjects = MemoryContextAlloc(stream->context, sizeof(NpSpan) * count);
	for (int i = 0; i < count; i++)
	{
		NpSpan		subject = subject_at(subjects, i);

		subject.data = MemoryContextStrdup(stream->context, pnstrdup(subject.data, subject.length));
		stream->subjects[stream->subject_count++] = subject;
	}
}

/* Does its server leave headers that expect something out of copies?  From 2.11 on it tells its version. */
static bool
copies_are_safe(Jsonb *config)
{
	Jsonb	   *metadata = np_json_child(config, "metadata");
	char	   *version = metadata == NULL ? NULL : np_json_text(metadata, "_nats.ver");
	int			major;
	int			minor;
	int			patch;

	return version != NULL && sscanf(version, "%d.%d.%d", &major, &minor, &patch) == 3 &&
		(major > 2 || minor > 11 || (minor == 11 && patch >= 5));
}

/* By what STREAM.INFO says of a stream. */
static bool
may_be_pipelined(Jsonb *info, Jsonb *config)
{
	Jsonb	   *cluster = np_json_child(info, "cluster");
	char	   *name = cluster == NULL ? NULL : np_json_text(cluster, "name");

	return (np_relay_ordering == NP_RELAY_PIPELINED || copies_are_safe(config)) && (name == NULL || name[0] == '\0') && np_json_int64(config, "num_replicas", 0) == 1 &&
		np_json_count(np_json_child(config, "subjects")) <= MAX_SUBJECTS;
}

static void
bar(NpStream *stream, Jsonb *info)
{
	ereport(DEBUG1, (errmsg("nats_publish relay: stream \"%s\" %s", np_string_from_utf8(stream->name),
							info == NULL ? "does not answer" : "is not pipelined")));
	/* one that is not there is forgotten; who did not answer may do so later */
	stream->mode = info != NULL && np_json_child(info, "error") != NULL ? NP_STREAM_UNUSED : NP_STREAM_BARRED;
	stream->next_question = np_now() + (info == NULL ? stream->delay : ASK_BARRED_AGAIN);
	if (info == NULL)
		stream->delay = Min(stream->delay * 2, LAST_REST);
}

/* By an answer; NULL: there was none in time. */
static void
judge(NpStream *stream, Jsonb *info)
{
	Jsonb	   *config = info == NULL ? NULL : np_json_child(info, "config");
	Jsonb	   *subjects = config == NULL ? NULL : np_json_child(config, "subjects");

	if (config == NULL || !may_be_pipelined(info, config))
	{
		bar(stream, info);
		return;
	}
	if (!has_subjects(stream, subjects, np_json_count(subjects)) && !is_idle(stream))
	{
		/* what waits goes by subject before others of its subject go by another stream */
		np_stream_doubt(stream);
		return;
	}
	stream->mode = NP_STREAM_PIPELINED;
	stream->has_others = false;
	stream->next_question = np_now() + ASK_AGAIN;
	if (!has_subjects(stream, subjects, np_json_count(subjects)))
		keep_subjects(stream, subjects, np_json_count(subjects));
}

static Jsonb *
ask(NpSession *session, const NpStream *stream)
{
	const char *api = stream->domain[0] == '\0' ? "$JS.API" : psprintf("$JS.%s.API", stream->domain);
	NpSpan		reply;
	NpFailure	failure;

	if (!np_try_request(session, psprintf("%s.STREAM.INFO.%s", api, stream->name), (NpSpan) {NULL, 0},
						np_now() + QUESTION_TIME, &reply, &failure))
		return NULL;
	return np_json_parse(reply);
}

static bool
is_time_to_ask(NpStream *stream, NpTime now)
{
	if (stream->mode == NP_STREAM_UNUSED || now < stream->next_question ||
		(stream->mode != NP_STREAM_PIPELINED && !is_idle(stream)))
		return false;
	if (stream->mode != NP_STREAM_BY_SUBJECT || !stream->has_others || !np_relay_streams_others(stream->name, stream->domain, TOLD_JUST_NOW))
		return true;
	stream->next_question = now + LOOK_FOR_RELAYS;
	return false;
}

/*
 * Ask about one stream that it is time to ask about, on an open connection;
 * answers to messages are received meanwhile.  Returns the stream if it is
 * pipelined from now on, or NULL.  Works in the caller's memory context.
 */
NpStream *
np_streams_ask(NpSession *session)
{
	NpTime		now = np_streams_used > 0 ? np_now() : 0;

	for (int i = 0; i < np_streams_used; i++)
	{
		NpStream   *stream = &np_streams[i];
		bool		was_pipelined = stream->mode == NP_STREAM_PIPELINED;
		Jsonb	   *info;

		if (!is_time_to_ask(stream, now))
			continue;
		info = ask(session, stream);
		if (info == NULL && !np_session_is_open(session))
		{
			/* the question was lost with the connection, and says nothing about the stream */
			stream->next_question = np_now() + ASK_LOST_AGAIN;
			return NULL;
		}
		judge(stream, info);
		return stream->mode == NP_STREAM_PIPELINED && !was_pipelined ? stream : NULL;
	}
	return NULL;
}

/* ---- Ceasing to be pipelined --------------------------------------------------------------- */

void
np_stream_reset_delay(NpStream *stream)
{
	stream->delay = FIRST_REST;
}

/* Go by subject for a while: others write to it, or it did not answer. */
void
np_stream_rest(NpStream *stream, bool has_others)
{
	bool		is_relay = has_others && np_relay_streams_others(stream->name, stream->domain, TOLD_LATELY);

	if (stream->mode != NP_STREAM_PIPELINED)
		return;
	if (has_others && !is_relay && stream->delay == FIRST_REST)
		ereport(LOG,
				(errmsg("another publisher writes to stream \"%s\" of nats_publish's relay", np_string_from_utf8(stream->name)),
				 errdetail("The relay now sends one message of a subject at a time, and tries from time to time whether it is the only publisher again.")));
	ereport(DEBUG1, (errmsg("nats_publish relay: stream \"%s\" goes by subject", np_string_from_utf8(stream->name))));
	stream->mode = NP_STREAM_BY_SUBJECT;
	stream->has_others = has_others;
	stream->next_question = np_now() + (is_relay ? LOOK_FOR_RELAYS : stream->delay);
	if (!is_relay)
		stream->delay = Min(stream->delay * 2, LAST_REST);
}

/* It may not be there any more, or take other subjects: ask before anything is chained. */
void
np_stream_doubt(NpStream *stream)
{
	if (stream->mode == NP_STREAM_PIPELINED)
		stream->mode = NP_STREAM_BY_SUBJECT;
	stream->next_question = 0;
}

/* Ask again: it may be another server, or (all) a setting has changed. */
void
np_streams_doubt(bool all)
{
	for (int i = 0; i < np_streams_used; i++)
		if (np_streams[i].mode == NP_STREAM_PIPELINED || (all && np_streams[i].mode == NP_STREAM_BARRED))
			np_streams[i].next_question = 0;
}

/* It is another server from now on, and nothing is on its way. */
void
np_streams_forget(void)
{
	for (int i = 0; i < np_streams_used; i++)
		np_streams[i].mode = NP_STREAM_UNUSED;
}
