/*-------------------------------------------------------------------------
 *
 * sessions.h
 *	  All sessions of this backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SESSIONS_H
#define NP_SESSIONS_H

#include "publish/delivery.h"

/* Their numbers are bits of NpQueueSummary.sessions. */
#define NP_MAX_SESSIONS		64

extern NpSession *np_sessions_get(int number);
extern NpSession *np_sessions_find(Oid server_id, Oid role);
extern NpSession *np_sessions_add(void);

#endif							/* NP_SESSIONS_H */
