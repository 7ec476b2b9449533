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

extern NpTime np_jetstream_when_to_look(const NpSession *session);
extern void np_jetstream_look_on(NpSession *session, NpTime deadline);
extern void np_jetstream_look(NpSession *session);

#endif							/* NP_JETSTREAM_H */
