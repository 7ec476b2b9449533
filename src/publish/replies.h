/*-------------------------------------------------------------------------
 *
 * replies.h
 *	  What the server answers to messages and requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_REPLIES_H
#define NP_REPLIES_H

#include "publish/delivery.h"

/* Of a connection whose owner is a session. */
extern const NpConnectionEvents np_reply_events;

#endif							/* NP_REPLIES_H */
