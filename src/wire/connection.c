/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  A backend's connection to NATS.
 *
 * connect.c opens the connection, this file moves the bytes on it and takes the
 * server's operations apart.  Sending and receiving never block and never
 * throw by themselves; they find out that the connection is lost, and then it
 * is closed, which np_connection_is_open says.  Only np_connection_wait and
 * what calls it wait, with np_wait's interrupts.
 *
 * All replies arrive on one subscription to <inbox_prefix>.<random>.*, the
 * same over reconnects, so that a message can be sent again as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "base/encoding.h"
#include "stats/activity.h"
#include "stats/stats.h"
#include "wire/connection_internal.h"

#define INPUT_SIZE			(64 * 1024)
#define INPUT_KEPT_SIZE		(1024 * 1024)	/* a larger buffer is freed */
#define READS_AT_A_TIME		16
#define TIME_TO_THE_END		NP_MILLISECONDS(100)	/* where that is asked for: a hostile server never ends */
#define VECTORS_AT_A_TIME	16

/* For what becomes of connections; a relay's are in the log. */
int			np_connection_log_level = DEBUG1;

void
np_connection_log_to(int elevel)
{
	np_connection_log_level = elevel;
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
	uint8		random[NP_SECRET_LENGTH];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	for (int i = 0; i < NP_SECRET_LENGTH; i++)
		connection->secret[i] = alphabet[random[i] % 62];
	connection->context = context;
	connection->events = events;
	connection->owner = owner;
	np_server_pool_init(&connection->pool, context);
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
	if (connection->in_use)
	{
		connection->sent_before_loss = connection->outbound.sent;
		connection->lost_for_size = false;
	}
	connection->established = connection->in_use = false;
	np_outbound_clear(&connection->outbound);
	connection->input_start = connection->input_end = 0;
	connection->input_needed = 0;
	connection->receiving = false;
	connection->pongs_awaited = 0;
	connection->asked_at = 0;
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
log_loss(const NpConnection *connection)
{
	char	   *loss;

	if (!message_level_is_interesting(np_connection_log_level))
		return;
	loss = np_connection_loss(connection);
	ereport(np_connection_log_level,
			(errmsg("nats_publish lost its connection to %s: %s", connection->url, loss)));
	pfree(loss);
}

/* Can the last -ERR be why?  A server goes on after one about what the NATS user may not do. */
static bool
error_ends_it(const NpConnection *connection)
{
	bool		is_permission = strncmp(connection->server_error, "Permissions Violation", 21) == 0;

	return connection->server_error[0] != '\0' && !(connection->in_use && is_permission);
}

/*
 * It can't be used any more: close, and keep the reason.
 */
void
np_connection_lose(NpConnection *connection, const char *reason)
{
	bool		was_established = connection->established;
	bool		is_for_size = connection->in_use && strncmp(connection->server_error, "Maximum Payload", 15) == 0;

	if (error_ends_it(connection))
		snprintf(connection->loss, sizeof(connection->loss), "%s; the server said: %s",
				 reason, connection->server_error);
	else
		strlcpy(connection->loss, reason, sizeof(connection->loss));
	np_stats_of(np_stats_mode)->connections_lost++;
	np_connection_close(connection);
	connection->lost_for_size |= is_for_size;
	if (was_established)
	{
		connection->was_lost = true;
		log_loss(connection);
	}
}

/*
 * What its owner had pending is appended again.  Before, the end of the
 * connection says nothing about it: what counts is that of the one before.
 */
void
np_connection_begin_use(NpConnection *connection)
{
	connection->in_use = true;
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

/* Why the connection is not open any more, palloc'd; empty when it never was. */
char *
np_connection_loss(const NpConnection *connection)
{
	return np_string_from_utf8(connection->loss);
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
 * when the last connection that was in use ended.
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
		{
			np_outbound_offer(outbound, np_wire_offered(connection->wire));
			return;
		}
		else if (errno != EINTR)
		{
			/* acks and the server's reason can still be there to be read */
			snprintf(connection->send_error, sizeof(connection->send_error),
					 "could not send: %m");
			return;
		}
	}
}

/* A command of ours; it goes out with np_connection_send. */
void
np_connection_append(NpConnection *connection, const char *command)
{
	size_t		length = strlen(command);

	memcpy(np_outbound_append(&connection->outbound, length, NULL), command, length);
}

/*
 * Ask something whose answer comes as the reply to NP_QUESTION_TOKEN; lost with
 * the connection.
 */
void
np_connection_ask(NpConnection *connection, const char *subject)
{
	char		command[256];
	char		token[NP_TOKEN_LENGTH];

	snprintf(command, sizeof(command), "PUB %s %s%.*s 0\r\n\r\n", subject, connection->inbox,
			 (int) np_token_encode(NP_QUESTION_TOKEN, token), token);
	np_connection_append(connection, command);
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
	np_connection_append(connection, "PONG\r\n");
	connection->last_pong = connection->outbound.appended;
}

/* The server has been reloaded, or announces others; since 2.12 one comes to each new connection. */
static void
handle_info(NpConnection *connection, NpSpan info)
{
	NpServerVersion *version = &connection->version;
	NpSpan		name = np_info_server_name(info);

	if (np_info_max_payload(info, &connection->max_payload))
		connection->is_hearsay = false;
	version->is_known |= np_info_version(info, &version->major, &version->minor);
	np_server_pool_rediscover(&connection->pool, info, np_wire_tls(connection->wire) != NULL);
	if (name.data != NULL)
		np_connection_set_server_name(connection, name);
}

static void
handle_operation(NpConnection *connection, const NpOperation *operation)
{
	if (operation->kind != NP_OP_PING && operation->kind != NP_OP_INFO)
		connection->answered_at = connection->received_at;
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
			np_utf8_copy(connection->server_error, sizeof(connection->server_error), np_utf8_mend(operation->text));
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

/* What reading once has come to. */
typedef enum Read
{
	READ_NOTHING,				/* there is nothing, or no connection any more */
	READ_LESS,					/* than there was room for: nothing else can have arrived but the end */
	READ_MORE					/* there may be more */
} Read;

static Read
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
		if (connection->input_needed > 0)
			connection->answered_at = connection->received_at;	/* a part of an answer */
		if ((size_t) count == room || (connection->wire != NULL && np_wire_has_pending(connection->wire)))
			return READ_MORE;
		return READ_LESS;
	}
	if (count < 0 && errno == EINTR)
		return READ_MORE;
	if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return READ_NOTHING;
	if (count == 0)
		strlcpy(reason, "the server closed the connection", sizeof(reason));
	else
		snprintf(reason, sizeof(reason), "could not receive: %m");
	np_connection_lose(connection, reason);
	return READ_NOTHING;
}

/* Read and handle what arrives, while reading comes to that. */
static void
receive_while(NpConnection *connection, Read least)
{
	Read		last = READ_MORE;
	NpTime		until = least == READ_LESS ? np_now() + TIME_TO_THE_END : 0;

	connection->receiving = true;
	parse_input(connection);	/* a handler may have thrown the last time */
	for (int i = 0; last >= least && (i < READS_AT_A_TIME || np_now() < until) && connection->wire != NULL; i++)
		last = receive_once(connection);
	connection->receiving = false;
	if (last < least && connection->wire != NULL && connection->send_error[0] != '\0')
		np_connection_lose(connection, connection->send_error);
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
	receive_while(connection, READ_MORE);
}

/*
 * The same, and find the end of the connection behind it, for which one
 * more look is needed: before something is sent on a connection that was not
 * looked at for a while, and before anything is called unanswered.
 */
void
np_connection_receive_all(NpConnection *connection)
{
	receive_while(connection, READ_LESS);
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
	/* there may be no wait, time after time */
	CHECK_FOR_INTERRUPTS();
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
 * False: it does not answer in time, and the connection is lost.
 */
bool
np_connection_ping(NpConnection *connection, NpWaitEvent event, NpTime until)
{
	uint64		position;

	np_connection_append(connection, "PING\r\n");
	position = connection->outbound.appended;
	connection->pongs_awaited++;
	while (connection->wire != NULL && connection->pongs_awaited > 0 && np_now() < until)
		np_connection_wait(connection, event, until);
	if (connection->wire != NULL && connection->pongs_awaited > 0)
		np_connection_receive_all(connection);
	if (connection->wire != NULL && connection->pongs_awaited > 0)
		np_connection_lose(connection, NP_NO_ANSWER);
	if (connection->wire == NULL)
		return false;
	np_connection_confirm(connection, position);
	return true;
}

/*
 * Before closing: check that the server has read everything, for what it has
 * not is lost then.  False: that could not be seen in time.
 */
bool
np_connection_drain(NpConnection *connection, NpTime until)
{
	elog(DEBUG1, "nats_publish drains its connection to %s", connection->url);
	return connection->confirmed >= connection->outbound.appended ||
		np_connection_ping(connection, NP_WAIT_ACK, until);
}

/* The next np_connection_open is for other servers, of which nothing is known and none was lost. */
void
np_connection_reset_servers(NpConnection *connection)
{
	connection->loss[0] = connection->server_error[0] = '\0';
	connection->was_lost = connection->lost_for_size = false;
	np_server_pool_reset(&connection->pool);
}

/* ---- What is known of an open connection -------------------------------- */

NpSpan
np_connection_inbox(const NpConnection *connection)
{
	return (NpSpan) {connection->inbox, strlen(connection->inbox)};
}

/* The largest message, with its headers, that the server takes; one that says none, such as -1, has no limit. */
int64
np_connection_max_payload(const NpConnection *connection)
{
	return connection->max_payload > 0 ? connection->max_payload : PG_INT32_MAX;
}

void
np_connection_set_max_payload(NpConnection *connection, int64 bytes)
{
	connection->max_payload = bytes;
}

/* In UTF-8. */
void
np_connection_set_server_name(NpConnection *connection, NpSpan name)
{
	np_utf8_copy(connection->server_name, sizeof(connection->server_name), name);
	np_activity_set_server(connection->url, connection->server_name);
}

/* What the server has said, or server_info.c found out; reset when the connection is opened. */
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

/*
 * Is what is known of the server, its limits and its version, from before TLS,
 * where anybody in the network can have said it?
 */
bool
np_connection_is_hearsay(const NpConnection *connection)
{
	return connection->is_hearsay;
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
			.max_payload = np_connection_max_payload(connection),
			.connected_at = connection->connected_at
	};
}
