/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  libnats: a connection that has been made, and is ours.
 *
 *-------------------------------------------------------------------------
 */
#include "libnats/wire_internal.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Without a socket as yet; the caller's to np_wire_close.  NULL: out of memory. */
NpWire *
np_wire_create(void)
{
	NpWire	   *wire = calloc(1, sizeof(*wire));

	if (wire != NULL)
		wire->socket = -1;
	return wire;
}

int
np_wire_socket(const NpWire *wire)
{
	return wire->socket;
}

int64_t
np_wire_max_payload(const NpWire *wire)
{
	return wire->max_payload;
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
	return wire->client_id;
}

/* The addresses of other servers of the cluster, as host:port; returns how many. */
int
np_wire_discovered(const NpWire *wire, char ***servers)
{
	*servers = wire->discovered;
	return wire->discovered_count;
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

/* The same bytes until they are taken, whatever stands behind them by then. */
static ssize_t
send_record(NpWire *wire, const struct iovec *vector)
{
	size_t		longest = wire->offered > 0 ? wire->offered : NP_TLS_RECORD_SIZE;
	size_t		length = vector->iov_len < longest ? vector->iov_len : longest;
	ssize_t		written = np_tls_write(wire->tls, vector->iov_base, length);

	wire->offered = written < 0 ? length : 0;
	return written;
}

/*
 * As sendmsg, of the first bytes of the vectors; never blocks.  The first of
 * those that were not taken may have been offered, np_wire_offered: they must
 * be the first of the next call too, in one vector.
 */
ssize_t
np_wire_send(NpWire *wire, struct iovec *vectors, int count)
{
	struct msghdr message = {.msg_iov = vectors,.msg_iovlen = count};

	if (wire->tls != NULL)
		return send_record(wire, &vectors[0]);
	return sendmsg(wire->socket, &message, MSG_NOSIGNAL);
}

/* Of the bytes behind those that were sent, how many will leave as they are, if anything does any more. */
size_t
np_wire_offered(const NpWire *wire)
{
	return wire->offered;
}

/* Can something be received although the socket is not readable? */
bool
np_wire_has_pending(const NpWire *wire)
{
	return wire->tls != NULL && np_tls_has_pending(wire->tls);
}

/*
 * Close a connection and free it.  Never blocks: what the server has not been
 * sent, or the kernel not transmitted, is lost (the library has set SO_LINGER
 * to 0).
 */
void
np_wire_close(NpWire *wire)
{
	if (wire->tls != NULL)
		np_tls_free(wire->tls);
	if (wire->socket >= 0)
		close(wire->socket);
	for (int i = 0; i < wire->discovered_count; i++)
		free(wire->discovered[i]);
	free(wire->discovered);
	free(wire->client_ip);
	free(wire);
}
