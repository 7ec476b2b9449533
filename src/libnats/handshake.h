/*-------------------------------------------------------------------------
 *
 * handshake.h
 *	  libnats: from an address to a connection with TLS, authenticated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_HANDSHAKE_H
#define NP_HANDSHAKE_H

#include <netdb.h>
#include <pthread.h>

#include "libnats/library_connection.h"

/* What a handshake goes by, and what comes of it.  The helper thread's until that has ended. */
typedef struct NpHandshake
{
	NpWireTarget target;
	long		deadline;		/* of np_handshake_now */
	long		limit;			/* the same of the address that is tried, no later */
	pthread_mutex_t *lock;		/* under which the backend sets: */
	bool		abandoned;		/* nothing new is begun */
	bool		listens;		/* to what the server tells of other ones */
	NpLibraryConnection connection; /* while it is being made */
	NpWire	   *wire;			/* what has come of it; NULL: nothing yet */
	char		error[256];		/* why it has not */
	bool		lost_signature; /* the library could not send it */
} NpHandshake;

extern long np_handshake_now(void);
extern void np_handshake_begin(NpHandshake *handshake);
extern bool np_handshake_share(NpHandshake *handshake, int addresses);
extern NpWireStatus np_handshake(NpHandshake *handshake, const struct addrinfo *address);

#endif							/* NP_HANDSHAKE_H */
