/*-------------------------------------------------------------------------
 *
 * jetstream.h
 *	  Why nobody takes a message, or answers a request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_JETSTREAM_H
#define NP_JETSTREAM_H

#include "publish/delivery.h"

/* How long it may take to find that out. */
#define NP_LOOK_TIME	NP_MILLISECONDS(1000)

extern void np_jetstream_look(NpSession *session, NpTime deadline);
extern NpTime np_jetstream_when_to_look(const NpSession *session);

#endif							/* NP_JETSTREAM_H */
