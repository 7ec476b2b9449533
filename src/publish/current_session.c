/*-------------------------------------------------------------------------
 *
 * current_session.c
 *	  Which session a call uses.
 *
 * A call uses the session of the settings, or that of the foreign server
 * nats_publish.server and the current role; inside a SECURITY DEFINER
 * function that is its owner.  Which one that is, is looked up again when
 * something may have changed: a setting, the role, or the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/report.h"
#include "base/settings.h"
#include "ledger/queue.h"
#include "publish/current_session.h"
#include "publish/session.h"
#include "publish/sessions.h"
#include "wire/foreign_server.h"

/* What the last call used, and what for. */
static NpSession *current;		/* NULL: look it up */
static Oid	current_role;
static uint64 current_generation;

/* Close a connection that nothing is pending on; what nobody waits for any more has been read by the server then. */
static void
close_idle(NpSession *session)
{
	if (np_session_is_open(session))
		(void) np_connection_drain(session->connection, np_now() + NP_MILLISECONDS(np_session_timeout()) / 4);
	np_connection_close(session->connection);
}

/* What is left of the one that it was, which has nothing pending. */
static void
reset_identity(NpSession *session)
{
	close_idle(session);
	np_connection_reset_servers(session->connection);
	np_server_wipe(&session->server);
	session->next_connect = session->connect_delay = session->uncritical_pause_until = 0;
	session->connect_failure[0] = '\0';
}

static bool
is_of_foreign_server(const NpSession *session)
{
	return session->server_id != InvalidOid;
}

/* Does nothing wait for it? */
static bool
is_idle(NpSession *session)
{
	NpQueueSummary held = np_queue_summary();

	if (np_queue_holds_for(&held, session->number))
		return false;
	if (session->window.count > 0 && np_session_is_open(session))
		np_connection_receive_all(session->connection);
	np_session_expire_overdue(session);
	return session->window.count == 0;
}

/* Will no call use it any more? */
static bool
is_left(const NpSession *session)
{
	return session->is_retired || (is_of_foreign_server(session) && !np_foreign_server_exists(session->server_id));
}

/*
 * Close the connections that were left; returns one that is to be used again,
 * or NULL.  Any other one stays left, for who it was is who another is now.
 */
static NpSession *
close_left(void)
{
	NpSession  *closed = NULL;
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		if (!is_left(session) || !is_idle(session))
			continue;
		reset_identity(session);
		closed = session;
	}
	return closed;
}

/* At the end of a transaction: what was left and has come to its end needs no connection any more. */
void
np_current_session_close_left(void)
{
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
		if (session->is_retired && session->window.count == 0 && np_session_is_open(session))
			close_idle(session);
}

/* Another one, when there can be no more.  Raises 54000. */
static NpSession *
acquire_idle(void)
{
	NpFailure	failure;
	NpSession  *session;

	for (int i = 0; (session = np_sessions_get(i)) != NULL; i++)
	{
		if (!is_of_foreign_server(session) || !is_idle(session))
			continue;
		reset_identity(session);
		return session;
	}
	failure = np_failure(NP_FAULT_SIZE, "this session publishes over %d connections at once already", NP_MAX_SESSIONS);
	np_raise(&failure);
}

static NpSession *
make(Oid server_id, Oid role)
{
	NpSession  *unused = close_left();
	NpSession  *session = unused != NULL ? unused : np_sessions_add();

	if (session == NULL)
		session = acquire_idle();
	session->server_id = server_id;
	session->role = role;
	session->is_retired = false;
	return session;
}

/*
 * The session of a foreign server and role that connects to this.  If it has
 * connected to something else before, what it has pending or is held for it
 * stays there: it ends by itself, and another one takes its place.
 */
static NpSession *
find_or_make(Oid server_id, Oid role, const NpServer *server)
{
	NpSession  *session = np_sessions_find(server_id, role);

	if (session != NULL && np_server_equal(&session->server, server))
		return session;
	if (session != NULL && is_idle(session))
		reset_identity(session);
	else
	{
		if (session != NULL)
			session->is_retired = true;
		session = make(server_id, role);
	}
	np_server_copy(&session->server, server, TopMemoryContext);
	return session;
}

static NpSession *
look_up(Oid role)
{
	NpServer	server = {{0}};
	Oid			server_id = InvalidOid;

	if (OidIsValid(role))
		server_id = np_foreign_server_find(np_server_setting, role, &server);
	else
		np_settings_server(&server);
	return find_or_make(server_id, role, &server);
}

/*
 * The session that a call uses here and now.
 *
 * Raises 42704 for a foreign server that does not exist, 42809 for one of
 * another wrapper, 42501 for one that the role may not use.  Outside a
 * transaction only when it was called inside one before.
 */
NpSession *
np_current_session(void)
{
	Oid			role = np_server_setting[0] == '\0' ? InvalidOid : GetUserId();

	if (current != NULL && role == current_role && np_server_generation == current_generation)
		return current;
	current = NULL;
	current_generation = np_server_generation;
	current_role = role;
	current = look_up(role);
	return current;
}
