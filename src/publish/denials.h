/*-------------------------------------------------------------------------
 *
 * denials.h
 *	  What the NATS user may not publish.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_DENIALS_H
#define NP_DENIALS_H

#include "publish/delivery.h"

extern bool np_denials_are_about(NpSpan text, const char *subject);
extern void np_denials_server_error(NpSession *session, NpSpan text);
extern void np_denials_reply(NpSession *session, NpPending *message);
extern void np_denials_fail(NpSession *session, NpSpan subject);

#endif							/* NP_DENIALS_H */
