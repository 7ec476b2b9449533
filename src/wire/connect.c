/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  Opening a connection.
 *
 * Server by server, until one takes us; libnats/connect_attempt.c makes the connection,
 * and then the inbox is subscribed to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "libnats/connect_attempt.h"
#include "stats/activity.h"
#include "stats/stats.h"
#include "wire/connect.h"
#include "wire/connection_internal.h"
#include "wire/login.h"

/* How much longer than its own timeout the library gets to report it itself. */
#define LIBRARY_SLACK_MS	100

/* Wait for an attempt; on an interrupt, give it up and go on with the error. */
static bool
wait_for_attempt(NpConnectAttempt *attempt, NpTime deadline)
{
	NpWaitSet  *volatile set = NULL;
	volatile bool ended = false;

	PG_TRY();
	{
		set = np_wait_set_create(np_connect_attempt_fd(attempt));
		while (!ended && np_now() < deadline)
			ended = (np_wait(set, NP_WAIT_CONNECT, NP_READABLE, deadline) & NP_READABLE) != 0;
	}
	PG_CATCH();
	{
		if (set != NULL)
			np_wait_set_free(set);
		np_connect_attempt_abandon(attempt);
		PG_RE_THROW();
	}
	PG_END_TRY();
	np_wait_set_free(set);
	return ended;
}

/*
 * Make the connection in the library.  On failure the reason is in error.
 */
static NpWireStatus
connect_wire(NpConnection *connection, const NpServer *server, const NpPoolServer *picked,
			 NpTime deadline, char *error, size_t error_size)
{
	NpWireTarget *target = palloc0(sizeof(NpWireTarget));
	NpConnectAttempt *attempt = NULL;
	NpWireStatus failure = NP_WIRE_NO_LOGIN;

	if (np_login_fill(target, server, picked, error, error_size))
	{
		failure = NP_WIRE_FAILED;
		attempt = np_connect_attempt_start(target, error, error_size);
	}
	explicit_bzero(target, sizeof(*target));
	pfree(target);
	if (attempt == NULL)
		return failure;
	if (wait_for_attempt(attempt, deadline + NP_MILLISECONDS(LIBRARY_SLACK_MS)))
		return np_connect_attempt_finish(attempt, &connection->wire, error, error_size);
	np_connect_attempt_abandon(attempt);
	snprintf(error, error_size, "no answer in time");
	return NP_WIRE_NO_SERVER;
}

/*
 * Subscribe to the inbox and see that the server is with us.  The connection
 * is closed when it is not.
 */
static bool
subscribe(NpConnection *connection, const NpServer *server, NpTime deadline)
{
	const char *prefix = server->values[NP_SERVER_INBOX_PREFIX];
	char		command[128];

	snprintf(connection->inbox, sizeof(connection->inbox), "%s.%s.",
			 prefix != NULL ? prefix : NP_DEFAULT_INBOX_PREFIX, connection->secret);
	snprintf(command, sizeof(command), "SUB %s* 1\r\n", connection->inbox);
	np_connection_append(connection, command);
	if (!np_connection_ping(connection, NP_WAIT_CONNECT, deadline))
		return false;
	if (strncmp(connection->server_error, "Permissions Violation for Subscription", 38) == 0)
	{
		np_connection_lose(connection, "may not subscribe to the inbox");
		return false;
	}
	return true;
}

/* What the library has read of the server's first INFO; with TLS it is hearsay, but where that came first. */
static void
take_greeting(NpConnection *connection, bool begins_with_tls)
{
	const char *name = np_wire_server_name(connection->wire);

	connection->begins_with_tls = begins_with_tls;
	connection->is_hearsay = np_wire_tls(connection->wire) != NULL && !begins_with_tls;
	connection->max_payload = np_wire_max_payload(connection->wire);
	np_utf8_copy(connection->server_name, sizeof(connection->server_name), (NpSpan) {name, strlen(name)});
	connection->version.is_known = false;
	np_server_pool_discover(&connection->pool, connection->wire, begins_with_tls);
}

/* Everything that needs the new wire; closes it when it throws or fails. */
static bool
set_up(NpConnection *connection, const NpServer *server, NpTime deadline)
{
	volatile bool ready = false;

	PG_TRY();
	{
		connection->owns_external_fd = AcquireExternalFD();
		if (connection->owns_external_fd)
		{
			connection->wait_set = np_wait_set_create(np_wire_socket(connection->wire));
			np_connection_limit_silence(connection);
			take_greeting(connection, np_server_is_on(server, NP_SERVER_TLS_HANDSHAKE_FIRST));
			ready = subscribe(connection, server, deadline);
		}
		else
			np_connection_lose(connection, "too many open files in this backend");
	}
	PG_CATCH();
	{
		np_connection_close(connection);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return ready;
}

/* What kind of failure it was. */
static NpFault
classify(const NpConnection *connection, NpWireStatus status)
{
	switch (status)
	{
		case NP_WIRE_NOT_AUTHORIZED:
			return NP_FAULT_NOT_AUTHORIZED;
		case NP_WIRE_NOT_SUPPORTED:
			return NP_FAULT_FEATURE;
		case NP_WIRE_OK:
			if (strstr(connection->loss, "Permissions Violation") != NULL)
				return NP_FAULT_NOT_PERMITTED;
			return NP_FAULT_UNREACHABLE;
		default:
			return NP_FAULT_UNREACHABLE;
	}
}

/* For np_connection_tries. */
static void
record_try(NpConnection *connection, NpWireStatus status, const char *reason)
{
	MemoryContext previous = MemoryContextSwitchTo(connection->context);
	size_t		size = strlen(reason) + 1;
	NpConnectionTry *tried = palloc(offsetof(NpConnectionTry, reason) + size);

	strlcpy(tried->url, connection->url, sizeof(tried->url));
	tried->status = status;
	memcpy(tried->reason, reason, size);
	connection->tries = lappend(connection->tries, tried);
	MemoryContextSwitchTo(previous);
}

static void
free_tries(NpConnection *connection)
{
	list_free_deep(connection->tries);
	connection->tries = NIL;
}

/*
 * Try one server.
 *
 * On failure its reason is added to detail, and *fault says what kind, if it
 * is more than that it can't be reached.
 */
static bool
open_server(NpConnection *connection, const NpServer *server, const NpPoolServer *picked,
			NpTime deadline, NpFault *fault, StringInfo detail)
{
	NpWireStatus status;
	NpFault		kind;
	char		error[256] = "";
	char		loss[sizeof(connection->loss)];
	char	   *reason;
	NpTime		limit = Min(np_now() + NP_MILLISECONDS(np_connect_timeout), deadline);

	np_pool_server_name(picked, connection->url, sizeof(connection->url));
	connection->login = np_login_kind(server, &picked->url);
	strlcpy(loss, connection->loss, sizeof(loss));
	/* whatever was appended while closed: its owner appends it again */
	np_outbound_clear(&connection->outbound);
	connection->server_error[0] = '\0';
	status = connect_wire(connection, server, picked, limit, error, sizeof(error));
	if (status == NP_WIRE_OK && set_up(connection, server, limit))
	{
		connection->established = true;
		connection->loss[0] = '\0';
		return true;
	}
	if (status == NP_WIRE_OK)
		strlcpy(error, connection->loss, sizeof(error));
	kind = classify(connection, status);
	/* what went wrong on the connection that was in use is not what goes wrong without it */
	strlcpy(connection->loss, loss, sizeof(connection->loss));
	if (kind != NP_FAULT_UNREACHABLE)
		*fault = kind;
	reason = np_string_from_utf8(error);
	record_try(connection, status, reason);
	appendStringInfo(detail, "%s%s: %s.", detail->len > 0 ? "\n" : "", connection->url, reason);
	return false;
}

static void
log_connected(const NpConnection *connection)
{
	/* only what ends an interruption is worth a line of the log */
	int			elevel = connection->was_lost ? np_connection_log_level : DEBUG1;

	ereport(elevel,
			(errmsg(connection->was_lost ? "nats_publish is connected again, to %s" :
					"nats_publish is connected to %s", connection->url)));
}

static void
record_open(NpConnection *connection)
{
	NpStats    *stats = np_stats_of(np_stats_mode);

	stats->connects++;
	if (connection->was_lost)
		stats->reconnects++;
	log_connected(connection);
	connection->was_lost = false;
}

/*
 * Connect to the first server that answers, beginning behind the one that was
 * lost last.  Each gets connect_timeout, but nothing goes on beyond the
 * deadline.
 *
 * False: *failure says which servers were tried and what each said (palloc'd).
 * Interrupts as in np_wait.
 */
bool
np_connection_open(NpConnection *connection, const NpServer *server, NpTime deadline, NpFailure *failure)
{
	NpFault		fault = NP_FAULT_UNREACHABLE;
	NpPoolServer picked;
	StringInfoData detail;

	initStringInfo(&detail);
	free_tries(connection);
	np_activity_set_state(NP_ACTIVITY_CONNECTING);
	np_server_pool_begin(&connection->pool, server);
	while (np_now() < deadline && np_server_pool_next(&connection->pool, &picked))
	{
		if (open_server(connection, server, &picked, deadline, &fault, &detail))
		{
			np_server_pool_accept(&connection->pool);
			free_tries(connection);
			connection->connected_at = GetCurrentTimestamp();
			record_open(connection);
			pfree(detail.data);
			return true;
		}
	}
	np_activity_set_state(NP_ACTIVITY_DISCONNECTED);
	elog(DEBUG1, "nats_publish could not connect: %s", detail.data);
	*failure = np_failure(fault, "could not connect to NATS");
	failure->detail = detail.data;
	if (fault == NP_FAULT_NOT_PERMITTED)
		failure->hint = "Set nats_publish.inbox_prefix, or the option inbox_prefix of the foreign server, to a subject that the NATS user may subscribe to.";
	else if (fault == NP_FAULT_FEATURE)
		failure->hint = "Use a newer libnats, or switch the option off.";
	return false;
}
