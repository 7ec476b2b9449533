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

static bool
is_done(const NpWalTransaction *transaction)
{
	return transaction->is_complete && transaction->left == 0;
}

static void
forget(NpWalTransaction *transaction)
{
	dlist_delete(&transaction->node);
	pfree(transaction);
}

/* One of which nothing is left, behind one of which nothing is left, is no more than the end of that: something can be left before both for long. */
static void
merge(NpWalTransaction *transaction)
{
	if (dlist_has_next(&transactions, &transaction->node))
	{
		NpWalTransaction *next = dlist_container(NpWalTransaction, node, dlist_next_node(&transactions, &transaction->node));

		if (is_done(next))
		{
			transaction->end_lsn = next->end_lsn;
			forget(next);
		}
	}
	if (dlist_has_prev(&transactions, &transaction->node))
	{
		NpWalTransaction *previous = dlist_container(NpWalTransaction, node, dlist_prev_node(&transactions, &transaction->node));

		if (is_done(previous))
		{
			previous->end_lsn = transaction->end_lsn;
			forget(transaction);
		}
	}
}

/* Nothing may be left of it. */
static void
advance(NpWalTransaction *transaction)
{
	NpWalTransaction *first;

	if (!is_done(transaction))
		return;
	merge(transaction);
	first = dlist_head_element(NpWalTransaction, node, &transactions);
	if (!is_done(first))
		return;
	done = first->end_lsn;
	forget(first);
}

/* The transaction of this commit, if it has any messages left, has no more of them. */
void
np_position_complete(XLogRecPtr commit_lsn)
{
	NpWalTransaction *transaction = last_one();

	if (transaction == NULL || transaction->commit_lsn != commit_lsn)
		return;
	transaction->is_complete = true;
	advance(transaction);
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
	advance(transaction);
}

/* A message of it is stored, or in nats_outbox. */
void
np_position_end_message(NpWalTransaction *transaction)
{
	transaction->left--;
	advance(transaction);
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
