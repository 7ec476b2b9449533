/*-------------------------------------------------------------------------
 *
 * library_connection.c
 *	  libnats: a connection for as long as it is the library's.
 *
 * The connection is made in the library's event-loop mode, in which it
 * touches the socket only when asked to: no thread of it reads or writes, and
 * once connected we don't ask it to.  The library has read nothing beyond the
 * PONG that ends its handshake (it reads that line byte by byte, conn.c
 * _readProto), so both sides agree on where the stream starts.
 *
 * Then the socket and the TLS of it are taken over, and the library is left
 * with a socket that nobody is at the other end of.  It closes that, and frees
 * its connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "libnats/library_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/compat.h"
#include "libnats/wire_internal.h"

/* ---- The library's event loop: it only shows us the socket ------------- */

static natsStatus
on_attach(void **user_data, void *loop, natsConnection *nc, natsSock socket)
{
	NpLibraryConnection *connection = loop;

	(void) nc;
	connection->socket = socket;
	/* no program that the backend starts gets it */
	fcntl(socket, F_SETFD, FD_CLOEXEC);
	*user_data = connection;
	return NATS_OK;
}

static natsStatus
on_read(void *user_data, bool add)
{
	NpLibraryConnection *connection = user_data;

	if (!add)
		np_compat_close_socket(&connection->socket);
	return NATS_OK;
}

static natsStatus
on_write(void *user_data, bool add)
{
	(void) user_data;
	(void) add;
	return NATS_OK;
}

static natsStatus
on_detach(void *user_data)
{
	((NpLibraryConnection *) user_data)->detached = true;
	return NATS_OK;
}

/* A connection that is made with the options is this one; it must stay where it is. */
natsStatus
np_library_connection_set_up(NpLibraryConnection *connection, natsOptions *options)
{
	natsStatus	status;

	*connection = (NpLibraryConnection) {0};
	/* no flusher thread and no timer on the connection */
	if ((status = natsOptions_SetSendAsap(options, true)) != NATS_OK ||
		(status = natsOptions_SetPingInterval(options, 0)) != NATS_OK)
		return status;
	return natsOptions_SetEventLoop(options, connection, on_attach, on_read, on_write, on_detach);
}

/* ---- The end ---------------------------------------------------------------- */

/*
 * Close a connection that the library has made.
 *
 * natsConnection_Destroy alone would wait 500 ms for a PONG.  A connection
 * that has seen the end of its socket is closed already, and does not.
 */
void
np_library_connection_close(NpLibraryConnection *connection)
{
	shutdown(connection->socket, SHUT_RDWR);
	for (int i = 0; i < 100000 && !connection->detached; i++)
		natsConnection_ProcessReadEvent(connection->nc);
	natsConnection_Destroy(connection->nc);
	if (connection->detached)
		np_compat_detached(connection->nc);
	*connection = (NpLibraryConnection) {0};
}

/* ---- Taking it over ---------------------------------------------------------- */

/* What the library knows of the server. */
static void
ask(NpLibraryConnection *connection, NpWire *wire)
{
	natsConnection_GetConnectedServerId(connection->nc, wire->server_id, sizeof(wire->server_id));
	np_compat_server_name(connection->nc, wire->server_name, sizeof(wire->server_name));
	natsConnection_GetClientID(connection->nc, &wire->client_id);
	wire->max_payload = natsConnection_GetMaxPayload(connection->nc);
	/* both are from malloc, and ours */
	if (natsConnection_GetClientIP(connection->nc, &wire->client_ip) != NATS_OK)
		wire->client_ip = NULL;
	if (natsConnection_GetDiscoveredServers(connection->nc, &wire->discovered, &wire->discovered_count) != NATS_OK)
		wire->discovered_count = 0;
}

/*
 * Put a socket that nobody is at the other end of in the place of another
 * one.  What the library does with it then does not reach the server.
 */
static bool
put_dead_socket(int place)
{
	int			pair[2];
	bool		put;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return false;
	put = dup3(pair[0], place, O_CLOEXEC) >= 0;
	close(pair[0]);
	close(pair[1]);
	return put;
}

/* Give the wire the socket and the TLS, and close what is left to the library.  False: out of descriptors, or of memory. */
static bool
move(NpLibraryConnection *connection, NpWire *wire)
{
	wire->socket = fcntl(connection->socket, F_DUPFD_CLOEXEC, 0);
	if (wire->socket < 0 || !put_dead_socket(connection->socket))
		return false;
	wire->tls = connection->tls;
	if (wire->tls != NULL)
		np_tls_hold(wire->tls);
	np_library_connection_close(connection);
	return wire->tls == NULL || np_tls_take_over(wire->tls, wire->socket);
}

/*
 * Make a wire of a connection, which is then no longer the library's.  NULL:
 * it can't be used, and is closed; the error says why.
 */
NpWire *
np_library_connection_take_over(NpLibraryConnection *connection, char *error, size_t error_size)
{
	NpWire	   *wire = np_wire_create();

	if (wire != NULL)
		ask(connection, wire);
	if (wire == NULL)
		snprintf(error, error_size, "out of memory");
	else if (natsConnection_HasHeaderSupport(connection->nc) != NATS_OK)
		snprintf(error, error_size, "the server does not support headers");
	else if (!move(connection, wire))
		snprintf(error, error_size, "could not take over the connection: %s", strerror(errno));
	else
		return wire;

	if (connection->nc != NULL)
		np_library_connection_close(connection);
	if (wire != NULL)
		np_wire_close(wire);
	return NULL;
}
