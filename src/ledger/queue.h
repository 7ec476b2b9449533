/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  The messages that a transaction holds until it commits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_QUEUE_H
#define NP_QUEUE_H

#include "message/message.h"

/* What is held, as far as it has to be known before anything is sent. */
typedef struct NpQueueSummary
{
	int64		count;
	size_t		largest;		/* headers and payload of the largest, bytes */
	NpFeature	needs;			/* the newest of what any of them needs */
	uint64		sessions;		/* bits: the numbers of those they are to go out on */
} NpQueueSummary;

/* A moment, to which a rollback goes back. */
typedef struct NpQueueMark
{
	uint64		length;			/* of the log */
	NpQueueSummary summary;		/* what was in it */
} NpQueueMark;

extern void np_queue_add(const NpMessage *message, int session);
extern NpQueueSummary np_queue_summary(void);
extern void np_queue_rewind(void);
extern bool np_queue_next(NpMessage *message);
extern bool np_queue_holds_for(const NpQueueSummary *held, int session);
extern bool np_queue_only_session(const NpQueueSummary *held, int *session);
extern NpQueueMark np_queue_mark(void);
extern void np_queue_cut(const NpQueueMark *mark);
extern void np_queue_close(void);
extern void np_queue_reset(void);

#endif							/* NP_QUEUE_H */
