/*-------------------------------------------------------------------------
 *
 * levels.c
 *	  The subtransactions of the current transaction that have published something.
 *
 * As in async.c: a level is entered when its subtransaction first publishes
 * something, so not every level of nesting has one; it becomes its parent's at
 * subcommit, and is dropped at subabort.  Another library can publish between
 * our callback for a subcommit and its end: what there is of deeper nesting
 * than where we are is the parent's, too.
 *
 * Subtransactions are nested and tokens grow, so all that one has published
 * (with its children) are the tokens from its first on, and the held messages
 * behind those that were held before.  A rollback takes both away, whatever
 * they were.
 *
 * All is allocated in the transaction's context; nothing that is called at the
 * end of a (sub)transaction throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "ledger/levels.h"

typedef struct Range
{
	uint64		from;
	uint64		to;				/* not included */
} Range;

/* Of the current transaction; a backend has one. */
static NpLevel *top;			/* NULL: nothing published */
static int	depth;				/* of levels */

/* Tokens of rolled-back subtransactions, in order, with room for all levels. */
static Range *aborted;
static int	aborted_count;
static int	aborted_room;

/* ---- What has become of messages ------------------------------------------- */

/* Insert into the list of the first failures, if it is one of them. */
void
np_outcome_list(NpOutcome *outcome, const NpFailedMessage *message)
{
	int			place = Min(outcome->listed, NP_MAX_LISTED - 1);

	if (outcome->listed == NP_MAX_LISTED && outcome->list[place].token < message->token)
		return;
	while (place > 0 && outcome->list[place - 1].token > message->token)
	{
		outcome->list[place] = outcome->list[place - 1];
		place--;
	}
	outcome->list[place] = *message;
	outcome->listed = Min(outcome->listed + 1, NP_MAX_LISTED);
}

/* Add one to another. */
void
np_outcome_merge(NpOutcome *into, const NpOutcome *from)
{
	into->awaited += from->awaited;
	into->acked += from->acked;
	into->failed += from->failed;
	for (int i = 0; i < from->listed; i++)
		np_outcome_list(into, &from->list[i]);
}

/* ---- Levels -------------------------------------------------------------- */

/* So that a rollback needs no memory. */
static void
make_aborted_room(void)
{
	int			room = Max(8, aborted_room * 2);

	if (aborted_room >= aborted_count + depth + 1)
		return;
	if (aborted == NULL)
		aborted = MemoryContextAlloc(TopTransactionContext, room * sizeof(Range));
	else
		aborted = repalloc_huge(aborted, room * sizeof(Range));
	aborted_room = room;
}

/* Drop the innermost level. */
static void
pop(void)
{
	NpLevel    *level = top;

	top = level->upper;
	depth--;
	pfree(level);
}

/*
 * Subtransactions of this nesting have committed, if there were any: what they
 * have published is the outer one's.  If that had no level, theirs becomes it.
 */
void
np_levels_settle(int nest_level)
{
	while (top != NULL && top->nest_level >= nest_level)
	{
		if (top->upper == NULL || top->upper->nest_level < nest_level - 1)
		{
			top->nest_level = nest_level - 1;
			return;
		}
		np_outcome_merge(&top->upper->outcome, &top->outcome);
		pop();
	}
}

/*
 * Have a level for what the current subtransaction is about to publish or
 * hold, before anything of it can be sent: if there is no room for it, nobody
 * must know of the message.  The token is the one that the next message gets.
 */
void
np_levels_enter(uint64 next_token)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	NpLevel    *level;

	np_levels_settle(nest_level + 1);
	if (top != NULL && top->nest_level == nest_level)
		return;
	make_aborted_room();
	level = MemoryContextAllocZero(TopTransactionContext, sizeof(NpLevel));
	level->upper = top;
	level->nest_level = nest_level;
	level->first = next_token;
	level->held = np_queue_mark();
	top = level;
	depth++;
}

/* The innermost one, NULL: there is none; the others are above it. */
NpLevel *
np_levels_top(void)
{
	return top;
}

/* The level that a token is of, unless it was rolled back; NULL: none. */
NpLevel *
np_levels_find(uint64 token)
{
	NpLevel    *level = top;

	while (level != NULL && token < level->first)
		level = level->upper;
	return level;
}

/* Is the token one of this transaction that was not rolled back? */
bool
np_levels_contain(uint64 token)
{
	int			low = 0;
	int			high = aborted_count;

	if (np_levels_find(token) == NULL)
		return false;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (token < aborted[middle].from)
			high = middle;
		else if (token >= aborted[middle].to)
			low = middle + 1;
		else
			return false;
	}
	return true;
}

/* ---- Ends ---------------------------------------------------------------- */

/* Room was made when the level was. */
static void
add_aborted(uint64 from, uint64 to)
{
	while (aborted_count > 0 && aborted[aborted_count - 1].from >= from)
		aborted_count--;
	if (aborted_count > 0 && aborted[aborted_count - 1].to == from)
		aborted[aborted_count - 1].to = to;
	else
		aborted[aborted_count++] = (Range) {from, to};
}

/*
 * What a subtransaction has published no longer counts, and what it holds is
 * gone.
 *
 * Returns its first token (all up to next_token are aborted), or 0: it had none.
 * Can be called more than once for a level (async.c AtSubAbort_Notify).
 */
uint64
np_levels_subabort(int nest_level, uint64 next_token)
{
	uint64		first = 0;

	while (top != NULL && top->nest_level >= nest_level)
	{
		first = top->first;
		np_queue_cut(&top->held);
		pop();
	}
	/* what was only held has had no token */
	if (first != 0 && first < next_token)
		add_aborted(first, next_token);
	return first;
}

/* The transaction has ended; its context takes the memory. */
void
np_levels_reset(void)
{
	top = NULL;
	depth = 0;
	aborted = NULL;
	aborted_count = aborted_room = 0;
}
