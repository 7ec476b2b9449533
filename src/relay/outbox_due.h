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
#include "relay/outbox_read.h"

/* Of the rows that wait for their time. */
typedef struct NpWaiting
{
	bool		any;			/* of those from the floor on: the first one's time is ... */
	TimestampTz first;
	bool		any_failed;		/* of those that have failed: the last one's time is ... */
	TimestampTz last;
} NpWaiting;

extern TimestampTz np_due_floor(void);
extern void np_due_from_the_lowest(void);
extern NpTime np_due_read(const NpWaiting *waiting, NpReading *reading, bool *has_more);

#endif							/* NP_OUTBOX_DUE_H */
