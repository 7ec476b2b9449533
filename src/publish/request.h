/*-------------------------------------------------------------------------
 *
 * request.h
 *	  What a call asks the server: the JetStream API, and whether it answers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_REQUEST_H
#define NP_REQUEST_H

#include "publish/delivery.h"

extern bool np_try_request(NpSession *session, const char *subject, NpSpan payload, NpTime limit,
						   NpSpan *reply, NpFailure *failure);
extern NpSpan np_request(const char *subject, NpSpan payload);
extern NpTime np_round_trip(NpSession *session);

#endif							/* NP_REQUEST_H */
