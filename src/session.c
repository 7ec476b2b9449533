/*-------------------------------------------------------------------------
 *
 * session.c
 *	  The session's connection: having one, and waiting on it.
 *
 * Every wait is for progress: it gives up when no message has come to its end
 * for a time, however long the whole takes.  While it lasts, what is due is
 * sent again, and a lost connection is made again with what is pending on it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "delivery.h"
#include "server_info.h"
#include "session.h"
#include "settings.h"

/* After a failed connect, critical => false does not try again for so long. */
#define UNCRITICAL_PAUSE		NP_MILLISECONDS(1000)

static NpConnection *connection;	/* NULL: not used yet */
static MemoryContext scratch_context;	/* reset after each use */
static bool committing;			/* the transaction ends: commit_timeout applies */

static NpTime next_connect;		/* not earlier ... */
static NpTime connect_delay;	/* ... and so long after a failure */
static NpTime uncritical_pause_until;
static char connect_failure[512];	/* what the last attempt said */

/*
 * The connection, made (but not opened) at the first use.
 */
NpConnection *
np_session_begin(void)
{
	if (connection == NULL)
	{
		scratch_context = AllocSetContextCreate(TopMemoryContext, "nats_publish connect",
												ALLOCSET_SMALL_SIZES);
		connection = np_delivery_begin();
	}
	return connection;
}

static bool
is_open(void)
{
	return np_connection_is_open(connection);
}

/* ---- Waiting -------------------------------------------------------------- */

/*
 * Try to connect once; what is pending goes out again.
 *
 * The next time is put off longer and longer, until a message has come to its
 * end: a server can also accept each connection, and end it for what is sent.
 */
static bool
try_connect(NpTime deadline, NpFailure *failure)
{
	bool		opened = np_connection_open(connection, deadline, failure);

	connect_delay = Min(Max(connect_delay * 2, NP_FIRST_DELAY), NP_LAST_DELAY);
	next_connect = np_now() + np_jittered(connect_delay);
	if (opened)
	{
		if (np_delivery_window()->with_ttl > 0 && !np_server_is_at_least(connection, 2, 11))
			np_delivery_fail_with_ttl();
		np_delivery_resend();
		return true;
	}
	strlcpy(connect_failure, failure->detail, sizeof(connect_failure));
	uncritical_pause_until = np_now() + UNCRITICAL_PAUSE;
	return false;
}

/* Connect again if what is pending needs it and it is time. */
static void
keep_connected(NpTime deadline)
{
	MemoryContext previous;
	NpFailure	failure;

	if (is_open() || np_now() < next_connect)
		return;
	previous = MemoryContextSwitchTo(scratch_context);
	(void) try_connect(deadline, &failure);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(scratch_context);
}

/*
 * Wait until the condition holds, sending, receiving, retrying and
 * reconnecting as it takes.
 *
 * False: for timeout_ms no message has come to its end, or the limit is
 * reached.  Interrupts as in np_wait.
 */
bool
np_session_wait(bool (*condition) (void), int timeout_ms, NpTime limit)
{
	NpTime		last_progress = np_now();

	(void) np_delivery_has_progressed();
	for (;;)
	{
		NpTime		now = np_now();
		NpTime		deadline;
		NpTime		next_retry;

		if (np_delivery_has_progressed())
		{
			last_progress = now;
			connect_delay = 0;
		}
		deadline = Min(last_progress + NP_MILLISECONDS(timeout_ms), limit);
		keep_connected(deadline);
		next_retry = np_delivery_send_due(now);
		if (is_open())
			np_connection_send(connection);
		if (condition())
			return true;
		if (now >= deadline)
			return false;
		if (is_open())
			np_connection_wait(connection, Min(deadline, next_retry));
		else
			np_sleep(Min(deadline, next_connect));
	}
}

static bool
window_is_empty(void)
{
	return np_delivery_window()->count == 0;
}

/* The transaction ends, or has ended: which timeout applies. */
void
np_session_set_committing(bool now)
{
	committing = now;
}

/* How long a wait of the present call goes on without progress, ms. */
int
np_session_patience(void)
{
	return committing ? np_commit_timeout : np_ack_timeout;
}

/* Why a message that was waited for in vain has failed; palloc'd. */
NpFailure
np_session_explain(const NpPending *message)
{
	NpFailure	failure;

	if (message->cause != NULL)
		return *message->cause;
	if (message->mode == NP_REQUEST)
	{
		failure = np_failure(NP_FAULT_UNKNOWN, "no answer within %d ms", np_session_patience());
		failure.hint = "";
		return failure;
	}
	if (is_open())
		return np_failure(NP_FAULT_UNKNOWN, "no acknowledgment arrived within %d ms", np_session_patience());
	if (message->position < np_connection_sent_before_loss(connection))
		failure = np_failure(NP_FAULT_UNKNOWN, "the connection was lost before an acknowledgment arrived (%s)",
							 np_connection_loss(connection));
	else
		failure = np_failure(NP_FAULT_LOST, "the connection was lost before the message was sent (%s)",
							 np_connection_loss(connection));
	if (connect_failure[0] != '\0')
		failure.detail = pstrdup(connect_failure);
	return failure;
}

/* ---- A connection to publish on ------------------------------------------- */

/* The settings have changed: finish with the old connection. */
static void
leave_connection(void)
{
	if (np_delivery_window()->count > 0 && !np_session_wait(window_is_empty, np_session_patience(), NP_FOREVER))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNKNOWN,
										 "could not change the NATS connection: %d messages are not acknowledged",
										 np_delivery_window()->count);

		np_raise(&failure);
	}
	(void) np_connection_drain(connection, np_now() + NP_MILLISECONDS(np_session_patience()));
	np_connection_close(connection);
}

/*
 * Have a connection for the settings as they are.
 *
 * One that was closed while nobody looked (an idle session does not answer
 * the server's PINGs) is made again unseen.  One that was lost within a
 * transaction whose commit depends on messages is given as much time as they
 * are.
 *
 * False: *failure says why not (palloc'd).
 */
bool
np_session_ready(bool critical, NpFailure *failure)
{
	(void) np_session_begin();
	if (is_open() && !np_connection_is_for_settings(connection))
		leave_connection();
	if (is_open() && np_delivery_window()->count == 0)
		np_connection_receive(connection);
	if (is_open())
		return true;
	if (!critical && np_now() < uncritical_pause_until)
	{
		*failure = np_failure(NP_FAULT_UNREACHABLE, "NATS could not be reached a moment ago");
		failure->detail = pstrdup(connect_failure);
		return false;
	}
	if (!critical || !np_futures_are_critical())
		return try_connect(NP_FOREVER, failure);
	if (np_session_wait(is_open, np_session_patience(), NP_FOREVER))
		return true;
	*failure = np_failure(NP_FAULT_LOST, "the connection was lost and could not be made again");
	failure->detail = pstrdup(connect_failure);
	return false;
}
