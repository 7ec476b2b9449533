/*-------------------------------------------------------------------------
 *
 * connect.h
 *	  Opening a connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CONNECT_H
#define NP_CONNECT_H

#include "wire/connection.h"

extern bool np_connection_open(NpConnection *connection, const NpServer *server, NpTime deadline,
							   NpFailure *failure);

#endif							/* NP_CONNECT_H */
