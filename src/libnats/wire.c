/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  libnats: a connection that has been made.
 *
 * Signals: PostgreSQL's handlers must not run on a foreign thread, and the
 * library takes EINTR for a lost connection.  All signals are blocked around
 * every call that creates a thread or does I/O; threads inherit that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "libnats/wire_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void
np_wire_block_signals(sigset_t *previous)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, previous);
}

void
np_wire_restore_signals(const sigset_t *previous)
{
	pthread_sigmask(SIG_SETMASK, previous, NULL);
}

/* Close a connection that the library has made; the wire is without one then. */
void
np_wire_disconnect(NpWire *wire)
{
	shutdown(wire->socket, SHUT_RDWR);
	for (int i = 0; i < 100000 && !wire->detached; i++)
		natsConnection_ProcessReadEvent(wire->nc);
	natsConnection_Destroy(wire->nc);
	if (wire->detached)
		np_compat_detached(wire->nc);
	wire->nc = NULL;
	wire->tls = NULL;
	wire->detached = false;
}

/* Make a connection ready for use.  False: it can't be used, and is closed. */
bool
np_wire_take_over(NpWire *wire, char *error, size_t error_size)
{
	natsConnection_GetConnectedServerId(wire->nc, wire->server_id, sizeof(wire->server_id));
	np_compat_server_name(wire->nc, wire->server_name, sizeof(wire->server_name));
	if (natsConnection_GetClientIP(wire->nc, &wire->client_ip) != NATS_OK)
		wire->client_ip = NULL;
	if (wire->tls != NULL)
		np_tls_take_over(wire->tls);
	if (natsConnection_HasHeaderSupport(wire->nc) == NATS_OK)
		return true;
	np_wire_close(wire);
	snprintf(error, error_size, "the server does not support headers");
	return false;
}

int
np_wire_socket(const NpWire *wire)
{
	return wire->socket;
}

int64_t
np_wire_max_payload(const NpWire *wire)
{
	return natsConnection_GetMaxPayload(wire->nc);
}

const char *
np_wire_server_id(const NpWire *wire)
{
	return wire->server_id;
}

/* As it is called, as far as that is known: else its id. */
const char *
np_wire_server_name(const NpWire *wire)
{
	return wire->server_name;
}

/* As the server sees it; NULL: not known. */
const char *
np_wire_client_ip(const NpWire *wire)
{
	return wire->client_ip;
}

uint64_t
np_wire_client_id(const NpWire *wire)
{
	uint64_t	id = 0;

	natsConnection_GetClientID(wire->nc, &id);
	return id;
}

/* Its TLS, which goes with it; NULL: there is none. */
NpTls *
np_wire_tls(const NpWire *wire)
{
	return wire->tls;
}

/* As recv; never blocks. */
ssize_t
np_wire_receive(NpWire *wire, char *buffer, size_t length)
{
	if (wire->tls != NULL)
		return np_tls_read(wire->tls, buffer, length);
	return recv(wire->socket, buffer, length, 0);
}

/* As sendmsg, of the first bytes of the vectors; never blocks. */
ssize_t
np_wire_send(NpWire *wire, struct iovec *vectors, int count)
{
	struct msghdr message = {.msg_iov = vectors,.msg_iovlen = count};

	if (wire->tls != NULL)
		return np_tls_write(wire->tls, vectors[0].iov_base, vectors[0].iov_len);
	return sendmsg(wire->socket, &message, MSG_NOSIGNAL);
}

/* Can something be received although the socket is not readable? */
bool
np_wire_has_pending(const NpWire *wire)
{
	return wire->tls != NULL && np_tls_has_pending(wire->tls);
}

/*
 * The addresses of other servers of the cluster, as host:port; returns how
 * many.  To be freed by np_wire_free_discovered.
 */
int
np_wire_discovered(const NpWire *wire, char ***servers)
{
	int			count = 0;

	*servers = NULL;
	if (natsConnection_GetDiscoveredServers(wire->nc, servers, &count) != NATS_OK)
		return 0;
	return count;
}

void
np_wire_free_discovered(char **servers, int count)
{
	for (int i = 0; i < count; i++)
		free(servers[i]);
	free(servers);
}

/*
 * Close a connection and free it.  Never blocks: what the server has not been
 * sent, or the kernel not transmitted, is lost (the library sets SO_LINGER 0).
 *
 * natsConnection_Destroy alone would wait 500 ms for a PONG.  A connection
 * that has seen the end of its socket is closed already, and does not.
 */
void
np_wire_close(NpWire *wire)
{
	sigset_t	previous;

	np_wire_block_signals(&previous);
	np_wire_disconnect(wire);
	np_wire_restore_signals(&previous);
	free(wire->client_ip);
	free(wire);
}

const char *
np_wire_library_version(void)
{
	return nats_GetVersion();
}
