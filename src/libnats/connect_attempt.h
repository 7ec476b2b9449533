/*-------------------------------------------------------------------------
 *
 * connect_attempt.h
 *	  libnats: an attempt to connect, in a helper thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CONNECT_ATTEMPT_H
#define NP_CONNECT_ATTEMPT_H

#include "libnats/wire.h"

typedef struct NpConnectAttempt NpConnectAttempt;	/* a connection that is being made */

extern NpConnectAttempt *np_connect_attempt_start(const NpWireTarget *target, char *error, size_t error_size);
extern int	np_connect_attempt_fd(const NpConnectAttempt *attempt);
extern NpWireStatus np_connect_attempt_finish(NpConnectAttempt *attempt, NpWire **wire,
											  char *error, size_t error_size);
extern void np_connect_attempt_abandon(NpConnectAttempt *attempt);

#endif							/* NP_CONNECT_ATTEMPT_H */
