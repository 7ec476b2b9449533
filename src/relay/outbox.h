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

/* What is in the tables, as anybody may see it. */
typedef struct NpOutboxContent
{
	int64		waiting;		/* rows of nats_outbox */
	char	   *oldest;			/* how long the oldest has waited, as an interval; NULL: there is none */
	int64		dead;			/* rows of nats_outbox_dead */
	bool		is_paused;
} NpOutboxContent;

extern NpOutboxContent np_outbox_content(Oid schema);
extern bool np_outbox_insert(Oid schema, const NpMessage *message, int64 *id);
extern bool np_outbox_row_is_checked(void);

#endif							/* NP_OUTBOX_H */
