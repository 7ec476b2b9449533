/*-------------------------------------------------------------------------
 *
 * wal_position.h
 *	  Up to which transaction all messages have come to their end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_POSITION_H
#define NP_WAL_POSITION_H

#include "access/xlogdefs.h"
#include "lib/ilist.h"

/* A transaction that has messages. */
typedef struct NpWalTransaction
{
	dlist_node	node;			/* in the order of their commits */
	XLogRecPtr	commit_lsn;		/* of its commit record ... */
	XLogRecPtr	end_lsn;		/* ... and where that ends */
	TransactionId xid;
	bool		is_seen;		/* others see what it has done (wal_visible.c) ... */
	bool		was_awaited;	/* ... and have been waited for */
	bool		is_complete;	/* all of its messages are known */
	int64		left;			/* of these, that have not come to their end */
} NpWalTransaction;

extern NpWalTransaction *np_position_begin(TransactionId xid, XLogRecPtr commit_lsn, XLogRecPtr end_lsn);
extern void np_position_begin_at(XLogRecPtr position);
extern void np_position_add(NpWalTransaction *transaction);
extern void np_position_complete(XLogRecPtr commit_lsn);
extern void np_position_end_message(NpWalTransaction *transaction);
extern const NpWalTransaction *np_position_oldest(void);
extern XLogRecPtr np_position_of(XLogRecPtr read);

#endif							/* NP_WAL_POSITION_H */
