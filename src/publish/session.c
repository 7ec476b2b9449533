/*-------------------------------------------------------------------------
 *
 * session.c
 *	  A session's connection: having one, and waiting on it.
 *
 * Every wait is for progress: it gives up when no message has come to its end
 * for a time, however long the whole takes.  While it lasts, what is due is
 * sent again, a server that says nothing is asked and left (wire/liveness.c),
 * and a lost connection is made again with what is pending on it.
 *
 * Nothing is given up, or called pending, before what the socket holds has
 * been read to its end.
 *
 * A transaction that uses several sessions waits for them one after the
 * other.  Meanwhile the acknowledgments of the others stay in the kernel:
 * there are at most max_pending of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "publish/delivery.h"
#include "publish/jetstream.h"
#include "publish/session.h"
#include "publish/sessions.h"
#include "stats/activity.h"
#include "stats/stats.h"
#include "wire/connect.h"
#include "wire/server_info.h"

/* After a failed connect, critical => false does not try again for so long. */
#define UNCRITICAL_PAUSE		NP_MILLISECONDS(1000)

/* A socket that was not used for so long is read before it is sent to, for its end can be there. */
#define SEEN_FOR				NP_MILLISECONDS(10)

/* The first try after a loss is put off by up to this, for other backends have lost theirs too. */
#define RECONNECT_JITTER		NP_MILLISECONDS(50)

static MemoryContext scratch_context;	/* reset after each use; NULL: not used yet */
static int	wait_timeout;		/* ms, of all that waits while a transaction or the backend ends; 0: in a
								 * call */

bool
np_session_is_open(NpSession *session)
{
	return np_connection_is_open(session->connection);
}

/* The same, as a condition to wait for. */
bool
np_session_is_connected(NpSession *session, void *unused)
{
	return np_session_is_open(session);
}

/* Likewise: is nothing in its window? */
bool
np_session_is_idle(NpSession *session, void *unused)
{
	return session->window.count == 0;
}

/* ---- What others see --------------------------------------------------------- */

/* Nothing in a window is older than its first message. */
static NpTime
oldest_pending(NpSession *session)
{
	uint64		next = 0;
	NpPending  *first = np_window_next(&session->window, &next);

	return first == NULL ? NP_FOREVER : first->published_at;
}

/*
 * Show what is not acknowledged, in all sessions, and what the backend does
 * about it.
 */
static void
show(NpActivityState state)
{
	NpBacklog	backlog = {0};
	NpTime		oldest = NP_FOREVER;
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		backlog.count += session->window.count;
		backlog.bytes += np_session_outbound(session)->bytes;
		oldest = Min(oldest, oldest_pending(session));
	}
	if (oldest != NP_FOREVER)
		backlog.oldest = GetCurrentTimestamp() - (np_now() - oldest);
	np_activity_set_backlog(state, &backlog);
}

/* The same, when the backend waits for nothing.  Never throws. */
void
np_session_show_rest(void)
{
	NpSession  *session;
	bool		is_open = false;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		is_open |= np_session_is_open(session);
	show(is_open ? NP_ACTIVITY_CONNECTED : NP_ACTIVITY_DISCONNECTED);
}

/* With several connections, that which was used last is shown. */
static const NpSession *shown;

static void
show_server(const NpSession *session)
{
	NpConnectionIdentity identity = np_connection_identity(session->connection);

	np_activity_set_server(identity.url, identity.server_name);
	shown = session;
}

/* ---- Waiting -------------------------------------------------------------- */

/*
 * Find out the version of the session's server, for which it is asked over
 * another connection.  False: it does not say, *failure tells why, and its
 * connection is lost, for such a server is left as one that says nothing.
 */
static bool
learn_version(NpSession *session, NpFailure *failure)
{
	if (np_server_learn_version(session->connection, failure))
		return true;
	np_connection_lose(session->connection, failure->text);
	return false;
}

/* Of a server whose version is known. */
static NpFeature
newest_known(NpConnection *connection)
{
	int			feature = NP_FEATURE_NEWEST;

	while (feature > NP_FEATURE_NONE &&
		   !np_server_is_at_least(connection, np_feature_origin(feature)->major, np_feature_origin(feature)->minor))
		feature--;
	return feature;
}

/*
 * On a new connection, send what is pending again.  False: it could not be
 * found out whether the server knows what is asked of it, and the connection
 * is lost again.  It is closed by whatever is raised.
 */
static bool
resend(NpSession *session, NpFailure *failure)
{
	volatile bool knows_enough = false;

	PG_TRY();
	{
		knows_enough = session->window.needing == 0 || learn_version(session, failure);
		if (knows_enough && session->window.needing > 0)
			np_delivery_fail_newer(session, newest_known(session->connection));
		if (knows_enough)
			np_delivery_resend(session);
	}
	PG_CATCH();
	{
		np_connection_close(session->connection);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return knows_enough;
}

/* What nobody waits for has waited once. */
static void
pause_uncritical(NpSession *session, const NpFailure *failure)
{
	np_text_cut(session->connect_failure, sizeof(session->connect_failure), failure->detail != NULL ? failure->detail : failure->text);
	session->uncritical_pause_until = np_now() + UNCRITICAL_PAUSE;
}

static void
forget_failure(NpSession *session)
{
	session->connect_failure[0] = '\0';
	session->uncritical_pause_until = 0;
}

/* What the last attempt said, palloc'd; NULL: it has succeeded, or there was none. */
static const char *
last_failure(const NpSession *session)
{
	return session->connect_failure[0] != '\0' ? pstrdup(session->connect_failure) : NULL;
}

/*
 * Try to connect once; what is pending goes out again.
 *
 * The next time is put off longer and longer, until a message has come to its
 * end: a server can also accept each connection, and end it for what is sent.
 */
static bool
try_connect(NpSession *session, NpTime deadline, NpFailure *failure)
{
	bool		opened = np_connection_open(session->connection, &session->server, deadline, failure);

	session->connect_delay = Min(Max(session->connect_delay * 2, NP_FIRST_DELAY), NP_LAST_DELAY);
	session->next_connect = np_now() + np_jittered(session->connect_delay);
	session->absence = NP_ABSENT_NOT_KNOWN;
	session->look = NP_LOOK_NONE;
	session->looked_at = 0;
	if (opened && resend(session, failure))
	{
		forget_failure(session);
		show_server(session);
		return true;
	}
	pause_uncritical(session, failure);
	np_stats_record_failure(np_stats_mode, (NpSpan) {NULL, 0}, failure);
	return false;
}

/* One wait. */
typedef struct Wait
{
	NpSession  *session;
	NpTime		timeout;		/* without progress */
	NpTime		limit;
	NpTime		silence_timeout;	/* with a server that says nothing */
	NpTime		begun;
	NpTime		now;			/* of the present pass */
	NpTime		last_progress;
	NpTime		deadline;		/* if there is no more progress */
	bool		has_waited;
} Wait;

static NpTime
when_to_connect(const Wait *wait)
{
	return np_session_is_open(wait->session) ? NP_FOREVER : wait->session->next_connect;
}

/* What is pending needs it. */
static void
connect_again(Wait *wait)
{
	MemoryContext previous;
	NpFailure	failure;

	/* that nothing could be tried says nothing about the server */
	if (wait->now >= wait->deadline)
		return;
	if (scratch_context == NULL)
		scratch_context = AllocSetContextCreate(TopMemoryContext, "nats_publish connect",
												ALLOCSET_SMALL_SIZES);
	previous = MemoryContextSwitchTo(scratch_context);
	(void) try_connect(wait->session, wait->deadline, &failure);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

static NpTime
when_to_retry(const Wait *wait)
{
	return wait->session->next_retry;
}

static void
retry(Wait *wait)
{
	/* what is due may have been answered since it was read last */
	if (np_session_is_open(wait->session))
		np_connection_receive(wait->session->connection);
	/* not just to give it up: then nobody would know what became of it */
	if (wait->now < wait->deadline || !wait->has_waited)
		np_delivery_send_due(wait->session, wait->now);
}

/* Since when the server owes an answer: nothing in the window is older than its first message. */
static NpTime
owed_since(const Wait *wait)
{
	NpTime		oldest = oldest_pending(wait->session);

	return oldest != NP_FOREVER ? oldest : wait->begun;
}

static NpTime
when_to_doubt(const Wait *wait)
{
	return np_connection_next_doubt(wait->session->connection, owed_since(wait), wait->silence_timeout);
}

static void
doubt(Wait *wait)
{
	if (np_session_is_open(wait->session))
		np_connection_doubt(wait->session->connection, owed_since(wait), wait->silence_timeout);
}

static NpTime
when_to_look(const Wait *wait)
{
	return np_jetstream_when_to_look(wait->session);
}

/* A message that nobody takes waits so long anyway. */
static void
look(Wait *wait)
{
	if (np_session_is_open(wait->session))
		np_jetstream_look_on(wait->session, Min(wait->deadline, wait->now + NP_NO_RESPONDERS_DELAY));
}

/* What is due when, in this order, beside the deadline. */
static const struct
{
	NpTime		(*when) (const Wait *wait);
	void		(*act) (Wait *wait);
	bool		needs_connection;	/* without one it is no reason to wake up */
}			due[] = {
	{when_to_doubt, doubt, true},
	{when_to_connect, connect_again, false},
	{when_to_look, look, true},
	{when_to_retry, retry, true},
};

static void
do_what_is_due(Wait *wait)
{
	for (int i = 0; i < lengthof(due); i++)
		if (wait->now >= due[i].when(wait))
			due[i].act(wait);
}

static NpTime
next_due(const Wait *wait)
{
	NpTime		next = wait->deadline;

	for (int i = 0; i < lengthof(due); i++)
		if (!due[i].needs_connection || np_session_is_open(wait->session))
			next = Min(next, due[i].when(wait));
	return next;
}

/* A message that comes to its end moves the deadline. */
static void
update_deadline(Wait *wait)
{
	wait->now = np_now();
	if (np_delivery_has_progressed(wait->session))
	{
		wait->last_progress = wait->now;
		wait->session->connect_delay = 0;
	}
	wait->deadline = Min(wait->last_progress + wait->timeout, wait->limit);
}

/* Until something arrives or is due; a connection that is lost is not made again at once. */
static void
sleep_until_due(Wait *wait, NpWaitEvent event)
{
	NpSession  *session = wait->session;

	wait->has_waited = true;
	if (!np_session_is_open(session))
	{
		show(NP_ACTIVITY_CONNECTING);
		np_sleep(NP_WAIT_CONNECT, next_due(wait));
		return;
	}
	show(NP_ACTIVITY_WAITING);
	np_connection_wait(session->connection, event, next_due(wait));
	if (!np_session_is_open(session))
		session->next_connect = Max(session->next_connect,
									np_now() + (NpTime) pg_prng_uint64_range(&pg_global_prng_state, 0, RECONNECT_JITTER));
}

/* Before it is said that it does not. */
static bool
holds_when_read(NpSession *session, NpCondition condition, void *argument)
{
	if (!np_session_is_open(session))
		return false;
	np_connection_receive_all(session->connection);
	return condition(session, argument);
}

/*
 * Wait until the condition holds, sending, receiving, retrying and
 * reconnecting as it takes.
 *
 * False: for timeout_ms no message has come to its end, or the limit is
 * reached.  Interrupts as in np_wait.
 */
bool
np_session_wait(NpSession *session, NpWaitEvent event, NpCondition condition, void *argument, int timeout_ms, NpTime limit)
{
	Wait		wait = {
		.session = session,
		.timeout = NP_MILLISECONDS(timeout_ms),
		.limit = limit,
		/* a limit is how long the caller wants to look, not how long a server may be silent */
		.silence_timeout = NP_MILLISECONDS(limit == NP_FOREVER ? timeout_ms : np_ack_timeout),
		.begun = np_now()
	};
	bool		holds;

	wait.last_progress = wait.begun;
	(void) np_delivery_has_progressed(session);
	for (;;)
	{
		update_deadline(&wait);
		do_what_is_due(&wait);
		if (np_session_is_open(session))
			np_connection_send(session->connection);
		holds = condition(session, argument) || (wait.now >= wait.deadline && holds_when_read(session, condition, argument));
		if (holds || wait.now >= wait.deadline)
			break;
		sleep_until_due(&wait, event);
	}
	np_session_show_rest();
	return holds;
}

/* How long waits go on without progress, ms; 0: as in a call. */
void
np_session_set_timeout(int ms)
{
	wait_timeout = ms;
}

/* How long a wait of the present call goes on without progress, ms. */
int
np_session_timeout(void)
{
	return wait_timeout > 0 ? wait_timeout : np_ack_timeout;
}

/*
 * Has the server answered "not now" to the last copy that it will see, or "not
 * here" and nobody else anything in time?  What is unsent still goes out while
 * the connection is open.
 */
static bool
was_put_off(const NpSession *session, const NpPending *message)
{
	bool		is_open = np_connection_is_open(session->connection);
	bool		is_unsent = !is_open && message->position >= np_connection_sent_before_loss(session->connection);

	if (message->refused)
		return is_open && np_now() >= message->retry_at;
	return message->cause != NULL && (message->retry_at != 0 || is_unsent);
}

/* Why a message that was waited for in vain has failed; palloc'd. */
NpFailure
np_session_explain(const NpSession *session, const NpPending *message)
{
	NpFailure	failure;

	if (was_put_off(session, message))
		return *message->cause;
	if (np_connection_is_open(session->connection))
	{
		failure = message->mode == NP_REQUEST ?
			np_failure(NP_FAULT_UNANSWERED, "no answer within %d ms", np_session_timeout()) :
			np_failure(NP_FAULT_UNKNOWN, "no acknowledgment arrived within %d ms", np_session_timeout());
		if (message->token < session->strange_until)
			failure.detail = psprintf("The server said meanwhile: %s", session->strange_denial);
		return failure;
	}
	if (message->mode == NP_REQUEST)
		failure = np_failure(NP_FAULT_UNANSWERED, "the connection was lost before an answer arrived (%s)",
							 np_connection_loss(session->connection));
	else if (message->position < np_connection_sent_before_loss(session->connection))
		failure = np_failure(NP_FAULT_UNKNOWN, "the connection was lost before an acknowledgment arrived (%s)",
							 np_connection_loss(session->connection));
	else
		failure = np_failure(NP_FAULT_LOST, "the connection was lost before the message was sent (%s)",
							 np_connection_loss(session->connection));
	failure.detail = last_failure(session);
	return failure;
}

/* Give up the messages that nobody waits for and that were published before. */
void
np_session_expire_uncritical(NpSession *session, NpTime before)
{
	NpPending  *message;
	uint64		next = 0;

	if (session->window.uncritical == 0)
		return;
	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		if (message->mode == NP_UNCRITICAL && message->published_at <= before)
			np_delivery_fail(session, message, np_session_explain(session, message));
	}
}

/* And those that have waited for ack_timeout, and still do when the socket is read. */
void
np_session_expire_overdue(NpSession *session)
{
	NpTime		overdue = np_now() - NP_MILLISECONDS(np_ack_timeout);

	if (oldest_pending(session) > overdue)
		return;
	if (np_session_is_open(session))
		np_connection_receive_all(session->connection);
	np_session_expire_uncritical(session, overdue);
}

/* For who publishes without waiting: what the server could not take yet is sent again when it is time. */
void
np_session_send_due(NpSession *session, NpTime now)
{
	if (now < session->next_retry || !np_session_is_open(session))
		return;
	/* it may have been answered since */
	np_connection_receive(session->connection);
	if (!np_session_is_open(session))
		return;
	np_delivery_send_due(session, now);
	np_connection_send(session->connection);
}

/*
 * For who publishes without waiting: has the server taken what was published,
 * and said nothing of it for long?  The connection is lost then, and made
 * again for the next message, with what is pending.
 */
void
np_session_watch(NpSession *session, NpTime now)
{
	NpTime		timeout = NP_MILLISECONDS(np_session_timeout());
	NpTime		since = oldest_pending(session);

	if (np_session_is_open(session) && since != NP_FOREVER &&
		now >= np_connection_next_doubt(session->connection, since, timeout))
		np_connection_doubt(session->connection, since, timeout);
}

/* ---- A connection to publish on ------------------------------------------- */

/*
 * How long a round of attempts may take, ms.  What nobody waits for does not
 * hold up its caller for longer than one server may take.
 */
static int
round_timeout(bool critical)
{
	return critical ? Max(np_session_timeout(), np_connect_timeout) : np_connect_timeout;
}

/* How long it takes at most to find out whether the server is there, ms. */
static int
check_timeout(bool critical)
{
	return critical ? np_session_timeout() : Min(np_session_timeout(), np_connect_timeout);
}

/*
 * Is it to be looked at before it is used?  Also with messages pending, whose
 * acknowledgments nobody need have read since.  Who sends one message after
 * the other sees the end as he does so.
 */
static bool
is_unseen(const NpSession *session, NpTime now)
{
	return session->window.count == 0 || now - session->last_sent > SEEN_FOR;
}

/* See whether a connection is still one. */
void
np_session_check(NpSession *session, bool critical)
{
	if (np_session_is_open(session))
		np_connection_check(session->connection, NP_MILLISECONDS(check_timeout(critical)));
}

/*
 * Have a connection to the session's server.
 *
 * One that was closed while nobody looked (an idle session does not answer
 * the server's PINGs), or that leads nowhere any more, is made again unseen.
 * One that was lost within a transaction whose commit depends on messages is
 * given as much time as they are.
 *
 * False: *failure says why not (palloc'd).
 */
bool
np_session_ready(NpSession *session, bool critical, NpFailure *failure)
{
	NpTime		now = np_now();

	if (is_unseen(session, now))
		np_session_check(session, critical);
	if (np_session_is_open(session))
	{
		if (session != shown)
			show_server(session);
		return true;
	}
	if (!critical && np_now() < session->uncritical_pause_until)
	{
		*failure = np_failure(NP_FAULT_UNREACHABLE, "NATS could not be reached a moment ago");
		failure->detail = last_failure(session);
		return false;
	}
	if (!critical || !np_futures_are_critical() || np_connection_loss(session->connection)[0] == '\0')
		return try_connect(session, now + NP_MILLISECONDS(round_timeout(critical)), failure);
	if (np_session_wait(session, NP_WAIT_CONNECT, np_session_is_connected, NULL, np_session_timeout(), NP_FOREVER))
		return true;
	*failure = np_failure(NP_FAULT_LOST, "the connection was lost and could not be made again");
	failure->detail = last_failure(session);
	return false;
}

/* Another try is put off as any other after a failure. */
static void
sleep_until_next_connect(const NpSession *session, NpTime deadline)
{
	show(NP_ACTIVITY_CONNECTING);
	np_sleep(NP_WAIT_CONNECT, Min(deadline, session->next_connect));
	np_session_show_rest();
}

/*
 * Have a connection to a server whose version is known, in the time of a wait
 * of the present call, or of a round of attempts if nobody waits for it.
 * False: *failure says why there is none (palloc'd): the first reason, if one
 * did not tell it and no other is there.
 */
static bool
know_version(NpSession *session, bool critical, NpFailure *failure)
{
	NpTime		deadline = np_now() + NP_MILLISECONDS(critical ? np_session_timeout() : round_timeout(critical));
	NpFailure	unknown = {NP_FAULT_NONE};

	do
	{
		if (np_session_is_open(session) && np_connection_version(session->connection)->is_known)
			return true;
		if (!np_session_ready(session, critical, failure))
		{
			if (unknown.text != NULL)
				*failure = unknown;
			return false;
		}
		if (learn_version(session, &unknown))
			return true;
		sleep_until_next_connect(session, deadline);
	} while (np_now() < deadline);
	pause_uncritical(session, &unknown);
	*failure = unknown;
	return false;
}

/* The same; raises why there is none. */
void
np_session_know_version(NpSession *session)
{
	NpFailure	failure;

	if (!know_version(session, true, &failure))
		np_raise(&failure);
}

/* The same; does the server know a feature? */
bool
np_session_knows(NpSession *session, NpFeature feature)
{
	np_session_know_version(session);
	return newest_known(session->connection) >= feature;
}

/*
 * Have a connection to a server that knows a feature, for a message that needs
 * it.  False: *failure says why there is no connection (palloc'd).  Raises 0A000
 * when the server is too old, which is the message's own fault.
 */
bool
np_session_try_require(NpSession *session, NpFeature feature, bool critical, NpFailure *failure)
{
	const NpFeatureOrigin *origin = np_feature_origin(feature);

	if (feature == NP_FEATURE_NONE)
		return true;
	if (!know_version(session, critical, failure))
		return false;
	np_server_require(session->connection, origin->major, origin->minor, origin->name, origin->hint);
	return true;
}

/* The same; raises also why there is no connection. */
void
np_session_require(NpSession *session, NpFeature feature)
{
	NpFailure	failure;

	if (!np_session_try_require(session, feature, true, &failure))
		np_raise(&failure);
}
