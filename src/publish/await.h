/*-------------------------------------------------------------------------
 *
 * await.h
 *	  Waiting for what was published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_AWAIT_H
#define NP_AWAIT_H

#include "publish/delivery.h"

extern void np_await_watched(NpSession *session, NpWatch *watch, NpTime limit);
extern void np_await_future(uint64 future, NpTime limit, NpResult *result);
extern int64 np_await_all(NpTime limit);
extern void np_await_as_commit(void);
extern void np_report_unawaited(void);
extern void np_each_pending_future(void (*visit) (const NpResult *result, void *argument), void *argument);

#endif							/* NP_AWAIT_H */
