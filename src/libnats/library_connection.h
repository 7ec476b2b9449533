/*-------------------------------------------------------------------------
 *
 * library_connection.h
 *	  libnats: a connection for as long as it is the library's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LIBRARY_CONNECTION_H
#define NP_LIBRARY_CONNECTION_H

#include <nats/nats.h>

#include "libnats/wire.h"

typedef struct NpLibraryConnection
{
	natsConnection *nc;
	natsSock	socket;			/* once it is connected */
	bool		detached;		/* the library has let go of the socket */
	NpTls	   *tls;			/* NULL: none */
} NpLibraryConnection;

extern natsStatus np_library_connection_set_up(NpLibraryConnection *connection, natsOptions *options);
extern void np_library_connection_close(NpLibraryConnection *connection);
extern NpWire *np_library_connection_take_over(NpLibraryConnection *connection, char *error, size_t error_size);

#endif							/* NP_LIBRARY_CONNECTION_H */
