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

static int64 horizon;			/* what is known */
static int64 next;				/* what is, when all of these have ended */

typedef struct Writer
{
	VirtualTransactionId transaction;
	int64		since;			/* the look that has found it first */
} Writer;

typedef struct Writers
{
	Writer	   *list;			/* in the order of compare_writers() */
	int			count;
} Writers;

static Writers awaited;
static Writers last;			/* those of the last call */

/* An order of them, whichever: by their bytes, of which there are no others. */
static int
compare_writers(const void *a, const void *b)
{
	return memcmp(&((const Writer *) a)->transaction, &((const Writer *) b)->transaction, sizeof(VirtualTransactionId));
}

static Writer *
find(const Writers *writers, const Writer *writer)
{
	/* there may be no list */
	return writers->count == 0 ? NULL : bsearch(writer, writers->list, writers->count, sizeof(Writer), compare_writers);
}

static bool
have_all_ended(const Writers *writers, const Writers *present)
{
	for (int i = 0; i < writers->count; i++)
		if (find(present, &writers->list[i]) != NULL)
			return false;
	return true;
}

/* Of those that have ended, the first look; PG_INT64_MAX: none has. */
static int64
first_ended(const Writers *writers, const Writers *present)
{
	int64		first = PG_INT64_MAX;

	for (int i = 0; i < writers->count; i++)
		if (find(present, &writers->list[i]) == NULL)
			first = Min(first, writers->list[i].since);
	return first;
}

static void
remember(Writers *writers, const Writers *present)
{
	if (writers->list != NULL)
		pfree(writers->list);
	writers->list = MemoryContextAlloc(TopMemoryContext, sizeof(Writer) * Max(present->count, 1));
	memcpy(writers->list, present->list, sizeof(Writer) * present->count);
	writers->count = present->count;
}

/*
 * Who writes the table now, palloc'd.  Prepared transactions hold their locks,
 * and a VACUUM counts as a writer (lock.c GetLockConflicts: all that a SHARE
 * lock would wait for, but us).
 */
static Writers
find_writers(Oid table, int64 look)
{
	LOCKTAG		tag;
	Writers		present;
	VirtualTransactionId *transactions;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	transactions = GetLockConflicts(&tag, ShareLock, &present.count);
	present.list = palloc(sizeof(Writer) * Max(present.count, 1));
	for (int i = 0; i < present.count; i++)
	{
		Writer		writer = {.transaction = transactions[i],.since = look};
		const Writer *known = find(&last, &writer);

		present.list[i] = known == NULL ? writer : *known;
	}
	pfree(transactions);
	qsort(present.list, present.count, sizeof(Writer), compare_writers);
	return present;
}

/*
 * Up to which number whoever takes a snapshot after this call sees all rows
 * of the table that there will ever be.  last_given: the last one that the
 * sequence had given before the call; look: one more with each call.  What is
 * known grows as transactions end, until np_id_horizon_forget().
 *
 * *ended_since: of the writers of the last call that have ended since, one was
 * there first in the look with this number, and none before; PG_INT64_MAX: none
 * has ended.  Else no row has appeared since whose number had been given by then.
 */
int64
np_id_horizon(Oid table, int64 last_given, int64 look, int64 *ended_since)
{
	Writers		present = find_writers(table, look);

	*ended_since = first_ended(&last, &present);
	remember(&last, &present);
	if (have_all_ended(&awaited, &present))
	{
		horizon = present.count == 0 ? last_given : next;
		next = last_given;
		remember(&awaited, &present);
	}
	pfree(present.list);
	return horizon;
}

/* It is another table, or other numbers. */
void
np_id_horizon_forget(void)
{
	horizon = next = 0;
	awaited.count = last.count = 0;
}
