/*-------------------------------------------------------------------------
 *
 * relay_batch.h
 *	  Publishing a batch of rows of the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_BATCH_H
#define NP_RELAY_BATCH_H

#include "message/message.h"
#include "publish/delivery.h"

typedef enum NpRowState
{
	NP_ROW_UNSENT,				/* also what is not known to be stored */
	NP_ROW_SENT,
	NP_ROW_STORED,
	NP_ROW_FAILED
} NpRowState;

typedef struct NpOutboxRow
{
	int64		id;
	int			attempts;		/* before this one */
	NpMessage	message;		/* in the batch's memory */

	NpRowState	state;
	bool		in_doubt;		/* this attempt or an earlier one may have stored it */
	const char *sqlstate;		/* why it failed, or came into doubt ... */
	const char *error;			/* ... in this attempt; NULL: neither */
	bool		is_untaken;		/* no stream takes it, in this attempt */
	bool		is_hopeless;	/* it will not be tried again */
	uint64		token;			/* of one that was sent */
	int			next;			/* of the same subject in the batch; 0: none */
} NpOutboxRow;

typedef struct NpOutboxBatch
{
	MemoryContext context;		/* of the rows and what belongs to them */
	Oid			table;			/* they were read from this ... */
	Oid			file;			/* ... while it was in this file */
	NpSession  *session;		/* on which they go out */
	NpOutboxRow *rows;			/* by their ids */
	int			count;
} NpOutboxBatch;

extern void np_relay_row_refuse(NpOutboxRow *row, const char *sqlstate, const char *error);
extern bool np_relay_connect(NpSession *session, const char **problem);
extern bool np_relay_batch_publish(NpOutboxBatch *batch, bool ordered, void (*meanwhile) (void),
								   const char **problem);

#endif							/* NP_RELAY_BATCH_H */
