/*-------------------------------------------------------------------------
 *
 * wire_internal.h
 *	  The inside of a connection, for the file that makes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WIRE_INTERNAL_H
#define NP_WIRE_INTERNAL_H

#include "libnats/wire.h"

struct NpWire
{
	int			socket;			/* -1: none yet */
	NpTls	   *tls;			/* NULL: no TLS */
	size_t		offered;		/* bytes that a write has not taken, of which a record may have been made */
	char		server_id[128];
	char		server_name[128];	/* its id if the library does not report it */
	char	   *client_ip;		/* from malloc; NULL: not known */
	uint64_t	client_id;
	int64_t		max_payload;
	char	  **discovered;		/* the addresses of other servers of the cluster, each from malloc, as the
								 * list is */
	int			discovered_count;
};

extern NpWire *np_wire_create(void);

#endif							/* NP_WIRE_INTERNAL_H */
