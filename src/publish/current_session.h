/*-------------------------------------------------------------------------
 *
 * current_session.h
 *	  Which session a call uses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CURRENT_SESSION_H
#define NP_CURRENT_SESSION_H

#include "publish/delivery.h"

extern NpSession *np_current_session(void);
extern void np_current_session_close_left(void);

#endif							/* NP_CURRENT_SESSION_H */
