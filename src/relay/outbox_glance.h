/*-------------------------------------------------------------------------
 *
 * outbox_glance.h
 *	  What is asked of the outbox at each look, and for each row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_GLANCE_H
#define NP_OUTBOX_GLANCE_H

#include "datatype/timestamp.h"

/* Where the rows are that others wait for. */
typedef struct NpHolders NpHolders;

/* Of the rows that wait for their time. */
typedef struct NpWaiting
{
	bool		any;			/* of those from the floor on: the first one's time is ... */
	TimestampTz first;
	bool		any_failed;		/* of those that have failed: the last one's time is ... */
	TimestampTz last;
} NpWaiting;

extern bool np_glance_is_paused(void);
extern void np_glance(TimestampTz floor, NpWaiting *waiting);
extern bool np_glance_after(TimestampTz time, TimestampTz *next);
extern NpHolders *np_glance_open_holders(void);
extern bool np_glance_is_held(const NpHolders *holders, Datum subject, int64 id);
extern bool np_glance_earlier(const NpHolders *holders, Datum subject, int64 id, int64 *earlier, char **msg_id);
extern void np_glance_close_holders(NpHolders *holders);

#endif							/* NP_OUTBOX_GLANCE_H */
