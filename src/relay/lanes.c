/*-------------------------------------------------------------------------
 *
 * lanes.c
 *	  Which row of the outbox may go now.
 *
 * In order, each subject is a lane.  Its first row is on its way, or may be;
 * those behind it wait here until it is stored or dead.  Rows that can't wait
 * here, because the first one is to be tried again or is not answered for
 * long, are passed by: only the lowest of their ids is kept, and no later row
 * of the lane is taken, until the table is read again from there on.
 *
 * Lanes share the room for what was read.  When those with many rows have all
 * of it, so that rows of other subjects are not even read, they become
 * narrower: of what would wait behind others, so much is passed by.
 *
 * Subjects are known by a hash: two that share one just wait for each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "relay/lanes.h"

typedef struct NpLane
{
	uint64		subject;		/* its hash */
	NpRow	   *first;			/* ready, on its way, or not yet written down; NULL: none */
	dlist_head	behind;			/* the rows that wait for it ... */
	int			waiting;		/* ... and how many they are */
	int64		passed;			/* the lowest id of those that were passed by; 0: none */
	bool		is_free;		/* and nothing holds them up any more */
} NpLane;

static HTAB *lanes;				/* NULL: none yet */
static dlist_head ready = DLIST_STATIC_INIT(ready);
static int	unsent;				/* rows that are ready, or wait behind others */
static int64 free_id;			/* the lowest passed id of free lanes; 0: none */
static int	width = INT_MAX;	/* so many rows of a lane may wait behind its first one */

static NpLane *
find(NpSpan subject)
{
	HASHCTL		control = {.keysize = sizeof(uint64),.entrysize = sizeof(NpLane),.hcxt = TopMemoryContext};
	uint64		key = hash_bytes_extended((const unsigned char *) subject.data, subject.length, 0);
	NpLane	   *lane;
	bool		found;

	if (lanes == NULL)
		lanes = hash_create("nats_publish lanes", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	lane = hash_search(lanes, &key, HASH_ENTER, &found);
	if (!found)
	{
		lane->first = NULL;
		dlist_init(&lane->behind);
		lane->waiting = 0;
		lane->passed = 0;
		lane->is_free = false;
	}
	return lane;
}

static int64
lower(int64 a, int64 b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

static void
remove_if_empty(NpLane *lane)
{
	if (lane->first == NULL && lane->passed == 0)
		(void) hash_search(lanes, &lane->subject, HASH_REMOVE, NULL);
}

static void
add_ready(NpRow *row)
{
	dlist_push_tail(&ready, &row->node);
}

static void
add_behind(NpLane *lane, NpRow *row)
{
	dlist_push_tail(&lane->behind, &row->node);
	lane->waiting++;
}

static void
remove_behind(NpLane *lane, NpRow *row)
{
	dlist_delete(&row->node);
	lane->waiting--;
}

/*
 * Take a row that was read, to be sent in its turn.  False: it is passed by,
 * and is the caller's.  A row that is tried again is what held up its lane.
 */
bool
np_lanes_enter(NpRow *row, bool ordered)
{
	NpLane	   *lane;

	if (!ordered)
	{
		unsent++;
		add_ready(row);
		return true;
	}
	lane = find(row->message.subject);
	if ((lane->passed != 0 || lane->waiting >= width) && !row->is_due)
	{
		lane->passed = lower(lane->passed, row->id);
		return false;
	}
	unsent++;
	row->lane = lane;
	if (lane->first != NULL)
		add_behind(lane, row);
	else
	{
		lane->first = row;
		lane->is_free = false;
		add_ready(row);
	}
	return true;
}

/* A row of the table waits for another one there. */
void
np_lanes_pass(NpSpan subject, int64 id)
{
	NpLane	   *lane = find(subject);

	lane->passed = lower(lane->passed, id);
}

/* The row that may go next, or NULL. */
NpRow *
np_lanes_first(void)
{
	return dlist_is_empty(&ready) ? NULL : dlist_head_element(NpRow, node, &ready);
}

/* It goes, or has ended without. */
void
np_lanes_take(NpRow *row)
{
	dlist_delete(&row->node);
	unsent--;
}

/* It does not go yet, after all. */
void
np_lanes_return(NpRow *row)
{
	dlist_push_head(&ready, &row->node);
	unsent++;
}

/* How many rows have been read and not been sent. */
int
np_lanes_unsent(void)
{
	return unsent;
}

/* A row of a lane has come to its end: the next one may go. */
void
np_lanes_leave(NpRow *row)
{
	NpLane	   *lane = row->lane;

	if (lane == NULL)
		return;
	row->lane = NULL;
	lane->first = NULL;
	if (!dlist_is_empty(&lane->behind))
	{
		lane->first = dlist_head_element(NpRow, node, &lane->behind);
		remove_behind(lane, lane->first);
		add_ready(lane->first);
	}
	else if (lane->passed != 0)
	{
		lane->is_free = true;
		free_id = lower(free_id, lane->passed);
	}
	else
		remove_if_empty(lane);
}

/* The first row of a lane is none of it any more; those behind it stay. */
void
np_lanes_forget(NpRow *row)
{
	if (row->lane != NULL)
		row->lane->first = NULL;
	row->lane = NULL;
}

/* A row that waits behind others waits in the table again. */
static void
pass_row(NpLane *lane, NpRow *row)
{
	remove_behind(lane, row);
	/* one that is tried again holds up its lane there */
	if (!row->is_due)
		lane->passed = lower(lane->passed, row->id);
	unsent--;
	np_row_free(row);
}

static void
pass_behind(NpLane *lane)
{
	while (!dlist_is_empty(&lane->behind))
		pass_row(lane, dlist_head_element(NpRow, node, &lane->behind));
}

/* A row of a lane waits in the table, and so do those behind it. */
void
np_lanes_give_up(NpRow *row)
{
	NpLane	   *lane = row->lane;

	if (lane == NULL)
		return;
	row->lane = NULL;
	lane->first = NULL;
	pass_behind(lane);
	remove_if_empty(lane);
}

/* Pass by what waits for rows that were sent before that time. */
void
np_lanes_pass_slow(NpTime sent_before)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;

	if (lanes == NULL)
		return;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
		if (lane->first != NULL && lane->first->state != NP_ROW_UNSENT && lane->first->sent_at < sent_before)
			pass_behind(lane);
}

/* Let lanes be half as wide as the widest one is, and pass by the rest. */
void
np_lanes_narrow(void)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;
	int			widest = 0;

	if (lanes == NULL)
		return;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
		widest = Max(widest, lane->waiting);
	width = Max(widest / 2, 1);
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
		while (lane->waiting > width)
			pass_row(lane, dlist_tail_element(NpRow, node, &lane->behind));
}

/* Let them be twice as wide. */
void
np_lanes_widen(void)
{
	if (width < INT_MAX / 2)
		width *= 2;
}

/* The lowest id of rows that were passed by and may go now; 0: none. */
int64
np_lanes_free(void)
{
	return free_id;
}

/* Rows from this id on are about to be read again, in order. */
void
np_lanes_revisit(int64 id)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;

	free_id = 0;
	if (lanes == NULL)
		return;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
	{
		if (lane->passed >= id)
			lane->passed = 0;
		if (lane->is_free)
			free_id = lower(free_id, lane->passed);
		remove_if_empty(lane);
	}
}

/*
 * Forget all rows that are not on their way, and what was passed by.  Returns
 * the lowest id of these, 0 when there are none.
 */
int64
np_lanes_clear(void)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;
	NpRow	   *row;
	int64		lowest = 0;

	while ((row = np_lanes_first()) != NULL)
	{
		np_lanes_take(row);
		lowest = row->is_due ? lowest : lower(lowest, row->id);
		if (row->lane != NULL)
			row->lane->first = NULL;
		np_row_free(row);
	}
	if (lanes == NULL)
		return lowest;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
	{
		pass_behind(lane);
		lowest = lower(lowest, lane->passed);
		lane->passed = 0;
		remove_if_empty(lane);
	}
	free_id = 0;
	return lowest;
}
