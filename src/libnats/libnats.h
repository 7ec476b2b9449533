/*-------------------------------------------------------------------------
 *
 * libnats.h
 *	  What the files that call libnats share, and nobody else includes:
 *	  attempt.c has the helper thread, handshake.c what that does, wire.c the
 *	  connection that comes of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LIBNATS_H
#define NP_LIBNATS_H

#include <nats/nats.h>

#include <netdb.h>
#include <signal.h>

#include "base/compat.h"
#include "libnats/wire.h"

struct NpWire
{
	natsConnection *nc;
	natsSock	socket;
	bool		detached;		/* the library has let go of the socket */
	NpTls	   *tls;			/* the library's; NULL: no TLS */
	char		server_id[128];
	char		server_name[128];	/* its id with a library that does not tell */
	char	   *client_ip;		/* from the library's malloc; NULL: not told */
};

/* What a handshake goes by, and what comes of it.  The helper thread's until that has ended. */
typedef struct NpHandshake
{
	NpWireAttempt *attempt;		/* whose it is */
	NpWireTarget target;
	NpWire	   *wire;			/* connected when it has succeeded */
	char		error[256];		/* why it has not */
	bool		lost_signature; /* the library could not send it */
} NpHandshake;

extern NpWireStatus np_handshake(NpHandshake *handshake, const struct addrinfo *address);
extern long np_attempt_ms_left(NpWireAttempt *attempt);

extern bool np_wire_take_over(NpWire *wire, char *error, size_t error_size);
extern void np_wire_disconnect(NpWire *wire);
extern void np_wire_block_signals(sigset_t *previous);
extern void np_wire_restore_signals(const sigset_t *previous);

#endif							/* NP_LIBNATS_H */
