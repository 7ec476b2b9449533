/*-------------------------------------------------------------------------
 *
 * relay_batch.c
 *	  Publishing a batch of rows of the outbox.
 *
 * No transaction is open here.  A row is stored, or has failed for a reason
 * of its own (its headers, its size, its subject's stream), or nothing is
 * known of it: then it is published again, under the same id.  If it was sent
 * all the same, it is in doubt from then on, whatever becomes of it later.
 *
 * In order, at most one row of a subject is in flight: the next one goes out
 * when JetStream has stored it, or when it has failed for good.  One that
 * failed for now stops those behind it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/settings.h"
#include "message/message.h"
#include "publish/delivery.h"
#include "publish/jetstream.h"
#include "publish/publisher.h"
#include "publish/session.h"
#include "relay/relay_batch.h"
#include "stats/stats.h"

/* nats-server's. */
#define DEFAULT_MAX_PAYLOAD	(1024 * 1024)

/* The publishing of one batch. */
typedef struct Run
{
	NpSession  *session;
	NpOutboxBatch *batch;
	int		   *ready;			/* rows to be sent, in this order */
	int			ready_count;
	int			ready_sent;
	int		   *sent;			/* rows by their tokens, which only grow */
	int			sent_count;
	int			in_flight;
	bool		giving_up;		/* what is not answered, though the server is there */
	const char *doubt;			/* why something is not known to be stored; NULL: nothing */
	bool		has_untaken;	/* rows */
} Run;

/* ---- Faults ------------------------------------------------------------------------- */

static bool
is_of_class(const char *sqlstate, const char *class)
{
	return strncmp(sqlstate, class, 2) == 0;
}

/* Is it the row's fault?  Else the connection's, the server's, or an interrupt. */
static bool
is_of_row(const char *sqlstate)
{
	return is_of_class(sqlstate, "22") || is_of_class(sqlstate, "54") || is_of_class(sqlstate, "0A") ||
		is_of_class(sqlstate, "42") || is_of_class(sqlstate, "40") || is_of_class(sqlstate, "23") ||
		is_of_class(sqlstate, "38") || is_of_class(sqlstate, "53");
}

/*
 * What was wrong with the row itself stays wrong.  What somebody can mend on
 * the other side is waited for: a missing stream or permission (42), a full
 * stream (53), a feature that is switched off (0A).
 */
static bool
is_hopeless(const NpOutboxRow *row, const char *sqlstate)
{
	if (is_of_class(sqlstate, "22") || is_of_class(sqlstate, "54"))
		return true;
	return !is_of_class(sqlstate, "42") && !is_of_class(sqlstate, "53") && !is_of_class(sqlstate, "0A") &&
		row->attempts + 1 >= np_relay_max_attempts;
}

/* The row has failed; the texts must live as long as it does. */
static void
set_failed(NpOutboxRow *row, const char *sqlstate, const char *error)
{
	row->state = NP_ROW_FAILED;
	row->sqlstate = sqlstate;
	row->error = error;
	row->is_hopeless = is_hopeless(row, sqlstate);
}

/* It has, and can't even be sent: so nobody else has counted it. */
void
np_relay_row_refuse(NpOutboxRow *row, const char *sqlstate, const char *error)
{
	NpFailure	failure = np_failure(NP_FAULT_INPUT, "%s", error);

	np_stats_add_unsent(NP_STATS_OUTBOX, 1);
	np_stats_record_failure(NP_STATS_OUTBOX, (NpSpan) {NULL, 0}, &failure);
	set_failed(row, sqlstate, error);
}

static void
fail_row(const Run *run, NpOutboxRow *row, const char *sqlstate, const char *error)
{
	set_failed(row, MemoryContextStrdup(run->batch->context, sqlstate), MemoryContextStrdup(run->batch->context, error));
}

/* It may be stored, and nothing more will be heard of this attempt; the first such one is reported. */
static void
put_in_doubt(const Run *run, NpOutboxRow *row, const NpFailure *failure)
{
	if (row->in_doubt)
		return;
	row->in_doubt = true;
	row->sqlstate = MemoryContextStrdup(run->batch->context, np_failure_sqlstate(failure));
	row->error = MemoryContextStrdup(run->batch->context, failure->text);
}

/* ---- Order ---------------------------------------------------------------------------- */

static int
compare_subjects(const void *a, const void *b, void *rows)
{
	const NpOutboxRow *first = &((const NpOutboxRow *) rows)[*(const int *) a];
	const NpOutboxRow *second = &((const NpOutboxRow *) rows)[*(const int *) b];
	int			order = memcmp(first->message.subject.data, second->message.subject.data,
							   Min(first->message.subject.length, second->message.subject.length));

	if (order == 0)
		order = (int) first->message.subject.length - (int) second->message.subject.length;
	return order != 0 ? order : *(const int *) a - *(const int *) b;
}

static bool
same_subject(const Run *run, int a, int b)
{
	return np_span_equals(run->batch->rows[a].message.subject, run->batch->rows[b].message.subject);
}

/* What can't become a message has failed when it was read. */
static bool
is_message(const Run *run, int row)
{
	return run->batch->rows[row].state != NP_ROW_FAILED;
}

/* Only the first row of each subject can go at once; it leads to the others. */
static void
chain_subjects(Run *run)
{
	int		   *sorted = palloc(sizeof(int) * run->batch->count);
	bool	   *follows = palloc0(sizeof(bool) * run->batch->count);
	int			count = 0;

	for (int i = 0; i < run->batch->count; i++)
		if (is_message(run, i))
			sorted[count++] = i;
	qsort_arg(sorted, count, sizeof(int), compare_subjects, run->batch->rows);
	for (int i = 1; i < count; i++)
	{
		if (!same_subject(run, sorted[i - 1], sorted[i]))
			continue;
		run->batch->rows[sorted[i - 1]].next = sorted[i];
		follows[sorted[i]] = true;
	}
	for (int i = 0; i < run->batch->count; i++)
		if (is_message(run, i) && !follows[i])
			run->ready[run->ready_count++] = i;
}

static Run *
begin(NpOutboxBatch *batch, bool ordered)
{
	Run		   *run = palloc0(sizeof(Run));

	run->batch = batch;
	run->session = batch->session;
	run->ready = palloc(sizeof(int) * batch->count);
	run->sent = palloc(sizeof(int) * batch->count);
	if (ordered)
		chain_subjects(run);
	else
		for (int i = 0; i < batch->count; i++)
			if (is_message(run, i))
				run->ready[run->ready_count++] = i;
	return run;
}

/* The row behind this one may go. */
static void
release_next(Run *run, const NpOutboxRow *row)
{
	if (row->next != 0)
		run->ready[run->ready_count++] = row->next;
}

/* ---- Results --------------------------------------------------------------------------- */

static NpOutboxRow *
find_sent(const Run *run, uint64 token)
{
	int			low = 0;
	int			high = run->sent_count - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		NpOutboxRow *row = &run->batch->rows[run->sent[middle]];

		if (row->token == token)
			return row;
		if (row->token < token)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

/* A row that was sent has come to its end; called while messages are received. */
static void
on_result(void *owner, const NpResult *result)
{
	Run		   *run = owner;
	NpOutboxRow *row = find_sent(run, result->token);
	const char *sqlstate;

	if (row == NULL)
		return;					/* of an earlier batch */
	run->in_flight--;
	row->is_untaken = !result->acked &&
		(result->failure.fault == NP_FAULT_UNTAKEN || result->failure.fault == NP_FAULT_NO_JETSTREAM);
	run->has_untaken |= row->is_untaken;
	if (result->acked)
		row->state = NP_ROW_STORED;
	else
	{
		sqlstate = np_failure_sqlstate(&result->failure);
		if (is_of_row(sqlstate) || run->giving_up)
			fail_row(run, row, sqlstate, result->failure.text);
		else
		{
			row->state = NP_ROW_UNSENT;
			run->doubt = MemoryContextStrdup(run->batch->context, result->failure.text);
			if (result->failure.fault == NP_FAULT_UNKNOWN)
				put_in_doubt(run, row, &result->failure);
		}
	}
	if (row->state == NP_ROW_STORED || row->is_hopeless)
		release_next(run, row);
}

/* ---- Sending ----------------------------------------------------------------------------- */

static void
send_row(Run *run, NpOutboxRow *row)
{
	row->token = np_delivery_next_token();
	row->state = NP_ROW_SENT;
	run->sent[run->sent_count++] = row - run->batch->rows;
	run->in_flight++;
	np_publish_relayed(run->session, &row->message);
}

/*
 * An error came instead of a token: it is the next one's.  False: the row is
 * on its way all the same, and the error is about what was received.
 */
static bool
retract(Run *run, NpOutboxRow *row)
{
	if (row->state != NP_ROW_SENT || np_window_find(&run->session->window, row->token) != NULL)
		return false;
	row->state = NP_ROW_UNSENT;
	run->sent_count--;
	run->in_flight--;
	return true;
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
np_relay_connect(NpSession *session, const char **problem)
{
	NpFailure	failure;

	if (np_session_ready(session, true, &failure))
		return true;
	*problem = with_detail(failure.text, failure.detail);
	return false;
}

/* Over a limit that somebody in the network can have made up, which no server has by default: let others be asked. */
static bool
is_too_large_by_hearsay(const Run *run, const NpOutboxRow *row)
{
	return is_of_class(row->sqlstate, "54") && np_connection_is_hearsay(run->session->connection) &&
		row->message.headers.length + row->message.payload.length <= DEFAULT_MAX_PAYLOAD;
}

/* Send a row; false: something is wrong that is not the row's fault. */
static bool
try_send_row(Run *run, NpOutboxRow *row, const char **problem)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *error = NULL;
	bool		is_unsent = false;
	const char *sqlstate;

	if (!np_session_is_open(run->session) && !np_relay_connect(run->session, problem))
		return false;

	PG_TRY();
	{
		send_row(run, row);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		is_unsent = retract(run, row);
	}
	PG_END_TRY();
	if (error == NULL)
		return true;
	sqlstate = unpack_sql_state(error->sqlerrcode);
	if (!is_unsent || !is_of_row(sqlstate))
	{
		*problem = with_detail(error->message, error->detail);
		return false;
	}
	np_relay_row_refuse(row, MemoryContextStrdup(run->batch->context, sqlstate),
						MemoryContextStrdup(run->batch->context, with_detail(error->message, error->detail)));
	if (is_too_large_by_hearsay(run, row))
		row->is_hopeless = row->attempts + 1 >= np_relay_max_attempts;
	if (row->is_hopeless)
		release_next(run, row);
	return true;
}

static bool
can_go_on(NpSession *session, void *argument)
{
	const Run  *run = argument;

	return run->ready_sent < run->ready_count || run->in_flight == 0;
}

/*
 * Nothing was answered for a time.  When the server is there all the same, it
 * is the messages that nobody answers (a stream without acknowledgments, a
 * subscriber without a stream), and they are tried again like refused ones.
 * False: the server is away, or busy.
 */
static bool
give_up_unanswered(Run *run, const char **problem)
{
	NpConnection *connection = run->session->connection;
	NpPending  *pending;
	uint64		next = 0;

	*problem = np_session_explain(run->session, np_window_next(&run->session->window, &next)).text;
	if (!np_connection_is_open(connection) ||
		!np_connection_ping(connection, NP_WAIT_ACK, np_now() + NP_MILLISECONDS(np_ack_timeout)))
		return false;
	run->giving_up = true;
	next = 0;
	while ((pending = np_window_next(&run->session->window, &next)) != NULL)
		np_delivery_fail(run->session, pending, np_session_explain(run->session, pending));
	run->giving_up = false;
	return true;
}

static bool
send_ready(Run *run, const char **problem)
{
	while (run->ready_sent < run->ready_count)
		if (!try_send_row(run, &run->batch->rows[run->ready[run->ready_sent++]], problem))
			return false;
	return true;
}

static bool
send_all(Run *run, void (*meanwhile) (void), const char **problem)
{
	if (!send_ready(run, problem))
		return false;
	np_connection_send(run->session->connection);
	meanwhile();
	for (;;)
	{
		if (!send_ready(run, problem))
			return false;
		if (run->in_flight == 0)
		{
			*problem = run->doubt;
			return run->doubt == NULL;
		}
		if (!np_session_wait(run->session, NP_WAIT_ACK, can_go_on, run, np_ack_timeout, NP_FOREVER) && !give_up_unanswered(run, problem))
			return false;
	}
}

/* What no stream takes has failed with less than can be known. */
static void
explain_untaken(Run *run)
{
	NpFailure	failure;

	if (!run->has_untaken || !np_session_is_open(run->session))
		return;
	np_jetstream_look(run->session);
	failure = np_delivery_untaken(run->session);
	for (int i = 0; i < run->batch->count; i++)
		if (run->batch->rows[i].is_untaken)
			fail_row(run, &run->batch->rows[i], np_failure_sqlstate(&failure), failure.text);
}

static void
abort_row(Run *run, NpOutboxRow *row, const NpPending *pending)
{
	NpFailure	failure = np_session_explain(run->session, pending);

	row->state = NP_ROW_UNSENT;
	if (pending->in_doubt || failure.fault == NP_FAULT_UNKNOWN)
		put_in_doubt(run, row, &failure);
}

/* What is still in the window is published again with another batch. */
static void
abort_in_flight(Run *run)
{
	NpPending  *pending;
	uint64		next = 0;

	while ((pending = np_window_next(&run->session->window, &next)) != NULL)
	{
		NpOutboxRow *row = find_sent(run, pending->token);

		if (row != NULL)
			abort_row(run, row, pending);
		if (pending->mode == NP_RELAYED)
			np_delivery_drop(run->session, pending);
	}
	run->session->relay = (NpRelayListener) {0};
}

/*
 * Publish the rows of a batch and wait for what becomes of them, which their
 * states then say; `ordered` keeps the order of each subject.  Before the
 * wait, when the server has something to do, `meanwhile` is called.
 *
 * False: *problem (palloc'd) kept rows from being sent or answered.  Raises what an
 * interrupt or `meanwhile` raises; the states are right then, too.
 */
bool
np_relay_batch_publish(NpOutboxBatch *batch, bool ordered, void (*meanwhile) (void), const char **problem)
{
	Run		   *run = begin(batch, ordered);
	bool		complete = false;

	batch->session->relay = (NpRelayListener) {on_result, run};
	PG_TRY();
	{
		complete = send_all(run, meanwhile, problem);
		explain_untaken(run);
	}
	PG_FINALLY();
	{
		abort_in_flight(run);
	}
	PG_END_TRY();
	return complete;
}
