/*-------------------------------------------------------------------------
 *
 * flight.c
 *	  Rows of the outbox on their way to JetStream.
 *
 * No transaction is open here.  A row is stored, or has failed for a reason
 * of its own (its headers, its size, its subject's stream), or nothing is
 * known of it: then it is published again, under the same id.  If it was sent
 * all the same, it is in doubt from then on, whatever becomes of it later.
 *
 * Each row has ack_timeout for itself: that it is not answered holds up
 * nothing but its lane.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/catch.h"
#include "base/settings.h"
#include "publish/publisher.h"
#include "publish/session.h"
#include "relay/chains.h"
#include "relay/flight.h"
#include "relay/lanes.h"
#include "stats/stats.h"

/* nats-server's. */
#define DEFAULT_MAX_PAYLOAD	(1024 * 1024)

/* More than a command has beside its headers and payload, and subject. */
#define COMMAND_LENGTH		(200 + NP_CHAIN_HEADERS)

/* After so many times that a connection was lost for nothing that was answered, rows go alone. */
#define LOSSES_BEFORE_ALONE	3

typedef struct Sent
{
	uint64		token;
	NpRow	   *row;
	char		status;			/* simplehash's */
} Sent;

#define SH_PREFIX			sent_table
#define SH_ELEMENT_TYPE		Sent
#define SH_KEY_TYPE			uint64
#define SH_KEY				token
#define SH_HASH_KEY(t, k)	murmurhash32((uint32) (k))
#define SH_EQUAL(t, a, b)	((a) == (b))
#define SH_SCOPE			static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static NpSession *session;		/* NULL: none yet */
static const NpFlightOwner *owner;
static sent_table_hash *sent_rows;	/* by their tokens */
static int	in_flight;
static HTAB *given_up;			/* the subjects of what is not answered, though the server is there, while
								 * that is given up; else NULL */
static NpTime last_result;		/* when a row came to its end */
static int64 connects_seen;		/* another server may have other streams */
static NpTime newest_answered;	/* when the youngest row that has been answered was sent */
static bool has_answer;			/* of this session, to any row */

/* ---- Rows that go with the connection --------------------------------------------------- */

/*
 * A server can end the connection for a message that it does not like.  When
 * that happens again and again, and nothing is answered, rows are sent one at
 * a time: the one that goes with the connection is to blame.
 */
static int	losses;				/* rounds that have ended so */
static int	suspects;			/* so many rows are to go alone */
static bool is_alone;			/* the one that is on its way does */

/* Was the connection on which rows were sent lost with them? */
static bool
is_losing(void)
{
	return in_flight > 0 && !np_session_is_open(session);
}

static void
suspect(void)
{
	if (!is_losing() || is_alone)
		return;
	losses++;
	if (losses >= LOSSES_BEFORE_ALONE)
		suspects = in_flight + np_lanes_unsent();
}

static void
trust(void)
{
	losses = 0;
	if (suspects > 0)
		suspects--;
}

/* ---- Results --------------------------------------------------------------------------- */

static NpRow *
find_sent(uint64 token)
{
	Sent	   *sent = sent_table_lookup(sent_rows, token);

	return sent == NULL ? NULL : sent->row;
}

static void
remove_sent(const NpRow *row)
{
	(void) sent_table_delete(sent_rows, row->token);
	in_flight--;
	is_alone &= in_flight > 0;
}

/* It has come to its end: its lane goes on, unless it is to be tried again in it. */
static void
end(NpRow *row)
{
	if (row->state == NP_ROW_FAILED && !owner->is_followed)
		np_lanes_hold(row);
	else
		np_lanes_leave(row);
	has_answer |= row->sent_at > 0 && row->state != NP_ROW_DOUBTED;
	owner->ended(row);
}

static bool
is_untaken(const NpFailure *failure)
{
	return failure->fault == NP_FAULT_UNTAKEN || failure->fault == NP_FAULT_NO_JETSTREAM;
}

static void
judge(NpRow *row, const NpFailure *failure)
{
	const char *sqlstate = np_failure_sqlstate(failure);

	if (given_up != NULL || is_untaken(failure))
		np_row_wait_for_stream(row, failure);
	else if (np_row_is_to_blame(sqlstate))
		np_row_fail(row, sqlstate, failure->text);
	else
		np_row_put_off(row, failure);
}

static void
on_stored(NpRow *row, const NpResult *result)
{
	row->state = NP_ROW_STORED;
	if (row->stream != NULL)
		np_chain_stored(row, &result->ack, result->id);
	if (row->stream != NULL || row->lane != NULL)
		np_streams_heard(&result->ack, row->stream);
	end(row);
}

/* Subjects, as hashes, of which pipelined rows are given up. */
static HTAB *
no_subjects(void)
{
	HASHCTL		control = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64),.hcxt = CurrentMemoryContext};

	return hash_create("nats_publish subjects given up", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* What of these subjects is on its way, too, was behind them, and must not go before them when it returns. */
static void
hold_up_sent(HTAB *subjects)
{
	sent_table_iterator scan;
	Sent	   *sent;

	if (hash_get_num_entries(subjects) == 0)
		return;
	sent_table_start_iterate(sent_rows, &scan);
	while ((sent = sent_table_iterate(sent_rows, &scan)) != NULL)
	{
		uint64		key = np_subject_hash(sent->row->message.subject);

		if (sent->row->stream != NULL && hash_search(subjects, &key, HASH_FIND, NULL) != NULL)
			np_lanes_pass(sent->row->message.subject, sent->row->id);
	}
}

/* A row that is not answered, or not taken, stops its stream from being pipelined. */
static void
on_failed(NpRow *row, const NpFailure *failure)
{
	judge(row, failure);
	if (row->stream != NULL)
	{
		np_chain_lost(row);
		if (given_up != NULL)
		{
			uint64		key = np_subject_hash(row->message.subject);

			(void) hash_search(given_up, &key, HASH_ENTER, NULL);
			np_stream_rest(row->stream, false);
		}
		else if (is_untaken(failure))
			np_stream_doubt(row->stream);
	}
	end(row);
}

/*
 * A chained row is refused when the one before it is not the last of the
 * stream, or when an earlier copy of it is stored.  That says nothing about the
 * row: it returns to its place.
 */
static void
on_refused(NpRow *row, const NpFailure *failure)
{
	if (failure->fault == NP_FAULT_UNKNOWN)
		(void) np_row_doubt(row, failure);
	row->message.is_again = true;
	np_lanes_come_back(row, !owner->is_followed);
}

/*
 * A row that was sent has come to its end, or (false) is to be sent again;
 * called while messages are received.
 */
static bool
on_result(void *unused, const NpResult *result)
{
	NpRow	   *row = find_sent(result->token);

	if (row == NULL)
		return true;
	remove_sent(row);
	last_result = np_now();
	if (given_up == NULL)
	{
		newest_answered = Max(newest_answered, row->sent_at);
		trust();
	}
	if (result->acked)
		on_stored(row, result);
	else if (row->is_chained && given_up == NULL)
	{
		on_refused(row, &result->failure);
		return false;
	}
	else
		on_failed(row, &result->failure);
	return true;
}

/* ---- Sending ----------------------------------------------------------------------------- */

/* Whose rows all are that go out in this process. */
void
np_flight_of(const NpFlightOwner *the_owner)
{
	owner = the_owner;
}

/* Rows go out on this session from now on; nothing is on its way on another one. */
void
np_flight_begin(NpSession *new_session)
{
	Assert(in_flight == 0 || new_session == session);
	if (sent_rows == NULL)
		sent_rows = sent_table_create(TopMemoryContext, 1024, NULL);
	if (session != NULL && session != new_session)
	{
		session->relay = (NpRelayListener) {0};
		np_streams_forget();
		has_answer = false;
	}
	session = new_session;
	session->relay = (NpRelayListener) {on_result, NULL};
}

/*
 * Ask about a stream that it is time to ask about, if its order is of
 * interest.  It gets its rows that are on their way.
 */
void
np_flight_ask(void)
{
	const NpStats *stats = np_stats_of(NP_STATS_OUTBOX);
	sent_table_iterator scan;
	NpStream   *stream;
	Sent	   *sent;

	if (np_relay_ordering == NP_RELAY_RELAXED || session == NULL || !np_session_is_open(session))
		return;
	if (stats->connects + stats->reconnects != connects_seen)
		np_streams_doubt(false);
	connects_seen = stats->connects + stats->reconnects;
	stream = np_streams_ask(session);
	if (stream == NULL)
		return;
	sent_table_start_iterate(sent_rows, &scan);
	while ((sent = sent_table_iterate(sent_rows, &scan)) != NULL)
		if (sent->row->lane != NULL && sent->row->stream == NULL && np_stream_of(sent->row->message.subject) == stream)
			np_chain_join(sent->row, stream);
}

/*
 * May rows go together?  In order, the first one of a session goes alone, and
 * so do others until its stream has been asked.  Those behind it would go by
 * their subjects, and could be passed by there, while others of the stream are
 * not.
 */
bool
np_flight_knows_streams(const NpSession *wanted)
{
	return np_relay_ordering == NP_RELAY_RELAXED || (has_answer && session == wanted && !np_streams_any_heard());
}

/* Is there one on its way, or about to go, that is to go alone? */
bool
np_flight_waits_for_first(const NpSession *wanted)
{
	return !np_flight_knows_streams(wanted) && np_lanes_unsent() + in_flight > 0;
}

/* How many rows are on their way. */
int
np_flight_count(void)
{
	return in_flight;
}

static const char *
with_detail(const char *text, const char *detail)
{
	return detail == NULL ? text : psprintf("%s (%s)", text, detail);
}

/*
 * Have a connection; what is wrong with it is no row's fault, whatever its
 * SQLSTATE.  False: *problem (palloc'd) says what is.
 */
bool
np_flight_connect(NpSession *wanted, const char **problem)
{
	NpFailure	failure;

	if (np_session_ready(wanted, true, &failure))
		return true;
	*problem = with_detail(failure.text, failure.detail);
	return false;
}

/* A chained row keeps its content, for it may have to be sent again: it can have come back when this returns. */
static void
publish(NpRow *row)
{
	NpMessage	message;

	if (!row->is_chained)
	{
		np_publish_relayed(session, &row->message);
		np_row_release(row);
		return;
	}
	np_chain_message(row, &message);
	np_publish_relayed(session, &message);
	pfree(unconstify(char *, message.headers.data));
}

/* It was left where it is for its length.  If the server takes that by now, it is read again, for there is nothing of it here. */
NP_NORETURN static void
raise_unread(const NpRow *row)
{
	NpFailure	failure;

	np_publisher_check_length(session, row->length);
	failure = np_failure(NP_FAULT_UNREACHABLE, "the server takes larger messages than when they were read, and they are read again");
	np_raise(&failure);
}

static void
send_row(void *argument)
{
	NpRow	   *row = argument;
	bool		found;

	row->token = np_delivery_next_token();
	sent_table_insert(sent_rows, row->token, &found)->row = row;
	in_flight++;
	is_alone = suspects > 0 || row->is_suspect;
	row->state = NP_ROW_SENT;
	row->sent_at = np_now();
	if (row->stream != NULL)
		np_chain_begin(row);
	if (row->is_unread)
		raise_unread(row);
	publish(row);
}

/*
 * An error came instead of a token: it is the next one's.  False: the row is
 * on its way all the same, and the error is about what was received.
 */
static bool
retract(NpRow *row, uint64 token)
{
	/* it may have been answered, and then it need not be there any more */
	if (find_sent(token) != row || np_window_find(&session->window, token) != NULL)
		return false;
	row->state = NP_ROW_UNSENT;
	remove_sent(row);
	if (row->stream != NULL)
		np_chain_lost(row);
	return true;
}

/* Over a limit that somebody in the network can have made up, which no server has by default: let others be asked. */
static bool
is_too_large_by_hearsay(const NpRow *row)
{
	return strncmp(row->sqlstate, "54", 2) == 0 && np_connection_is_hearsay(session->connection) &&
		row->length <= DEFAULT_MAX_PAYLOAD;
}

/* It can't be sent. */
static void
refuse(NpRow *row, const char *sqlstate, const char *error)
{
	np_row_refuse(row, sqlstate, error);
	if (is_too_large_by_hearsay(row) && row->attempts + 1 < np_relay_max_attempts)
		row->state = NP_ROW_FAILED;
	end(row);
}

/* Send a row; false: something is wrong that is not the row's fault. */
static bool
try_send_row(NpRow *row, const char **problem)
{
	uint64		token = np_delivery_next_token();
	const ErrorData *error = np_catch(send_row, row, NULL);
	const char *sqlstate;
	bool		is_unsent;

	if (error == NULL)
		return true;
	is_unsent = retract(row, token);
	sqlstate = unpack_sql_state(error->sqlerrcode);
	if (is_unsent && np_row_is_to_blame(sqlstate))
	{
		refuse(row, pstrdup(sqlstate), with_detail(error->message, error->detail));
		return true;
	}
	if (is_unsent)
		np_lanes_return(row);
	*problem = with_detail(error->message, error->detail);
	return false;
}

static bool
has_room(const NpRow *row)
{
	if (in_flight > 0 && (is_alone || suspects > 0 || row->is_suspect))
		return false;
	return np_publisher_has_room(session, row->length + row->message.subject.length + COMMAND_LENGTH);
}

/* Can more be sent?  Not while what is on its way waits for a connection. */
bool
np_flight_has_room(void)
{
	NpRow	   *row = np_lanes_first();

	if (row == NULL || is_losing() || (in_flight > 0 && !has_room(row)))
		return false;
	return in_flight == 0 || np_publisher_is_part_free(session, row->length + COMMAND_LENGTH);
}

/* Have it written down of which rows it is in doubt that are to be read again. */
void
np_flight_note_doubts(void)
{
	NpRow	   *row;

	/* what leaves a chain can be one of them */
	(void) np_lanes_first();
	while ((row = np_lanes_doubted()) != NULL)
		owner->ended(row);
}

/*
 * Send what may go, and for which there is room.  False: *problem (palloc'd)
 * says what is wrong, which is no row's fault.
 */
bool
np_flight_send(const char **problem)
{
	NpRow	   *row;

	np_flight_note_doubts();
	np_chains_set_largest(np_connection_max_payload(session->connection));
	while ((row = np_lanes_first()) != NULL)
	{
		if (row->state != NP_ROW_UNSENT || !owner->admits(row))
		{
			/* it could not even become a message, or is not to be sent any more */
			np_lanes_take(row);
			end(row);
			continue;
		}
		/* what is on its way waits for a connection already */
		if (!has_room(row) || is_losing())
			break;
		if (!np_session_is_open(session) && !np_flight_connect(session, problem))
			return false;
		np_lanes_take(row);
		if (!try_send_row(row, problem))
			return false;
	}
	if (in_flight > 0 && np_session_is_open(session))
		np_connection_send(session->connection);
	return true;
}

/* ---- What is not answered --------------------------------------------------------------- */

/* When the oldest row that is on its way was sent; NP_FOREVER: there is none. */
static NpTime
oldest_sent(void)
{
	NpPending  *pending;
	uint64		next = 0;

	if (in_flight > 0)
		while ((pending = np_window_next(&session->window, &next)) != NULL)
			if (pending->mode == NP_RELAYED)
				return pending->published_at;
	return NP_FOREVER;
}

/* Have others been answered that were sent much later? */
static bool
is_passed_over(NpTime sent)
{
	return np_session_is_open(session) && newest_answered > sent + NP_MILLISECONDS(np_ack_timeout) / 2;
}

/*
 * When what is on its way has waited too long.  Where all are answered in their
 * turn, if slowly, that is counted from the last answer on.
 */
NpTime
np_flight_patience_ends(void)
{
	NpTime		oldest = oldest_sent();

	if (oldest == NP_FOREVER)
		return NP_FOREVER;
	return (is_passed_over(oldest) ? oldest : Max(oldest, last_result)) + NP_MILLISECONDS(np_ack_timeout);
}

/* Give up the rows that were sent before a time. */
static void
give_up(NpTime sent_before)
{
	NpPending  *pending;
	uint64		next = 0;

	given_up = no_subjects();
	PG_TRY();
	{
		while ((pending = np_window_next(&session->window, &next)) != NULL && pending->published_at <= sent_before)
			if (pending->mode == NP_RELAYED)
				np_delivery_fail(session, pending, np_session_explain(session, pending));
		if (!owner->is_followed)
			hold_up_sent(given_up);
	}
	PG_FINALLY();
	{
		hash_destroy(given_up);
		given_up = NULL;
	}
	PG_END_TRY();
}

/*
 * Give up the rows that have not been answered in ack_timeout.  When others
 * that were sent much later have been, or the server is there all the same,
 * it is they that nobody answers (a stream without acknowledgments, a
 * subscriber without a stream), and they wait like those that no stream takes.
 * False: the server is away, or busy, as *problem says.
 */
bool
np_flight_give_up_unanswered(const char **problem)
{
	NpTime		timeout = NP_MILLISECONDS(np_ack_timeout);
	NpTime		overdue = np_now() - timeout;
	uint64		next = 0;

	if (np_now() < np_flight_patience_ends())
		return true;
	if (is_passed_over(oldest_sent()))
	{
		give_up(Min(overdue, newest_answered - timeout / 2));
		return true;
	}
	*problem = np_session_explain(session, np_window_next(&session->window, &next)).text;
	if (!np_session_is_open(session) ||
		!np_connection_ping(session->connection, NP_WAIT_ACK, np_now() + timeout))
		return false;
	give_up(overdue);
	return true;
}

/* Is a row, which goes alone, to blame for the loss of connections? */
bool
np_flight_has_culprit(void)
{
	return is_alone && is_losing();
}

/* Then it has failed. */
void
np_flight_convict(void)
{
	NpPending  *pending;
	uint64		next = 0;
	NpFailure	failure;
	NpRow	   *row = NULL;

	while (row == NULL && (pending = np_window_next(&session->window, &next)) != NULL)
		row = find_sent(pending->token);
	if (row == NULL)
		return;
	failure = np_session_explain(session, pending);
	remove_sent(row);
	if (row->stream != NULL)
		np_chain_lost(row);
	np_row_fail(row, strstr(failure.text, "ontrol line") != NULL ? "54000" : "38000",
				psprintf(NP_CULPRIT ": %s", failure.text));
	row->in_doubt = true;
	np_delivery_drop(session, pending);
	end(row);
}

/* ---- What is not known ------------------------------------------------------------------ */

/* It is published again, and may be stored. */
static void
abort_row(NpRow *row, const NpPending *pending)
{
	NpFailure	failure = np_session_explain(session, pending);

	remove_sent(row);
	if (row->stream != NULL)
		np_chain_lost(row);
	row->state = NP_ROW_UNSENT;
	if (pending->in_doubt || failure.fault == NP_FAULT_UNKNOWN)
		(void) np_row_doubt(row, &failure);
	np_lanes_forget(row);
}

/* Have no lanes any more, as np_lanes_clear. */
int64
np_flight_clear(void)
{
	int64		lowest = np_lanes_clear();

	np_flight_note_doubts();
	return lowest;
}

/*
 * Have nothing on its way any more, and no lanes: what is not known to be
 * stored is read again.  Returns the lowest id of it; 0: there is none.
 */
int64
np_flight_abort(void)
{
	NpPending  *pending;
	uint64		next = 0;
	int64		lowest = 0;
	int64		unsent;

	if (session != NULL)
		suspect();
	while (in_flight > 0 && (pending = np_window_next(&session->window, &next)) != NULL)
	{
		NpRow	   *row = find_sent(pending->token);

		if (row != NULL && !row->is_due && (lowest == 0 || row->id < lowest))
			lowest = row->id;
		if (row != NULL)
			abort_row(row, pending);
		if (pending->mode == NP_RELAYED)
			np_delivery_drop(session, pending);
	}
	unsent = np_flight_clear();
	return lowest == 0 || (unsent != 0 && unsent < lowest) ? unsent : lowest;
}
