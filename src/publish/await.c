/*-------------------------------------------------------------------------
 *
 * await.c
 *	  Waiting for what was published.
 *
 * An interrupt can leave any wait by longjmp.  What it leaves is a message
 * in the window, which the end of the transaction removes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "base/encoding.h"
#include "base/settings.h"
#include "ledger/levels.h"
#include "publish/await.h"
#include "publish/session.h"
#include "publish/sessions.h"

/* Not a failure of theirs. */
#define HINT_PENDING	"You can wait again for what is pending."

/* Is what the call waits for done? */
static bool
is_done(NpSession *session, void *watch)
{
	return ((const NpWatch *) watch)->done;
}

/* The same, of what is not worth another connection. */
static bool
is_done_or_lost(NpSession *session, void *watch)
{
	return is_done(session, watch) || !np_session_is_open(session);
}

/* Wait for what the call has just sent; what is not answered in time has failed. */
void
np_await_watched(NpSession *session, NpWatch *watch, NpTime limit)
{
	NpCondition condition = limit == NP_FOREVER ? is_done : is_done_or_lost;
	NpPending  *pending;

	if (np_session_wait(session, NP_WAIT_ACK, condition, watch, np_ack_timeout, limit) && watch->done)
		return;
	pending = np_window_find(&session->window, watch->token);
	np_delivery_fail(session, pending, np_session_explain(session, pending));
}

/* ---- Futures --------------------------------------------------------------------- */

/* The message of a future in whatever window it is, or NULL. */
static NpPending *
find_pending(uint64 future, NpSession **session)
{
	NpPending  *pending = NULL;

	for (int i = 0; pending == NULL && (*session = np_sessions_get(i)) != NULL; i++)
		pending = np_window_find(&(*session)->window, future);
	return pending;
}

/*
 * Wait for a future; the limit counts, or without one ack_timeout.
 *
 * Raises 22023 for a future that this transaction does not know, 58030 when
 * it is not complete in time; then it is still pending.  A failed future is
 * returned like an acknowledged one; what *result points to lives until the
 * next call.
 */
void
np_await_future(uint64 future, NpTime limit, NpResult *result)
{
	NpSession  *session;
	NpPending  *pending;
	NpWatch    *watch;

	np_delivery_report_failures(WARNING);
	if (!np_levels_contain(future))
		np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
	pending = find_pending(future, &session);
	if (pending == NULL)
	{
		if (!np_futures_find(future, result))
			np_raise_input("future " INT64_FORMAT " is not one of this transaction", (int64) future);
		return;
	}
	watch = np_delivery_watch(future);
	if (!np_session_wait(session, NP_WAIT_ACK, is_done, watch, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
	{
		NpFailure	failure = np_failure(NP_FAULT_UNKNOWN, "no acknowledgment arrived in time");

		failure.hint = HINT_PENDING;
		np_raise_message(&failure, np_from_utf8(np_pending_subject(pending)));
	}
	*result = watch->result;
}

static void
await_session(NpSession *session, NpTime limit)
{
	NpFailure	failure;

	if (session->window.count == 0 ||
		np_session_wait(session, NP_WAIT_ACK, np_session_is_idle, NULL, limit == NP_FOREVER ? np_ack_timeout : INT_MAX, limit))
		return;
	failure = np_failure(NP_FAULT_UNKNOWN, session->window.count == 1 ? "%d message was not acknowledged in time" :
						 "%d messages were not acknowledged in time", session->window.count);
	failure.hint = HINT_PENDING;
	np_raise(&failure);
}

/*
 * Wait until nothing is pending; returns how many messages that was.
 *
 * Raises 58030 when that is not so in time, then the failures of the
 * transaction's critical messages.
 */
int64
np_await_all(NpTime limit)
{
	NpSession  *session;
	int64		count = 0;

	np_delivery_report_failures(WARNING);
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		count += session->window.count;
	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		await_session(session, limit);
	np_futures_raise_failures(0);
	np_delivery_report_failures(WARNING);
	return count;
}

/*
 * Wait until nothing is pending, at most as long as COMMIT would, which then
 * says what has failed or is pending still.
 */
void
np_await_as_commit(void)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		if (session->window.count > 0)
			(void) np_session_wait(session, NP_WAIT_COMMIT, np_session_is_idle, NULL, np_commit_timeout, NP_FOREVER);
}

/*
 * Give up what is overdue, and report failures that nobody waits for: for a call that
 * does neither by publishing or waiting.
 */
void
np_report_unawaited(void)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		np_session_expire_overdue(session);
	np_delivery_report_failures(WARNING);
}

static void
visit_pending(NpSession *session, void (*visit) (const NpResult *result, void *argument), void *argument)
{
	NpPending  *message;
	uint64		next = 0;

	while ((message = np_window_next(&session->window, &next)) != NULL)
	{
		NpResult	result = {
			.token = message->token,
			.critical = message->mode == NP_CRITICAL,
			.subject = np_pending_subject(message),
			.id = np_pending_id(message)
		};

		if (np_levels_contain(message->token))
			visit(&result, argument);
	}
}

/* Call visit for each future of this transaction that is pending, in the order of each session. */
void
np_each_pending_future(void (*visit) (const NpResult *result, void *argument), void *argument)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		visit_pending(session, visit, argument);
}
