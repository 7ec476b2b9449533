/*-------------------------------------------------------------------------
 *
 * session.h
 *	  The session's connection: having one, and waiting on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SESSION_H
#define NP_SESSION_H

#include "publish/delivery.h"

extern bool np_session_ready(NpSession *session, bool critical, NpFailure *failure);
extern void np_session_show_rest(void);
extern bool np_session_is_open(NpSession *session);
extern bool np_session_is_idle(NpSession *session);
extern void np_session_set_patience(int ms);
extern int	np_session_patience(void);
extern bool np_session_wait(NpSession *session, NpWaitEvent event, bool (*condition) (NpSession *session),
							int timeout_ms, NpTime limit);
extern NpFailure np_session_explain(const NpSession *session, const NpPending *message);
extern void np_session_expire_uncritical(NpSession *session, NpTime before);
extern void np_session_expire_overdue(NpSession *session);

#endif							/* NP_SESSION_H */
