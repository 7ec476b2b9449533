/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  libnats: an attempt to connect, in a helper thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ATTEMPT_H
#define NP_ATTEMPT_H

#include "libnats/wire.h"

typedef struct NpWireAttempt NpWireAttempt; /* a connection that is being made */

extern NpWireAttempt *np_wire_start(const NpWireTarget *target, char *error, size_t error_size);
extern int	np_wire_attempt_fd(const NpWireAttempt *attempt);
extern NpWireStatus np_wire_finish(NpWireAttempt *attempt, NpWire **wire,
								   char *error, size_t error_size);
extern void np_wire_abandon(NpWireAttempt *attempt);

#endif							/* NP_ATTEMPT_H */
