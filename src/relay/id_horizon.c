/*-------------------------------------------------------------------------
 *
 * id_horizon.c
 *	  Up to which number no row of a table can appear any more.
 *
 * A sequence gives numbers in order, but rows appear when their transactions
 * commit.  Who inserts holds a ROW EXCLUSIVE lock on the table from before the
 * row takes its number until the transaction's end; so when all who hold one
 * now have ended, every number that was given before now is below the horizon: its row
 * can be seen, or will never be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#include "relay/id_horizon.h"

StaticAssertDecl(sizeof(VirtualTransactionId) == 2 * sizeof(int32), "VirtualTransactionId has bytes that mean nothing");

static Oid	table_of_all;		/* that the rest is about; InvalidOid: none yet */
static int64 horizon;			/* what is known */
static int64 next;				/* what is, when all of these have ended */

/* Transactions. */
typedef struct Writers
{
	VirtualTransactionId *list;
	int			count;
} Writers;

static Writers awaited;
static Writers last;			/* those of the last call */

/* An order of them, whichever: by their bytes, of which there are no others. */
static int
compare_writers(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(VirtualTransactionId));
}

/* Of these, how many have ended?  present is in order. */
static int
count_ended(const Writers *writers, const VirtualTransactionId *present, int count)
{
	int			ended = 0;

	for (int i = 0; i < writers->count; i++)
		if (bsearch(&writers->list[i], present, count, sizeof(VirtualTransactionId), compare_writers) == NULL)
			ended++;
	return ended;
}

static void
remember(Writers *writers, const VirtualTransactionId *present, int count)
{
	if (writers->list != NULL)
		pfree(writers->list);
	writers->list = MemoryContextAlloc(TopMemoryContext, sizeof(VirtualTransactionId) * Max(count, 1));
	memcpy(writers->list, present, sizeof(VirtualTransactionId) * count);
	writers->count = count;
}

/*
 * Up to which number whoever takes a snapshot after this call sees all rows
 * of the table that there will ever be.  last_given: the last one that the
 * sequence had given before the call.  To be called again and again: what is
 * known grows as transactions end.  *some_ended: a writer of the last call has
 * ended; else no row has appeared since whose number had been given by then.
 *
 * Prepared transactions hold their locks, and a VACUUM counts as a writer
 * (lock.c GetLockConflicts: all that a SHARE lock would wait for, but us).
 */
int64
np_id_horizon(Oid table, int64 last_given, bool *some_ended)
{
	LOCKTAG		tag;
	VirtualTransactionId *present;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	present = GetLockConflicts(&tag, ShareLock, &count);
	qsort(present, count, sizeof(VirtualTransactionId), compare_writers);
	if (table != table_of_all || last_given < next)
	{
		/* another table, or its sequence was set back */
		horizon = next = 0;
		awaited.count = last.count = 0;
		table_of_all = table;
	}
	*some_ended = count_ended(&last, present, count) > 0;
	remember(&last, present, count);
	if (count_ended(&awaited, present, count) == awaited.count)
	{
		horizon = count == 0 ? last_given : next;
		next = last_given;
		remember(&awaited, present, count);
	}
	pfree(present);
	return horizon;
}
