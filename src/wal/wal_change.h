/*-------------------------------------------------------------------------
 *
 * wal_change.h
 *	  Messages of the changes that are decoded from the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_CHANGE_H
#define NP_WAL_CHANGE_H

#include "replication/reorderbuffer.h"
#include "utils/rel.h"

#include "message/message.h"

/* A transaction that is being decoded, which has committed. */
typedef struct NpDecodedTransaction
{
	uint64		xid;			/* with its epoch */
	XLogRecPtr	commit_lsn;		/* of its commit record ... */
	XLogRecPtr	end_lsn;		/* ... and where that ends */
	TimestampTz commit_time;
	uint16		origin;			/* 0: it was not replicated from elsewhere */
	uint64		number;			/* of the change, message or end that is decoded, whatever becomes of it: the
								 * same when it is decoded again */
	int64		messages;		/* that were taken so far */
	struct NpDecodedChanges *changes;	/* wal_change.c's; NULL when decoding begins */
} NpDecodedTransaction;

/* Why there is no message that could be sent. */
typedef struct NpWalError
{
	char		sqlstate[6];
	const char *text;			/* in the database's encoding */
} NpWalError;

/*
 * Take a copy of a message.  Its place is among those that what is decoded
 * (transaction->number) can become: the same when it is decoded again, however
 * many there are of it then.  With an error (else NULL) it is one that can't be
 * sent, and is buried with that; its subject and headers are as far as known.
 */
typedef void (*NpWalTake) (void *argument, int place, const NpMessage *message, const NpWalError *error);

extern void np_wal_change_init(void);
extern void np_wal_change(NpDecodedTransaction *transaction, Relation relation, ReorderBufferChange *change,
						  NpWalTake take, void *argument);
extern void np_wal_truncate(NpDecodedTransaction *transaction, int count, Relation *relations,
							ReorderBufferChange *change, NpWalTake take, void *argument);
extern void np_wal_change_annotate(NpDecodedTransaction *transaction, const char *text, size_t length);
extern void np_wal_change_end(NpDecodedTransaction *transaction, NpWalTake take, void *argument);

#endif							/* NP_WAL_CHANGE_H */
