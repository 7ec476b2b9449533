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

/* What a wait is for: does it hold?  It only looks. */
typedef bool (*NpCondition) (NpSession *session, void *argument);

extern bool np_session_is_connected(NpSession *session, void *unused);
extern bool np_session_is_idle(NpSession *session, void *unused);
extern void np_session_know_version(NpSession *session);
extern bool np_session_knows(NpSession *session, NpFeature feature);
extern bool np_session_try_require(NpSession *session, NpFeature feature, bool critical, NpFailure *failure);
extern void np_session_require(NpSession *session, NpFeature feature);
extern void np_session_check(NpSession *session, bool critical);
extern bool np_session_ready(NpSession *session, bool critical, NpFailure *failure);
extern void np_session_show_rest(void);
extern bool np_session_is_open(NpSession *session);
extern void np_session_set_timeout(int ms);
extern int	np_session_timeout(void);
extern bool np_session_wait(NpSession *session, NpWaitEvent event, NpCondition condition, void *argument,
							int timeout_ms, NpTime limit);
extern NpFailure np_session_explain(const NpSession *session, const NpPending *message);
extern void np_session_expire_uncritical(NpSession *session, NpTime before);
extern void np_session_expire_overdue(NpSession *session);
extern void np_session_send_due(NpSession *session, NpTime now);
extern void np_session_watch(NpSession *session, NpTime now);

#endif							/* NP_SESSION_H */
