/*-------------------------------------------------------------------------
 *
 * outbox_due.h
 *	  What waits in the outbox for its time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_DUE_H
#define NP_OUTBOX_DUE_H

#include "base/wait.h"
#include "relay/outbox_glance.h"
#include "relay/outbox_read.h"

extern void np_due_glance(NpWaiting *waiting);
extern void np_due_put_off(NpTime first);
extern void np_due_from_the_lowest(void);
extern void np_due_walk_again(void);
extern NpTime np_due_read(const NpWaiting *waiting, NpReading *reading, bool *has_more);

#endif							/* NP_OUTBOX_DUE_H */
