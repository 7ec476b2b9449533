/*-------------------------------------------------------------------------
 *
 * session.h
 *	  The session's connection: having one, and waiting on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SESSION_H
#define NP_SESSION_H

#include "connection.h"
#include "window.h"

extern NpConnection *np_session_begin(void);
extern bool np_session_ready(bool critical, NpFailure *failure);
extern void np_session_set_committing(bool now);
extern int	np_session_patience(void);
extern bool np_session_wait(bool (*condition) (void), int timeout_ms, NpTime limit);
extern NpFailure np_session_explain(const NpPending *message);

#endif							/* NP_SESSION_H */
