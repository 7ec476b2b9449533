/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  A backend's connection to NATS.
 *
 * attempt.c makes the connection, this file moves the bytes on it and takes the
 * server's operations apart.  Sending and receiving never block and never
 * throw by themselves; they find out that the connection is lost, and then it
 * is closed, which np_connection_is_open tells.  Only opening and waiting
 * wait, with np_wait's interrupts.
 *
 * All replies arrive on one subscription to <inbox_prefix>.<random>.*, the
 * same over reconnects, so that a message can be sent again as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "libnats/attempt.h"
#include "libnats/wire.h"
#include "stats/activity.h"
#include "stats/stats.h"
#include "wire/candidates.h"
#include "wire/connection.h"
#include "wire/login.h"

#define INPUT_SIZE			(64 * 1024)
#define INPUT_KEPT_SIZE		(1024 * 1024)	/* a larger buffer is given back */
#define READS_AT_A_TIME		16
#define VECTORS_AT_A_TIME	16

/* How much longer than its own timeout the library gets to report it itself. */
#define LIBRARY_SLACK_MS	100

#define SECRET_LENGTH		12

struct NpConnection
{
	MemoryContext context;
	const NpConnectionEvents *events;
	void	   *owner;			/* their argument */

	NpWire	   *wire;			/* NULL: not open */
	NpWaitSet  *wait_set;		/* on the wire's socket */
	bool		established;	/* subscribed: the owner's messages can go out */
	bool		owns_external_fd;	/* counted by fd.c */
	NpOutbound	outbound;

	char	   *input;
	size_t		input_size;
	size_t		input_start;	/* of what is not parsed yet */
	size_t		input_end;
	size_t		input_needed;	/* bytes that the operation at input_start has at least */
	bool		receiving;		/* or a handler has thrown then, and the rest of input is not handled */

	NpCandidates candidates;	/* where to connect to */
	List	   *tries;			/* NpConnectionTry, of the last np_connection_open if that failed */
	char		url[300];		/* without credentials */
	const char *login;			/* as what it was logged in */
	char		server_name[64];	/* or its id */
	char		inbox[64];		/* with its last dot */
	char		secret[SECRET_LENGTH + 1];	/* so that nobody guesses the inbox */
	int64		max_payload;
	NpServerVersion version;
	bool		begins_with_tls;	/* before the server's first line */
	TimestampTz connected_at;
	int			pongs_awaited;
	NpTime		received_at;	/* when the last bytes were read */
	uint64		last_pong;		/* the end of ours in the outgoing stream */

	uint64		confirmed;		/* the server has read the stream up to here */
	uint64		sent_before_loss;	/* outbound.sent when the connection went */
	bool		was_lost;		/* while it was in use, and not made again yet */
	bool		lost_for_size;	/* the server has ended it for a message over max_payload */
	char		server_error[256];	/* the last -ERR */
	char		send_error[128];	/* the socket takes no more; empty: it does */
	char		loss[384];		/* why the last connection ended */
};

/* For what becomes of connections; a relay's are told of in the log. */
static int	log_level = DEBUG1;

void
np_connection_log_to(int elevel)
{
	log_level = elevel;
}

/*
 * A closed connection object that lives as long as the context.
 */
NpConnection *
np_connection_create(MemoryContext context, const NpConnectionEvents *events, void *owner)
{
	static const char alphabet[] =
	"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	NpConnection *connection = MemoryContextAllocZero(context, sizeof(*connection));
	uint8		random[SECRET_LENGTH];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	for (int i = 0; i < SECRET_LENGTH; i++)
		connection->secret[i] = alphabet[random[i] % 62];
	connection->context = context;
	connection->events = events;
	connection->owner = owner;
	np_candidates_init(&connection->candidates, context);
	np_outbound_init(&connection->outbound, context);
	connection->input = MemoryContextAlloc(context, INPUT_SIZE);
	connection->input_size = INPUT_SIZE;
	return connection;
}

/* ---- Losing and closing ------------------------------------------------ */

/*
 * Close; what is unsent is dropped.  Never throws, never waits.
 */
void
np_connection_close(NpConnection *connection)
{
	if (connection->established)
		connection->sent_before_loss = connection->outbound.sent;
	connection->established = false;
	np_outbound_clear(&connection->outbound);
	connection->input_start = connection->input_end = 0;
	connection->input_needed = 0;
	connection->receiving = false;
	connection->pongs_awaited = 0;
	connection->send_error[0] = '\0';
	if (connection->wait_set != NULL)
		np_wait_set_free(connection->wait_set);
	connection->wait_set = NULL;
	if (connection->wire != NULL)
	{
		np_wire_close(connection->wire);
		np_activity_set_state(NP_ACTIVITY_DISCONNECTED);
	}
	connection->wire = NULL;
	if (connection->owns_external_fd)
		ReleaseExternalFD();
	connection->owns_external_fd = false;
}

/* In a context of its own: losing leaves nothing behind. */
static void
tell_loss(const NpConnection *connection)
{
	char	   *loss;

	if (!message_level_is_interesting(log_level))
		return;
	loss = np_string_from_utf8(connection->loss);
	ereport(log_level,
			(errmsg("nats_publish lost its connection to %s: %s", connection->url, loss)));
	pfree(loss);
}

static void
tell_connected(const NpConnection *connection)
{
	/* only what ends an interruption is worth a line of the log */
	int			elevel = connection->was_lost ? log_level : DEBUG1;

	ereport(elevel,
			(errmsg(connection->was_lost ? "nats_publish is connected again, to %s" :
					"nats_publish is connected to %s", connection->url)));
}

/*
 * It can't be used any more: close, and keep the reason.
 */
void
np_connection_lose(NpConnection *connection, const char *reason)
{
	bool		was_established = connection->established;

	if (connection->server_error[0] != '\0')
		snprintf(connection->loss, sizeof(connection->loss), "%s; the server said: %s",
				 reason, connection->server_error);
	else
		strlcpy(connection->loss, reason, sizeof(connection->loss));
	connection->lost_for_size = strncmp(connection->server_error, "Maximum Payload", 15) == 0;
	np_stats_of(np_stats_mode)->connections_lost++;
	np_connection_close(connection);
	if (was_established)
	{
		connection->was_lost = true;
		tell_loss(connection);
	}
}

bool
np_connection_is_open(const NpConnection *connection)
{
	return connection->wire != NULL;
}

/* Was it open, and is to be made again? */
bool
np_connection_was_lost(const NpConnection *connection)
{
	return connection->was_lost;
}

/* When the bytes that are being handled were read. */
NpTime
np_connection_received_at(const NpConnection *connection)
{
	return connection->received_at;
}

/* Why the connection is not open any more; empty when it never was. */
const char *
np_connection_loss(const NpConnection *connection)
{
	return connection->loss;
}

/* Did the server end the last connection for a message over its max_payload? */
bool
np_connection_was_lost_for_size(const NpConnection *connection)
{
	return connection->lost_for_size;
}

/* The servers (NpConnectionTry) that the last np_connection_open has tried; none, if one of them took us. */
const List *
np_connection_tries(const NpConnection *connection)
{
	return connection->tries;
}

/*
 * The position in the outgoing stream up to which the kernel had taken it
 * when the last connection ended.
 */
uint64
np_connection_sent_before_loss(const NpConnection *connection)
{
	return connection->sent_before_loss;
}

/* ---- Sending ----------------------------------------------------------- */

/* Where commands are appended; they go out with np_connection_send. */
NpOutbound *
np_connection_outbound(NpConnection *connection)
{
	return &connection->outbound;
}

/*
 * Hand to the socket as much as it takes.
 *
 * Never waits, never throws.  An error is left for np_connection_receive to
 * act upon.
 */
void
np_connection_send(NpConnection *connection)
{
	NpOutbound *outbound = &connection->outbound;

	while (connection->wire != NULL && connection->send_error[0] == '\0' &&
		   outbound->sent < outbound->appended)
	{
		struct iovec vectors[VECTORS_AT_A_TIME];
		int			count = np_outbound_peek(outbound, vectors, VECTORS_AT_A_TIME);
		ssize_t		written = np_wire_send(connection->wire, vectors, count);

		if (written >= 0)
			np_outbound_advance(outbound, written);
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno != EINTR)
		{
			/* acks and the server's reason can still be there to be read */
			snprintf(connection->send_error, sizeof(connection->send_error),
					 "could not send: %m");
			return;
		}
	}
}

static void
append_command(NpConnection *connection, const char *command)
{
	size_t		length = strlen(command);

	memcpy(np_outbound_append(&connection->outbound, length, NULL), command, length);
}

/* ---- Receiving --------------------------------------------------------- */

static void
handle_message(NpConnection *connection, const NpOperation *operation)
{
	size_t		prefix = strlen(connection->inbox);
	NpSpan		suffix = operation->subject;
	uint64		token;

	if (suffix.length <= prefix || memcmp(suffix.data, connection->inbox, prefix) != 0)
		return;
	suffix.data += prefix;
	suffix.length -= prefix;
	if (np_token_decode(suffix, &token))
		connection->events->reply(connection->owner, token, operation);
}

/* One unsent PONG is enough for a server that does not read, whatever it sends. */
static void
answer_ping(NpConnection *connection)
{
	if (connection->last_pong > connection->outbound.sent)
		return;
	append_command(connection, "PONG\r\n");
	connection->last_pong = connection->outbound.appended;
}

/* The server has been reloaded, or tells of others. */
static void
handle_info(NpConnection *connection, NpSpan info)
{
	NpSpan		name = np_info_server_name(info);

	(void) np_info_max_payload(info, &connection->max_payload);
	np_candidates_rediscover(&connection->candidates, info);
	if (name.data != NULL)
		np_connection_set_server_name(connection, pnstrdup(name.data, name.length));
}

static void
handle_operation(NpConnection *connection, const NpOperation *operation)
{
	switch (operation->kind)
	{
		case NP_OP_MESSAGE:
			handle_message(connection, operation);
			break;
		case NP_OP_PING:
			answer_ping(connection);
			break;
		case NP_OP_PONG:
			if (connection->pongs_awaited > 0)
				connection->pongs_awaited--;
			break;
		case NP_OP_INFO:
			handle_info(connection, operation->text);
			break;
		case NP_OP_ERROR:
			snprintf(connection->server_error, sizeof(connection->server_error), "%.*s",
					 (int) Min(operation->text.length, sizeof(connection->server_error) - 1),
					 operation->text.data);
			connection->events->server_error(connection->owner, operation->text);
			break;
		case NP_OP_OK:
			break;
	}
}

/* Handle the operations that have arrived completely. */
static void
parse_input(NpConnection *connection)
{
	while (connection->wire != NULL && connection->input_start < connection->input_end)
	{
		NpOperation operation;
		size_t		consumed;

		switch (np_operation_parse(connection->input + connection->input_start,
								   connection->input_end - connection->input_start,
								   &operation, &consumed, &connection->input_needed))
		{
			case NP_PARSED:
				/* first, for a handler may throw */
				connection->input_start += consumed;
				connection->input_needed = 0;
				handle_operation(connection, &operation);
				break;
			case NP_PARSE_INCOMPLETE:
				return;
			case NP_PARSE_TLS:
				np_connection_lose(connection, "the server speaks TLS where NATS was expected");
				return;
			case NP_PARSE_INVALID:
				np_connection_lose(connection, "the server does not speak the NATS protocol");
				return;
		}
	}
}

/* Have room behind what has been read, and for the operation begun there. */
static void
make_input_room(NpConnection *connection)
{
	size_t		unparsed = connection->input_end - connection->input_start;
	size_t		wanted = Max(connection->input_needed, unparsed + 1);

	if (connection->input_start > 0)
		memmove(connection->input, connection->input + connection->input_start, unparsed);
	connection->input_start = 0;
	connection->input_end = unparsed;
	if (wanted > connection->input_size)
	{
		size_t		size = Max(wanted, connection->input_size * 2);

		connection->input = repalloc_huge(connection->input, size);
		connection->input_size = size;
	}
	else if (unparsed == 0 && connection->input_size > INPUT_KEPT_SIZE)
	{
		connection->input = repalloc_huge(connection->input, INPUT_SIZE);
		connection->input_size = INPUT_SIZE;
	}
}

/* Read once.  True: there may be more. */
static bool
receive_once(NpConnection *connection)
{
	char		reason[128];
	size_t		room;
	ssize_t		count;

	make_input_room(connection);
	room = connection->input_size - connection->input_end;
	count = np_wire_receive(connection->wire, connection->input + connection->input_end, room);
	if (count > 0)
	{
		connection->received_at = np_now();
		connection->input_end += count;
		parse_input(connection);
		return (size_t) count == room ||
			(connection->wire != NULL && np_wire_has_pending(connection->wire));
	}
	if (count < 0 && errno == EINTR)
		return true;
	if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (count == 0)
		strlcpy(reason, "the server closed the connection", sizeof(reason));
	else
		snprintf(reason, sizeof(reason), "could not receive: %m");
	np_connection_lose(connection, reason);
	return false;
}

/*
 * Read and handle what has arrived.
 *
 * Never waits; can find the connection lost.  Throws only what the events
 * throw, or when out of memory; what is not handled then is still there.
 */
void
np_connection_receive(NpConnection *connection)
{
	bool		more = true;

	connection->receiving = true;
	parse_input(connection);	/* a handler may have thrown the last time */
	for (int i = 0; more && i < READS_AT_A_TIME && connection->wire != NULL; i++)
		more = receive_once(connection);
	connection->receiving = false;
	if (!more && connection->wire != NULL && connection->send_error[0] != '\0')
		np_connection_lose(connection, connection->send_error);
}

/*
 * Send what is unsent, wait until something arrives (or can be sent), and
 * handle it; at most until the time.  Interrupts as in np_wait.
 */
void
np_connection_wait(NpConnection *connection, NpWaitEvent event, NpTime until)
{
	bool		unsent;

	np_connection_send(connection);
	if (connection->send_error[0] != '\0')
	{
		np_connection_receive(connection);
		return;
	}
	unsent = connection->outbound.sent < connection->outbound.appended;
	if (connection->receiving || np_wire_has_pending(connection->wire) ||
		np_wait(connection->wait_set, event, NP_READABLE | (unsent ? NP_WRITEABLE : 0), until) & NP_READABLE)
		np_connection_receive(connection);
}

/* An answer shows that the server has read the stream up to a position. */
void
np_connection_confirm(NpConnection *connection, uint64 position)
{
	connection->confirmed = Max(connection->confirmed, position);
}

/*
 * A round trip.  True: everything sent before has been seen by the server.
 */
bool
np_connection_ping(NpConnection *connection, NpWaitEvent event, NpTime until)
{
	uint64		position;

	append_command(connection, "PING\r\n");
	position = connection->outbound.appended;
	connection->pongs_awaited++;
	while (connection->wire != NULL && connection->pongs_awaited > 0 && np_now() < until)
		np_connection_wait(connection, event, until);
	if (connection->wire == NULL || connection->pongs_awaited > 0)
		return false;
	np_connection_confirm(connection, position);
	return true;
}

/*
 * Before closing: see that the server has read everything, for what it has
 * not is lost then.  False: that could not be seen in time.
 */
bool
np_connection_drain(NpConnection *connection, NpTime until)
{
	elog(DEBUG1, "nats_publish drains its connection to %s", connection->url);
	return connection->confirmed >= connection->outbound.appended ||
		np_connection_ping(connection, NP_WAIT_ACK, until);
}

/* ---- Opening ----------------------------------------------------------- */

/* Wait for an attempt; on an interrupt, give it up and go on with the error. */
static bool
wait_for_attempt(NpWireAttempt *attempt, NpTime deadline)
{
	NpWaitSet  *volatile set = NULL;
	volatile bool ended = false;

	PG_TRY();
	{
		set = np_wait_set_create(np_wire_attempt_fd(attempt));
		while (!ended && np_now() < deadline)
			ended = (np_wait(set, NP_WAIT_CONNECT, NP_READABLE, deadline) & NP_READABLE) != 0;
	}
	PG_CATCH();
	{
		if (set != NULL)
			np_wait_set_free(set);
		np_wire_abandon(attempt);
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
connect_wire(NpConnection *connection, const NpServer *server, const NpCandidate *candidate,
			 NpTime deadline, char *error, size_t error_size)
{
	NpWireTarget *target = palloc0(sizeof(NpWireTarget));
	NpWireAttempt *attempt = NULL;
	NpWireStatus failure = NP_WIRE_NO_LOGIN;

	if (np_login_fill(target, server, candidate, error, error_size))
	{
		failure = NP_WIRE_FAILED;
		attempt = np_wire_start(target, error, error_size);
	}
	explicit_bzero(target, sizeof(*target));
	pfree(target);
	if (attempt == NULL)
		return failure;
	if (wait_for_attempt(attempt, deadline + NP_MILLISECONDS(LIBRARY_SLACK_MS)))
		return np_wire_finish(attempt, &connection->wire, error, error_size);
	np_wire_abandon(attempt);
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
	append_command(connection, command);
	if (!np_connection_ping(connection, NP_WAIT_CONNECT, deadline))
	{
		if (connection->wire != NULL)
			np_connection_lose(connection, "no answer in time");
		return false;
	}
	if (strncmp(connection->server_error, "Permissions Violation for Subscription", 38) == 0)
	{
		np_connection_lose(connection, "may not subscribe to the inbox");
		return false;
	}
	return true;
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
			connection->max_payload = np_wire_max_payload(connection->wire);
			strlcpy(connection->server_name, np_wire_server_name(connection->wire), sizeof(connection->server_name));
			connection->version.is_known = false;
			np_candidates_discover(&connection->candidates, connection->wire);
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
note_try(NpConnection *connection, NpWireStatus status, const char *reason)
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
forget_tries(NpConnection *connection)
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
open_server(NpConnection *connection, const NpServer *server, const NpCandidate *candidate,
			NpTime deadline, NpFault *fault, StringInfo detail)
{
	NpWireStatus status;
	NpFault		kind;
	char		error[256] = "";
	char	   *reason;
	NpTime		limit = Min(np_now() + NP_MILLISECONDS(np_connect_timeout), deadline);

	np_candidate_name(candidate, connection->url, sizeof(connection->url));
	connection->login = np_login_kind(server, &candidate->url);
	/* whatever was appended while closed: its owner appends it again */
	np_outbound_clear(&connection->outbound);
	connection->server_error[0] = '\0';
	status = connect_wire(connection, server, candidate, limit, error, sizeof(error));
	if (status == NP_WIRE_OK && set_up(connection, server, limit))
	{
		connection->established = true;
		connection->loss[0] = '\0';
		return true;
	}
	if (status == NP_WIRE_OK)
		strlcpy(error, connection->loss, sizeof(error));
	kind = classify(connection, status);
	if (kind != NP_FAULT_UNREACHABLE)
		*fault = kind;
	reason = np_string_from_utf8(error);
	note_try(connection, status, reason);
	appendStringInfo(detail, "%s%s: %s.", detail->len > 0 ? "\n" : "", connection->url, reason);
	return false;
}

static void
note_open(NpConnection *connection)
{
	NpStats    *stats = np_stats_of(np_stats_mode);

	stats->connects++;
	if (connection->was_lost)
		stats->reconnects++;
	tell_connected(connection);
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
	NpCandidate candidate;
	StringInfoData detail;

	initStringInfo(&detail);
	forget_tries(connection);
	np_activity_set_state(NP_ACTIVITY_CONNECTING);
	np_candidates_begin(&connection->candidates, server);
	while (np_now() < deadline && np_candidates_next(&connection->candidates, &candidate))
	{
		if (open_server(connection, server, &candidate, deadline, &fault, &detail))
		{
			connection->begins_with_tls = np_server_is_on(server, NP_SERVER_TLS_HANDSHAKE_FIRST);
			np_candidates_accept(&connection->candidates);
			forget_tries(connection);
			connection->connected_at = GetCurrentTimestamp();
			note_open(connection);
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

/* The next np_connection_open is for other servers. */
void
np_connection_forget_servers(NpConnection *connection)
{
	np_candidates_forget(&connection->candidates);
}

/* ---- What is known of an open connection -------------------------------- */

NpSpan
np_connection_inbox(const NpConnection *connection)
{
	return (NpSpan) {connection->inbox, strlen(connection->inbox)};
}

int64
np_connection_max_payload(const NpConnection *connection)
{
	return connection->max_payload;
}

void
np_connection_set_max_payload(NpConnection *connection, int64 bytes)
{
	connection->max_payload = bytes;
}

/* In UTF-8. */
void
np_connection_set_server_name(NpConnection *connection, const char *name)
{
	np_utf8_copy(connection->server_name, sizeof(connection->server_name), name);
	np_activity_set_server(connection->url, connection->server_name);
}

/* What server_info.c has found out; forgotten when the connection is opened. */
NpServerVersion *
np_connection_version(NpConnection *connection)
{
	return &connection->version;
}

/* The connection must be open. */
NpWire *
np_connection_wire(const NpConnection *connection)
{
	return connection->wire;
}

bool
np_connection_begins_with_tls(const NpConnection *connection)
{
	return connection->begins_with_tls;
}

/* The connection must be open; the texts are its own. */
NpConnectionIdentity
np_connection_identity(const NpConnection *connection)
{
	return (NpConnectionIdentity)
	{
		.url = connection->url,
			.login = connection->login,
			.server_id = np_wire_server_id(connection->wire),
			.server_name = connection->server_name,
			.client_ip = np_wire_client_ip(connection->wire),
			.tls = np_wire_tls(connection->wire) != NULL,
			.client_id = np_wire_client_id(connection->wire),
			.max_payload = connection->max_payload,
			.connected_at = connection->connected_at
	};
}
