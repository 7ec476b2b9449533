/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Held messages that JetStream stores all together or not at all.
 *
 * ADR-50 §1: the members of an atomic batch carry its id and their number in
 * headers, and the last one says "commit".  Nothing is visible before that is
 * acknowledged.  All are sent in one go, each with a reply subject, so that
 * the member that is refused is the one whose error is reported; the others then
 * just find their batch incomplete (10176).
 *
 * When the connection is lost after the commit member has gone out, the batch
 * may be stored.  It is then sent again under another batch id with the same
 * Nats-Msg-Ids, and the answers mean:
 *
 *	an ack	the first attempt was not stored, this one is
 *	10201	some id is stored already.  If all ids are automatic only the first
 *			attempt can have stored them, and it stored all
 *	else	the server may check something before the ids
 *
 * Where the answer proves nothing, the stream is asked for the last message
 * of the last member's subject: if that is ours, the batch is stored.  If
 * that proves nothing either, the ERROR is 58030.  Never a guess.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subject.h"
#include "commit/batch.h"
#include "ledger/queue.h"
#include "message/header_json.h"
#include "message/message.h"
#include "message/message_id.h"
#include "publish/delivery.h"
#include "publish/jetstream.h"
#include "publish/publisher.h"
#include "publish/request.h"
#include "publish/session.h"
#include "stats/stats.h"
#include "wire/server_info.h"

#define MAX_MEMBERS			1000	/* nats-server's default max_batch_size */
#define MAX_ATTEMPT_IDS		8	/* that are remembered for the proof */

/* More than the headers of a batch add to a member. */
#define BATCH_HEADERS_LENGTH	128

/* What an unknown outcome asks of the user. */
#define HINT_LOOK			"Read the stream to see whether the batch is there; all of it is, or nothing."
#define HINT_LOOK_CLOSELY	"Read the stream to see what of the batch is there."

#define ERROR_INCOMPLETE	10176
#define ERROR_DUPLICATE_ID	10201

/* So long a batch of several subjects may be incomplete for another reason than two streams. */
#define INCOMPLETE_PATIENCE	NP_MILLISECONDS(2000)

/* The batch of one COMMIT. */
typedef struct Batch
{
	/* over all attempts */
	NpSession  *session;
	int			member_count;
	int64		payload_bytes;
	bool		all_ids_automatic;
	bool		some_have_ids;	/* so a second copy would be refused */
	char	   *last_subject;
	bool		has_one_subject;
	bool		in_doubt;		/* an earlier attempt may be stored */
	char		attempt_ids[MAX_ATTEMPT_IDS][NP_MESSAGE_ID_LENGTH + 1];
	int			attempt_count;

	/* the present attempt */
	uint64		commit_token;
	int			unanswered;
	bool		lost;			/* its connection is */
	bool		commit_was_sent;	/* before it was lost */
	bool		commit_was_answered;
	bool		stored;
	bool		refused;
	NpFailure	refusal;		/* the first one that is not just a consequence */
	int			refusal_code;
	bool		refusal_is_transient;
	char		refusing_stream[256];
} Batch;

/* ---- Checks before anything is sent ----------------------------------------- */

static int
compare_spans(const void *a, const void *b)
{
	const NpSpan *left = a;
	const NpSpan *right = b;
	int			result = memcmp(left->data, right->data, Min(left->length, right->length));

	if (result != 0)
		return result;
	return left->length < right->length ? -1 : left->length > right->length;
}

static NpSpan
copy_of(NpSpan span)
{
	return (NpSpan) {pnstrdup(span.data, span.length), span.length};
}

/* An id that a batch has twice would look like one that is stored already. */
static void
check_ids(NpSpan *ids, int count)
{
	qsort(ids, count, sizeof(NpSpan), compare_spans);
	for (int i = 1; i < count; i++)
		if (compare_spans(&ids[i - 1], &ids[i]) == 0)
			np_raise_input("msg_id \"%s\" is given twice in an atomic commit", np_from_utf8(ids[i]));
}

/* What the server would refuse with the error of a lost race (10164). */
static void
check_expectations(const NpMessage *message, int index, const NpSpan *subjects)
{
	NpSpan		subject;

	if (index > 0 && np_message_header(message->headers, "Nats-Expected-Last-Sequence").data != NULL)
		np_raise_input("expect_last_seq is only possible for the first message of an atomic commit");
	if (np_message_header(message->headers, "Nats-Expected-Last-Subject-Sequence").data == NULL)
		return;
	subject = np_message_header(message->headers, "Nats-Expected-Last-Subject-Sequence-Subject");
	if (subject.data == NULL)
		subject = message->subject;
	for (int i = 0; i < index; i++)
		if (compare_spans(&subjects[i], &subject) == 0)
			np_raise_input("expect_last_subject_seq is only possible for the first message to \"%s\" in an atomic commit",
						   np_from_utf8(subject));
}

static void
check_members(Batch *batch)
{
	NpSpan	   *subjects = palloc(batch->member_count * sizeof(NpSpan));
	NpSpan	   *ids = palloc(batch->member_count * sizeof(NpSpan));
	int			id_count = 0;
	int			index = 0;
	NpMessage	message;

	batch->all_ids_automatic = true;
	batch->payload_bytes = 0;
	np_queue_rewind();
	while (np_queue_next(&message))
	{
		check_expectations(&message, index, subjects);
		subjects[index++] = copy_of(message.subject);
		if (message.id.data != NULL)
			ids[id_count++] = copy_of(message.id);
		batch->all_ids_automatic &= message.has_automatic_id;
		batch->payload_bytes += message.payload.length;
	}
	batch->some_have_ids = id_count > 0;
	check_ids(ids, id_count);
	batch->last_subject = pnstrdup(subjects[index - 1].data, subjects[index - 1].length);
	batch->has_one_subject = true;
	for (int i = 1; i < index; i++)
		batch->has_one_subject &= compare_spans(&subjects[i - 1], &subjects[i]) == 0;
}

static void
check_batch(Batch *batch)
{
	NpQueueSummary held = np_queue_summary();

	if (held.count > MAX_MEMBERS)
		np_raise_fault(NP_FAULT_SIZE, "Set nats_publish.commit_batch to pipelined, or commit more often.",
					   psprintf("an atomic commit of " INT64_FORMAT " messages, the limit is %d",
								held.count, MAX_MEMBERS));
	batch->member_count = (int) held.count;
	check_members(batch);
}

/* The attempt has no outcome: 58030 if the batch may be stored, else 58000. */
static void
raise_without_outcome(const Batch *batch)
{
	char	   *loss = np_connection_loss(batch->session->connection);

	if (batch->lost && (batch->in_doubt || batch->commit_was_sent))
		np_raise_fault(NP_FAULT_UNKNOWN, HINT_LOOK,
					   "could not publish the transaction's messages as one batch: the connection was lost before its acknowledgment arrived");
	if (batch->in_doubt || batch->commit_was_sent)
		np_raise_fault(NP_FAULT_UNKNOWN, HINT_LOOK,
					   psprintf("could not publish the transaction's messages as one batch: no acknowledgment arrived within %d ms",
								np_commit_timeout));
	np_raise_fault(NP_FAULT_LOST, NULL,
				   psprintf("could not publish the transaction's messages as one batch: it could not be sent (%s)",
							loss[0] != '\0' ? loss : batch->lost ? "the connection was lost again and again" : "no answer in time"));
}

/* An earlier attempt may be stored, whatever has become of a later one. */
static void
raise_in_doubt(const char *then)
{
	np_raise_fault(NP_FAULT_UNKNOWN, HINT_LOOK,
				   psprintf("could not publish the transaction's messages as one batch: the connection was lost before its acknowledgment arrived, and then: %s",
							then));
}

/*
 * The connected server, which is another one after a failover: an older one
 * would store the members one by one, and say nothing.
 */
static void
check_server(const Batch *batch)
{
	NpConnection *connection = batch->session->connection;
	NpQueueSummary held = np_queue_summary();
	size_t		largest = held.largest + BATCH_HEADERS_LENGTH;
	bool		knows_batches;
	bool		fits;

	if (!np_session_is_open(batch->session) && !np_session_wait(batch->session, NP_WAIT_COMMIT, np_session_is_connected, NULL, np_commit_timeout, NP_FOREVER))
		raise_without_outcome(batch);
	np_session_know_version(batch->session);
	knows_batches = np_server_is_at_least(connection, 2, 12);
	fits = largest <= (size_t) np_connection_max_payload(connection);
	if (batch->in_doubt && !(knows_batches && fits && np_session_knows(batch->session, held.needs)))
		raise_in_doubt("the next server can't take it");
	np_server_require(connection, 2, 12, "an atomic commit", NULL);
	np_session_require(batch->session, held.needs);
	if (!fits)
		np_raise_fault(NP_FAULT_SIZE, NULL,
					   psprintf("message of an atomic commit is %zu bytes long with its headers, the server's max_payload is " INT64_FORMAT,
								largest, np_connection_max_payload(connection)));
}

/* The first member's token may be too far behind that of another message; the others are few. */
static void
check_range(const Batch *batch)
{
	NpFailure	failure;

	if (!np_publisher_reach_token(batch->session, &failure))
		np_raise_fault(failure.fault, NULL,
					   psprintf("could not publish the transaction's messages as one batch: %s", failure.text));
}

/* ---- One attempt --------------------------------------------------------------- */

static void
record_refusal(Batch *batch, const NpReply *reply)
{
	bool		consequence = reply->error_code == ERROR_INCOMPLETE;

	if (batch->refused && (consequence || batch->refusal_code != ERROR_INCOMPLETE))
		return;
	batch->refused = true;
	batch->refusal = np_failure_copy(&reply->failure, TopTransactionContext);
	batch->refusal_code = reply->error_code;
	batch->refusal_is_transient = reply->kind == NP_REPLY_RETRY;
	snprintf(batch->refusing_stream, sizeof(batch->refusing_stream), "%.*s",
			 (int) Min(reply->stream.length, sizeof(batch->refusing_stream) - 1),
			 reply->stream.data != NULL ? reply->stream.data : "");
}

/* Is it the ack of this batch, with all its members? */
static bool
acknowledges_batch(const Batch *batch, const NpReply *reply)
{
	const char *id = batch->attempt_ids[(batch->attempt_count - 1) % MAX_ATTEMPT_IDS];

	return reply->batch.length == NP_MESSAGE_ID_LENGTH && memcmp(reply->batch.data, id, NP_MESSAGE_ID_LENGTH) == 0 &&
		reply->batch_count == (uint64) batch->member_count;
}

/* Somebody may have stored members one by one, whatever became of the others. */
static void
record_bad_reply(Batch *batch, const char *text)
{
	NpReply		reply = {.kind = NP_REPLY_FAILURE,.failure = {NP_FAULT_UNKNOWN, text, NULL, NULL}};

	batch->refused = batch->refused && batch->refusal.fault == NP_FAULT_UNKNOWN && !batch->refusal_is_transient;
	record_refusal(batch, &reply);
}

static void
on_member_answered(void *owner, uint64 token, const NpReply *reply, bool was_sent)
{
	Batch	   *batch = owner;
	bool		is_commit = token == batch->commit_token;

	batch->unanswered--;
	if (reply == NULL)
	{
		batch->lost = true;
		batch->commit_was_sent |= is_commit && was_sent;
		return;
	}
	batch->commit_was_answered |= is_commit;
	switch (reply->kind)
	{
		case NP_REPLY_STAGED:
			if (is_commit)
				record_bad_reply(batch, "the commit of the batch has no acknowledgment");
			break;
		case NP_REPLY_ACK:
			if (is_commit && acknowledges_batch(batch, reply))
				batch->stored = true;
			else
				record_bad_reply(batch, "the server has acknowledged something other than the batch");
			break;
		case NP_REPLY_NO_RESPONDERS:
			{
				NpReply		no_stream = {.kind = NP_REPLY_RETRY};

				no_stream.failure = np_failure(NP_FAULT_UNTAKEN, "no stream takes one of the subjects");
				record_refusal(batch, &no_stream);
			}
			break;
		case NP_REPLY_RETRY:
		case NP_REPLY_FAILURE:
			record_refusal(batch, reply);
			break;
	}
}

static bool
attempt_has_ended(NpSession *session, void *argument)
{
	const Batch *batch = argument;

	return batch->unanswered == 0 || batch->lost;
}

/*
 * The message's header block with those of the batch in front, where no text
 * of others can hide them (message.c): such a member would be stored at once.
 */
static NpSpan
member_headers(const Batch *batch, const NpMessage *message, const char *batch_id, int number, StringInfo block)
{
	size_t		version_length = strlen("NATS/1.0\r\n");

	resetStringInfo(block);
	appendStringInfo(block, "NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n", batch_id, number);
	if (number == batch->member_count)
		appendStringInfoString(block, "Nats-Batch-Commit: 1\r\n");
	if (message->headers.data == NULL)
		appendStringInfoString(block, "\r\n");
	else
		appendBinaryStringInfo(block, message->headers.data + version_length, message->headers.length - version_length);
	return (NpSpan) {block->data, block->len};
}

static void
begin_attempt(Batch *batch)
{
	char	   *id = batch->attempt_ids[batch->attempt_count++ % MAX_ATTEMPT_IDS];

	memcpy(id, np_message_next_id().data, NP_MESSAGE_ID_LENGTH);
	id[NP_MESSAGE_ID_LENGTH] = '\0';
	batch->unanswered = batch->member_count;
	batch->commit_token = np_delivery_next_token() + batch->member_count - 1;
	batch->lost = batch->commit_was_sent = batch->commit_was_answered = batch->stored = batch->refused = false;
	batch->refusal_code = 0;
	batch->refusal_is_transient = false;
	batch->refusing_stream[0] = '\0';
}

/* The members that are not sent or not answered may take max_pending_bytes. */
static bool
can_send_more(NpSession *session, void *argument)
{
	const Batch *batch = argument;

	return batch->lost || np_session_outbound(session)->bytes <= (int64) np_max_pending_bytes * 1024;
}

/* Wait for that.  What others have published and nobody waits for takes room only as long as it is not overdue. */
static bool
make_room(Batch *batch)
{
	NpSession  *session = batch->session;

	if (can_send_more(session, batch) ||
		np_session_wait(session, NP_WAIT_COMMIT, can_send_more, batch, np_commit_timeout, NP_FOREVER))
		return true;
	np_session_expire_overdue(session);
	return np_session_is_open(session) && can_send_more(session, batch);
}

/*
 * Send all members, and wait until each has its answer.  False: no progress
 * in time.
 */
static bool
run_attempt(Batch *batch)
{
	StringInfoData block;
	NpMessage	message;
	int			number = 0;

	begin_attempt(batch);
	initStringInfo(&block);
	np_queue_rewind();
	while (!batch->lost && np_queue_next(&message))
	{
		NpPublication publication = {
			.subject = message.subject,
			.payload = message.payload,
			.reply_prefix = np_connection_inbox(batch->session->connection),
			.token = np_delivery_next_token()
		};
		size_t		control_line;

		CHECK_FOR_INTERRUPTS();
		publication.headers = member_headers(batch, &message, batch->attempt_ids[(batch->attempt_count - 1) % MAX_ATTEMPT_IDS],
											 ++number, &block);
		(void) np_delivery_add(batch->session, &publication, np_publication_size(&publication, &control_line), NP_BATCH);
		if (!make_room(batch))
			return false;
	}
	pfree(block.data);
	return np_session_wait(batch->session, NP_WAIT_COMMIT, attempt_has_ended, batch, np_commit_timeout, NP_FOREVER);
}

/*
 * What is still in the window of an attempt that is given up, and may not
 * arrive any more: the server forgets a batch whose connection ends.
 */
static void
drop_members(Batch *batch)
{
	NpConnection *connection = batch->session->connection;
	bool		is_open = np_connection_is_open(connection);
	uint64		sent = is_open ? np_session_outbound(batch->session)->sent : np_connection_sent_before_loss(connection);
	NpPending  *message;
	uint64		next = batch->commit_token - batch->member_count + 1;
	bool		dropped = false;

	while ((message = np_window_next(&batch->session->window, &next)) != NULL)
	{
		if (message->mode != NP_BATCH)
			continue;
		batch->commit_was_sent |= message->token == batch->commit_token && message->position < sent;
		np_delivery_drop(batch->session, message);
		dropped = true;
	}
	if (dropped && !batch->stored)
		np_connection_close(connection);
}

/* ---- Proof and outcome ------------------------------------------------------------ */

static bool
is_attempt_id(const Batch *batch, NpSpan id)
{
	for (int i = 0; i < Min(batch->attempt_count, MAX_ATTEMPT_IDS); i++)
		if (id.length == NP_MESSAGE_ID_LENGTH && memcmp(id.data, batch->attempt_ids[i], NP_MESSAGE_ID_LENGTH) == 0)
			return true;
	return false;
}

/* One API request with a JSON object of one field; NULL: no answer but an error. */
static Jsonb *
ask_api(const Batch *batch, const char *api, const char *field, const char *value)
{
	StringInfoData request;
	NpSpan		reply;
	NpFailure	failure;

	initStringInfo(&request);
	appendStringInfo(&request, "{\"%s\": ", field);
	escape_json(&request, value);
	appendStringInfoChar(&request, '}');
	if (!np_try_request(batch->session, psprintf("$JS.API.%s", api), (NpSpan) {request.data, request.len},
						NP_FOREVER, &reply, &failure) ||
		np_api_error_parse(reply, &failure))
		return NULL;
	return np_json_parse(reply);
}

/* The stream that takes the last member's subject, palloc'd; NULL: not known. */
static char *
find_stream(Batch *batch)
{
	Jsonb	   *answer;
	Jsonb	   *streams;

	if (batch->refusing_stream[0] != '\0')
		return batch->refusing_stream;
	answer = ask_api(batch, "STREAM.NAMES", "subject", batch->last_subject);
	streams = answer != NULL ? np_json_child(answer, "streams") : NULL;
	return np_json_count(streams) > 0 ? np_json_element_text(streams, 0) : NULL;
}

/*
 * Is the last message of the last member's subject one of ours?  Then the
 * batch is stored.  False proves nothing: it may be behind another one by
 * now, or the NATS user may not ask.
 */
static bool
stream_shows_batch(Batch *batch)
{
	char	   *stream = find_stream(batch);
	Jsonb	   *answer;
	Jsonb	   *message;
	char	   *headers;
	bytea	   *block;

	if (stream == NULL)
		return false;
	answer = ask_api(batch, psprintf("STREAM.MSG.GET.%s", stream), "last_by_subj", batch->last_subject);
	message = answer != NULL ? np_json_child(answer, "message") : NULL;
	headers = message != NULL ? np_json_text(message, "hdrs") : NULL;
	if (headers == NULL)
		return false;
	block = np_base64_decode(headers);
	return is_attempt_id(batch, np_message_header((NpSpan) {VARDATA_ANY(block), VARSIZE_ANY_EXHDR(block)},
												  "Nats-Batch-Id"));
}

/* Is JetStream there at all? */
static NpFailure
explain_untaken(const Batch *batch)
{
	if (!np_session_is_open(batch->session))
		return batch->refusal;
	np_jetstream_look(batch->session);
	return batch->session->absence == NP_ABSENT_NOT_KNOWN ? batch->refusal : np_delivery_untaken(batch->session);
}

static void
raise_refusal(const Batch *batch)
{
	NpFailure	failure = batch->refusal;

	if (failure.fault == NP_FAULT_UNKNOWN)
		failure.hint = HINT_LOOK_CLOSELY;
	if (failure.fault == NP_FAULT_UNTAKEN)
		failure = explain_untaken(batch);
	/* of one subject, it was for the stream's leader, which went on changing */
	if (batch->refusal_code == ERROR_INCOMPLETE && batch->has_one_subject)
		failure.fault = NP_FAULT_LOST;
	else if (batch->refusal_code == ERROR_INCOMPLETE)
	{
		failure.fault = NP_FAULT_FEATURE;
		failure.hint = "All messages of the transaction must go to one stream.";
	}
	if (batch->refusal_code == 10174)
		failure.hint = "Create the stream with the option allow_atomic, and publish to no other stream in the transaction.";
	failure.text = psprintf("could not publish the transaction's messages as one batch: %s", failure.text);
	np_raise(&failure);
}

/*
 * After an attempt that may be stored, one has been refused: was the first
 * one stored?
 */
static bool
refusal_proves_storage(Batch *batch)
{
	if (batch->refusal_code == ERROR_DUPLICATE_ID && batch->all_ids_automatic)
		return true;
	return stream_shows_batch(batch);
}

static void
finish_refused(Batch *batch)
{
	if (!batch->in_doubt)
		raise_refusal(batch);
	if (refusal_proves_storage(batch))
		return;
	raise_in_doubt(batch->refusal.text);
}

/*
 * Can another attempt succeed after this refusal?  A batch that is incomplete
 * although nothing else is wrong is one over two streams, if not the stream's
 * leader has just changed, which it may do several times; and a 503 is asked
 * again as for a single message.
 */
static bool
may_try_again(const Batch *batch, NpTime begun, int untaken)
{
	if (batch->refusal_code == ERROR_INCOMPLETE)
		return batch->has_one_subject || np_now() < begun + INCOMPLETE_PATIENCE;
	if (batch->refusal.fault == NP_FAULT_UNTAKEN)
		return untaken < NP_NO_RESPONDERS_RETRIES;
	return batch->refusal_is_transient;
}

static NpTime
delay_before_next(const Batch *batch, int tries)
{
	return batch->refusal.fault == NP_FAULT_UNTAKEN ? NP_NO_RESPONDERS_DELAY : np_delay_after(tries);
}

static void
count_sent(const Batch *batch)
{
	NpStats    *stats = np_stats_of(NP_STATS_ON_COMMIT);

	stats->published += batch->member_count;
	stats->bytes += batch->payload_bytes;
}

/* Each member took as long as the whole. */
static void
count_stored(const Batch *batch, NpTime time)
{
	NpStats    *stats = np_stats_of(NP_STATS_ON_COMMIT);

	stats->acked += batch->member_count;
	np_histogram_add(&stats->acks, time, batch->member_count);
}

static void
count_failed(const Batch *batch, const char *error)
{
	NpFailure	failure = np_failure(NP_FAULT_UNKNOWN, "%s", error);

	np_stats_of(NP_STATS_ON_COMMIT)->failed += batch->member_count;
	np_stats_record_failure(NP_STATS_ON_COMMIT, (NpSpan) {NULL, 0}, &failure);
}

/*
 * Attempt until the batch is stored.  Raises why it is not, or may not be.
 */
static void
attempt_until_stored(Batch *batch)
{
	NpTime		begun = np_now();
	NpTime		give_up = begun + NP_MILLISECONDS(np_commit_timeout);
	int			tries = 0;
	int			untaken = 0;	/* of these, so often by nobody */

	for (;;)
	{
		bool		ended;

		check_server(batch);
		check_range(batch);
		if (batch->in_doubt && np_now() > begun + NP_MILLISECONDS(np_delivery_resend_time()))
		{
			/* the ids of the first copy need not be known any more */
			if (stream_shows_batch(batch))
				return;
			raise_without_outcome(batch);
		}
		/* whatever has become of the others */
		ended = run_attempt(batch) || batch->commit_was_answered;
		drop_members(batch);
		if (batch->stored)
			return;
		if (!ended)
			raise_without_outcome(batch);
		batch->in_doubt |= batch->commit_was_sent;
		if (batch->lost && batch->in_doubt && !batch->some_have_ids)
		{
			/* a second copy would be stored too */
			if (stream_shows_batch(batch))
				return;
			raise_without_outcome(batch);
		}
		if (batch->lost && np_now() >= give_up)
			raise_without_outcome(batch);
		if (batch->lost)
		{
			np_stats_of(NP_STATS_ON_COMMIT)->resent += batch->member_count;
			continue;
		}
		if (!may_try_again(batch, begun, untaken) || np_now() >= give_up)
		{
			finish_refused(batch);
			return;
		}
		untaken += batch->refusal.fault == NP_FAULT_UNTAKEN;
		np_sleep(NP_WAIT_COMMIT, np_now() + delay_before_next(batch, tries++));
	}
}

/*
 * Publish what the transaction holds as one atomic batch, on an open
 * session, and wait until it is stored.
 *
 * Raises 54000, 22023 and 0A000 before anything is sent; then what the server
 * refuses it for, 58000 when it could not be sent, and 58030 when nobody
 * knows.
 */
void
np_batch_publish(NpSession *session)
{
	MemoryContext context = CurrentMemoryContext;
	NpTime		began = np_now();
	Batch	   *batch = MemoryContextAllocZero(TopTransactionContext, sizeof(Batch));

	batch->session = session;
	check_batch(batch);
	session->members = (NpMemberListener) {on_member_answered, batch};
	count_sent(batch);
	PG_TRY();
	{
		attempt_until_stored(batch);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (batch->attempt_count > 0)
		{
			/* an error that came while answers were waited for */
			drop_members(batch);
			batch->in_doubt |= batch->commit_was_sent;
		}
		session->members = (NpMemberListener) {0};
		/* a cancel leaves it as open as it leaves other messages */
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_OPERATOR_INTERVENTION)
		{
			ErrorData  *error = CopyErrorData();

			count_failed(batch, error->message);
			if (batch->in_doubt && error->sqlerrcode != ERRCODE_IO_ERROR)
			{
				FlushErrorState();
				raise_in_doubt(error->message);
			}
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	session->members = (NpMemberListener) {0};
	count_stored(batch, np_now() - began);
}
