/*-------------------------------------------------------------------------
 *
 * settled.c
 *	  Up to which number no row of a table can appear any more.
 *
 * A sequence gives numbers in order, but rows appear when their transactions
 * commit.  Who inserts holds a ROW EXCLUSIVE lock on the table from before the
 * row takes its number until the transaction's end; so when all who hold one
 * now have ended, every number that was given before now is settled: its row
 * can be seen, or will never be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#include "relay/settled.h"

static Oid	table_of_all;		/* that the rest is about; InvalidOid: none yet */
static int64 settled;			/* what is known */
static int64 next;				/* what is, when all of these have ended */
static VirtualTransactionId *writers;
static int	writer_count;

static bool
is_among(VirtualTransactionId writer, const VirtualTransactionId *list, int count)
{
	for (int i = 0; i < count; i++)
		if (VirtualTransactionIdEquals(writer, list[i]))
			return true;
	return false;
}

static bool
have_ended(const VirtualTransactionId *present, int count)
{
	for (int i = 0; i < writer_count; i++)
		if (is_among(writers[i], present, count))
			return false;
	return true;
}

static void
remember(const VirtualTransactionId *present, int count)
{
	if (writers != NULL)
		pfree(writers);
	writers = MemoryContextAlloc(TopMemoryContext, sizeof(VirtualTransactionId) * Max(count, 1));
	memcpy(writers, present, sizeof(VirtualTransactionId) * count);
	writer_count = count;
}

/*
 * Up to which number whoever takes a snapshot after this call sees all rows
 * of the table that there will ever be.  last_given: the last one that the
 * sequence had given before the call.  To be called again and again: what is
 * known grows as transactions end.
 *
 * Prepared transactions hold their locks, and a VACUUM counts as a writer
 * (lock.c GetLockConflicts: all that a SHARE lock would wait for, but us).
 */
int64
np_settled(Oid table, int64 last_given)
{
	LOCKTAG		tag;
	VirtualTransactionId *present;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	present = GetLockConflicts(&tag, ShareLock, &count);
	if (table != table_of_all || last_given < next)
	{
		/* another table, or its sequence was set back */
		settled = next = 0;
		writer_count = 0;
		table_of_all = table;
	}
	if (have_ended(present, count))
	{
		settled = count == 0 ? last_given : next;
		next = last_given;
		remember(present, count);
	}
	pfree(present);
	return settled;
}
