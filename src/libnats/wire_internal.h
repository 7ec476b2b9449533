/*-------------------------------------------------------------------------
 *
 * wire_internal.h
 *	  The inside of a connection that libnats has made, for the files that make it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WIRE_INTERNAL_H
#define NP_WIRE_INTERNAL_H

#include <nats/nats.h>

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
	char		server_name[128];	/* its id if the library does not report it */
	char	   *client_ip;		/* from the library's malloc; NULL: not known */
};

extern bool np_wire_take_over(NpWire *wire, char *error, size_t error_size);
extern void np_wire_disconnect(NpWire *wire);
extern void np_wire_block_signals(sigset_t *previous);
extern void np_wire_restore_signals(const sigset_t *previous);

#endif							/* NP_WIRE_INTERNAL_H */
