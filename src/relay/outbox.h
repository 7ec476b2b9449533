/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The table in which messages wait for the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_H
#define NP_OUTBOX_H

#include "message/message.h"
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

/* What is in the tables, as anybody may be told. */
typedef struct NpOutboxContent
{
	int64		waiting;		/* rows of nats_outbox */
	char	   *oldest;			/* how long the oldest has waited, as an interval; NULL: there is none */
	int64		dead;			/* rows of nats_outbox_dead */
	bool		is_paused;
} NpOutboxContent;

extern NpOutboxContent np_outbox_content(Oid schema);
extern int64 np_outbox_insert(Oid schema, const NpMessage *message);
extern bool np_outbox_row_is_checked(void);

extern int64 np_outbox_settled(void);
extern NpOutboxState np_outbox_read(NpOutboxBatch *batch, int64 after, bool ordered);
extern NpOutboxOutcome np_outbox_settle(const NpOutboxBatch *batch);

#endif							/* NP_OUTBOX_H */
