/*-------------------------------------------------------------------------
 *
 * sessions.h
 *	  The sessions of this backend, and which of them a call uses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SESSIONS_H
#define NP_SESSIONS_H

#include "publish/delivery.h"

/* Their numbers are bits of NpQueueSummary.sessions. */
#define NP_MAX_SESSIONS		64

extern NpSession *np_sessions_current(void);
extern NpSession *np_sessions_get(int number);

#endif							/* NP_SESSIONS_H */
