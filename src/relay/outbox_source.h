/*-------------------------------------------------------------------------
 *
 * outbox_source.h
 *	  The outbox as the relay sees it: rows to publish, and what became of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_SOURCE_H
#define NP_OUTBOX_SOURCE_H

#include "relay/relay_batch.h"

/* What the relay finds when it looks. */
typedef enum NpOutboxState
{
	NP_OUTBOX_THERE,
	NP_OUTBOX_CHANGED,			/* rows may go now that had to wait when it was read from the first one on */
	NP_OUTBOX_PAUSED,
	NP_OUTBOX_ABSENT			/* there is no extension */
} NpOutboxState;

/* What became of a batch. */
typedef struct NpOutboxOutcome
{
	int64		published;
	int64		failed;			/* and will be tried again */
	int64		dead;
	const char *error;			/* of the first row that failed; NULL: none did */
} NpOutboxOutcome;

extern int64 np_outbox_settled(void);
extern NpOutboxState np_outbox_read(NpOutboxBatch *batch, int64 after, bool ordered);
extern NpOutboxOutcome np_outbox_settle(const NpOutboxBatch *batch);

#endif							/* NP_OUTBOX_SOURCE_H */
