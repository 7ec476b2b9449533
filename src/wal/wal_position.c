/*-------------------------------------------------------------------------
 *
 * wal_position.c
 *	  Up to which transaction all messages have come to their end.
 *
 * Transactions come in the order of their commits, and their messages end in
 * any order.  What the slot confirms is the end of the last transaction before
 * which none has anything left; when none has, all that was read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "wal/wal_position.h"

static dlist_head transactions = DLIST_STATIC_INIT(transactions);
static XLogRecPtr done;			/* the end of the last one of which nothing is left */

static NpWalTransaction *
last_one(void)
{
	return dlist_is_empty(&transactions) ? NULL : dlist_tail_element(NpWalTransaction, node, &transactions);
}

/* The transaction of this commit, the last one of all; it can have been begun before, when it was decoded for the first time. */
NpWalTransaction *
np_position_begin(TransactionId xid, XLogRecPtr commit_lsn, XLogRecPtr end_lsn)
{
	NpWalTransaction *transaction = last_one();

	if (transaction != NULL && transaction->commit_lsn == commit_lsn)
		return transaction;
	transaction = MemoryContextAllocZero(TopMemoryContext, sizeof(*transaction));
	transaction->xid = xid;
	transaction->commit_lsn = commit_lsn;
	transaction->end_lsn = end_lsn;
	dlist_push_tail(&transactions, &transaction->node);
	return transaction;
}

/* It has one more message. */
void
np_position_add(NpWalTransaction *transaction)
{
	transaction->left++;
}

static void
advance(void)
{
	while (!dlist_is_empty(&transactions))
	{
		NpWalTransaction *first = dlist_head_element(NpWalTransaction, node, &transactions);

		if (!first->is_complete || first->left > 0)
			break;
		done = first->end_lsn;
		dlist_delete(&first->node);
		pfree(first);
	}
}

/* The transaction of this commit, if it has any messages left, has no more of them. */
void
np_position_complete(XLogRecPtr commit_lsn)
{
	NpWalTransaction *transaction = last_one();

	if (transaction == NULL || transaction->commit_lsn != commit_lsn)
		return;
	transaction->is_complete = true;
	advance();
}

/*
 * Decoding begins at a position.  A transaction that ended before is not decoded
 * again, as when somebody has advanced the slot: there is no more of it.
 */
void
np_position_begin_at(XLogRecPtr position)
{
	NpWalTransaction *transaction = last_one();

	if (transaction == NULL || transaction->commit_lsn >= position)
		return;
	transaction->is_complete = true;
	advance();
}

/* A message of it is stored, or in nats_outbox. */
void
np_position_end_message(NpWalTransaction *transaction)
{
	transaction->left--;
	advance();
}

/* The first one of which something is left, or NULL. */
const NpWalTransaction *
np_position_oldest(void)
{
	return dlist_is_empty(&transactions) ? NULL : dlist_head_element(NpWalTransaction, node, &transactions);
}

/* What can be confirmed, of what was read; 0: nothing new. */
XLogRecPtr
np_position_of(XLogRecPtr read)
{
	return dlist_is_empty(&transactions) ? read : done;
}
