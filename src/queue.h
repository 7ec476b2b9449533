/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  The messages that a transaction holds until it commits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_QUEUE_H
#define NP_QUEUE_H

#include "message.h"

/* What is held, as far as it has to be known before anything is sent. */
typedef struct NpQueueSummary
{
	int64		count;
	size_t		largest;		/* headers and payload of the largest, bytes */
	bool		has_ttl;		/* in any of them */
} NpQueueSummary;

extern void np_queue_add(const NpMessage *message);
extern NpQueueSummary np_queue_summary(void);
extern void np_queue_rewind(void);
extern bool np_queue_next(NpMessage *message);
extern void np_queue_subcommit(int nest_level);
extern void np_queue_subabort(int nest_level);
extern void np_queue_close(void);
extern void np_queue_forget(void);

#endif							/* NP_QUEUE_H */
