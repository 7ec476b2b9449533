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
 * Rows of a stream that is pipelined have no lane, unless one of their subject
 * is to be tried again: they wait in the stream's chain (chains.c), and so does
 * a first row of a lane of which it is found out where it goes.
 *
 * Subjects are known by a hash: two that share one just wait for each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "relay/chains.h"
#include "relay/lanes.h"

typedef struct NpLane
{
	uint64		subject;		/* its hash */
	NpRow	   *first;			/* ready, on its way, or not yet written down; NULL: none */
	dlist_head	behind;			/* the rows that wait for it ... */
	int			waiting;		/* ... and how many they are, ... */
	int			due_waiting;	/* ... and how many of these are due */
	int64		passed;			/* the lowest id of those that were passed by; 0: none */
	bool		is_free;		/* and nothing holds them up any more */
	bool		has_due;		/* rows that are due were passed by, too: these are found by any look */
} NpLane;

static HTAB *lanes;				/* NULL: none yet */
static dlist_head ready = DLIST_STATIC_INIT(ready);
static dlist_head doubted = DLIST_STATIC_INIT(doubted);
static int	unsent;				/* rows that are ready, or wait behind others */
static int64 free_id;			/* the lowest passed id of free lanes; 0: none */
static bool have_due;			/* such rows of a lane that nothing holds up any more */
static bool due_passed;			/* such rows since the last look */
static int	width = INT_MAX;	/* so many rows of a lane may wait behind its first one */

static NpLane *
find(NpSpan subject)
{
	HASHCTL		control = {.keysize = sizeof(uint64),.entrysize = sizeof(NpLane),.hcxt = TopMemoryContext};
	uint64		key = np_subject_hash(subject);
	NpLane	   *lane;
	bool		found;

	if (lanes == NULL)
		lanes = hash_create("nats_publish lanes", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	lane = hash_search(lanes, &key, HASH_ENTER, &found);
	if (!found)
	{
		lane->first = NULL;
		dlist_init(&lane->behind);
		lane->waiting = lane->due_waiting = 0;
		lane->passed = 0;
		lane->is_free = false;
		lane->has_due = false;
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
	lane->due_waiting += row->is_due;
}

static void
remove_behind(NpLane *lane, NpRow *row)
{
	dlist_delete(&row->node);
	lane->waiting--;
	lane->due_waiting -= row->is_due;
}

/* A table that was once large takes as long to walk when it is empty. */
static bool
are_any(void)
{
	return lanes != NULL && hash_get_num_entries(lanes) > 0;
}

/* The lane of the subject, or NULL: no row of it holds up others. */
static NpLane *
holding(NpSpan subject)
{
	uint64		key = np_subject_hash(subject);

	return lanes == NULL ? NULL : hash_search(lanes, &key, HASH_FIND, NULL);
}

/* One with a lower id than those that were passed by waits for none of them: its transaction has ended later. */
static bool
is_behind_passed(const NpLane *lane, int64 id)
{
	return lane->passed != 0 && lane->passed < id;
}

static bool
enter_lane(NpRow *row)
{
	NpLane	   *lane = find(row->message.subject);

	if ((is_behind_passed(lane, row->id) || lane->waiting >= width) && !row->is_due)
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

/* Have a row in hand no more: it is read again.  That it may be stored is to be noted first. */
static void
forget(NpRow *row)
{
	if (!row->in_doubt || row->error == NULL)
	{
		np_row_free(row);
		return;
	}
	row->state = NP_ROW_DOUBTED;
	dlist_push_tail(&doubted, &row->node);
}

/* A row of which is to be noted that it may be stored, or NULL; it is the caller's. */
NpRow *
np_lanes_doubted(void)
{
	return dlist_is_empty(&doubted) ? NULL : dlist_container(NpRow, node, dlist_pop_head_node(&doubted));
}

/* A row that waits is read again later, with those of its stream. */
static void
drop(NpRow *row)
{
	unsent--;
	forget(row);
}

/*
 * Take a row that was read, to be sent in its turn.  False: it is passed by,
 * and is the caller's.  A row that is tried again is what held up its lane.
 */
bool
np_lanes_enter(NpRow *row, bool ordered)
{
	if (!ordered)
	{
		unsent++;
		add_ready(row);
		return true;
	}
	row->stream = np_stream_of(row->message.subject);
	if (row->stream != NULL && !row->is_due && np_chain_passes(row->stream, row->id))
		return false;
	if (row->is_due || !np_chain_queues(row->stream) || holding(row->message.subject) != NULL)
		return enter_lane(row);
	unsent++;
	np_chain_enter(row);
	return true;
}

/* Were rows of the subject passed by, behind which this one goes? */
bool
np_lanes_have_passed(NpSpan subject, int64 id)
{
	const NpLane *lane = holding(subject);

	return lane != NULL && is_behind_passed(lane, id);
}

/* A row of the table waits for another one there. */
void
np_lanes_pass(NpSpan subject, int64 id)
{
	NpLane	   *lane = find(subject);

	lane->passed = lower(lane->passed, id);
}

static NpRow *
first_ready(void)
{
	return dlist_is_empty(&ready) ? NULL : dlist_head_element(NpRow, node, &ready);
}

/* The stream is not pipelined any more: its rows wait for their subjects. */
static void
leave_chain(NpStream *stream)
{
	NpRow	   *row;

	while ((row = np_chain_pop(stream, (NpSpan) {NULL, 0})) != NULL)
	{
		if (row->lane != NULL)
			add_ready(row);
		else
		{
			unsent--;
			if (!enter_lane(row))
				forget(row);
		}
	}
}

/* Does it wait with the others of its stream?  That is not known before the stream is. */
static bool
joins_chain(NpRow *row)
{
	if (row->stream == NULL && row->lane != NULL)
		row->stream = np_stream_of(row->message.subject);
	return np_chain_queues(row->stream);
}

/* Move what has become ready to the chain of its stream, and the other way round. */
static void
sort_ready(void)
{
	NpRow	   *row;

	for (int i = 0; i < np_streams_used; i++)
		if (np_chain_is_over(&np_streams[i]))
			leave_chain(&np_streams[i]);
	while ((row = first_ready()) != NULL && joins_chain(row))
	{
		dlist_delete(&row->node);
		np_chain_enter(row);
	}
}

/* The row that may go next, or NULL. */
NpRow *
np_lanes_first(void)
{
	NpRow	   *row;

	if (np_streams_used > 0)
		sort_ready();
	row = first_ready();
	return row != NULL ? row : np_chains_first();
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
	if (np_chain_queues(row->stream))
		np_chain_return(row);
	else
		dlist_push_head(&ready, &row->node);
	unsent++;
}

/*
 * A chained row was not stored.  It waits again, unless (may_pass) a row of its
 * subject is to be tried again before it; then it is passed by.
 */
void
np_lanes_come_back(NpRow *row, bool may_pass)
{
	if (may_pass && row->lane == NULL && holding(row->message.subject) != NULL)
	{
		np_chain_lost(row);
		np_lanes_pass(row->message.subject, row->id);
		forget(row);
		return;
	}
	np_chain_refused(row);
	unsent++;
}

/* How many rows have been read and not been sent. */
int
np_lanes_unsent(void)
{
	return unsent;
}

static void
enter_again(dlist_head *kept)
{
	while (!dlist_is_empty(kept))
		np_chain_enter(dlist_container(NpRow, node, dlist_pop_head_node(kept)));
}

/* What waits in a lane, and nothing of it is due, can go as fast as the stream takes it. */
static void
join_stream(NpLane *lane, NpStream *stream)
{
	while (!dlist_is_empty(&lane->behind))
	{
		NpRow	   *row = dlist_head_element(NpRow, node, &lane->behind);

		remove_behind(lane, row);
		row->lane = NULL;
		row->stream = stream;
		if (np_chain_passes(stream, row->id))
			drop(row);
		else
			np_chain_enter(row);
	}
}

/* Nothing holds up any more what was passed by. */
static void
set_free(NpLane *lane)
{
	lane->is_free = true;
	free_id = lower(free_id, lane->passed);
}

/* And the same of what is due. */
static void
set_due_free(NpLane *lane)
{
	have_due |= lane->has_due;
	lane->has_due = false;
}

/* A row of a lane has come to its end: the next one may go. */
void
np_lanes_leave(NpRow *row)
{
	NpLane	   *lane = row->lane;
	NpStream   *stream;

	if (lane == NULL)
		return;
	row->lane = NULL;
	lane->first = NULL;
	stream = dlist_is_empty(&lane->behind) ? NULL : np_stream_of(row->message.subject);

	/*
	 * those that are due enter by the lane, and none of them must overtake one that does not wait here any
	 * more
	 */
	if (lane->due_waiting == 0 && np_chain_queues(stream))
		join_stream(lane, stream);
	if (!dlist_is_empty(&lane->behind))
	{
		lane->first = dlist_head_element(NpRow, node, &lane->behind);
		remove_behind(lane, lane->first);
		add_ready(lane->first);
		return;
	}
	set_due_free(lane);
	if (lane->passed != 0)
		set_free(lane);
	else
		remove_if_empty(lane);
}

/*
 * A row that held up its subject in the table is not there any more.  It has
 * left its lane before, and others may have been read, and passed by for it,
 * between these two.
 */
void
np_lanes_let_go(NpSpan subject)
{
	NpLane	   *lane = holding(subject);

	if (lane != NULL && lane->first == NULL && lane->passed != 0)
		set_free(lane);
}

/* A row that does not wait behind another one is read again; those behind it stay. */
void
np_lanes_forget(NpRow *row)
{
	if (row->lane != NULL)
		row->lane->first = NULL;
	row->lane = NULL;
	forget(row);
}

/* A row that waits behind others waits in the table again. */
static void
pass_row(NpLane *lane, NpRow *row)
{
	remove_behind(lane, row);
	/* one that is tried again holds up its lane there */
	if (row->is_due)
		lane->has_due = due_passed = true;
	else
		lane->passed = lower(lane->passed, row->id);
	drop(row);
}

static void
pass_behind(NpLane *lane)
{
	while (!dlist_is_empty(&lane->behind))
		pass_row(lane, dlist_head_element(NpRow, node, &lane->behind));
}

/*
 * Another row is the first one of the lane, and may end before the failed one
 * is tried again: what waits behind either is read again, and found to be
 * held up by that.
 */
static void
pass_chained(NpLane *lane, const NpRow *failed)
{
	dlist_head	kept = DLIST_STATIC_INIT(kept);
	NpRow	   *row;

	pass_behind(lane);
	while ((row = np_chain_pop(failed->stream, failed->message.subject)) != NULL)
	{
		if (row->lane != NULL)
		{
			dlist_push_tail(&kept, &row->node);
			continue;
		}
		lane->passed = lower(lane->passed, row->id);
		drop(row);
	}
	enter_again(&kept);
}

/* A row that had no lane is to be tried again: it holds up its subject from now on. */
void
np_lanes_hold(NpRow *row)
{
	NpLane	   *lane;
	NpRow	   *next;

	if (row->lane != NULL || row->stream == NULL)
		return;
	lane = find(row->message.subject);
	if (lane->first != NULL)
	{
		pass_chained(lane, row);
		return;
	}
	lane->first = row;
	lane->is_free = false;
	row->lane = lane;
	while ((next = np_chain_pop(row->stream, row->message.subject)) != NULL)
	{
		next->lane = lane;
		add_behind(lane, next);
	}
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
	set_due_free(lane);
	if (is_behind_passed(lane, row->id))
		set_free(lane);
	remove_if_empty(lane);
}

/* Pass by what waits in a chain, with what waits behind that in lanes. */
static void
pass_chain(NpStream *stream)
{
	dlist_head	kept = DLIST_STATIC_INIT(kept);
	NpRow	   *row;

	while ((row = np_chain_pop(stream, (NpSpan) {NULL, 0})) != NULL)
	{
		if (row->is_due)
		{
			dlist_push_tail(&kept, &row->node);
			continue;
		}
		stream->chain.passed = lower(stream->chain.passed, row->id);
		np_lanes_leave(row);
		drop(row);
	}
	enter_again(&kept);
}

/* Pass by what waits for rows that were sent before that time. */
void
np_lanes_pass_slow(NpTime sent_before)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;

	for (int i = 0; i < np_streams_used; i++)
		if (np_chain_is_slow(&np_streams[i], sent_before))
			pass_chain(&np_streams[i]);
	if (!are_any())
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

	if (!are_any())
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
	return lower(free_id, np_chains_free());
}

/* Are there rows that are due, were passed by and may go now?  Until the next look, which finds them. */
bool
np_lanes_have_due(void)
{
	return have_due;
}

/* A look is about to find them.  Were any passed by since the last one?  These come before what is behind them. */
bool
np_lanes_find_due(void)
{
	bool		result = have_due || due_passed;

	have_due = due_passed = false;
	return result;
}

/* Rows from this id on are about to be read again, in order. */
void
np_lanes_revisit(int64 id)
{
	HASH_SEQ_STATUS scan;
	NpLane	   *lane;

	free_id = 0;
	np_chains_revisit(id);
	if (!are_any())
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

	for (int i = 0; i < np_streams_used; i++)
	{
		while ((row = np_chain_pop(&np_streams[i], (NpSpan) {NULL, 0})) != NULL)
			add_ready(row);
		lowest = lower(lowest, np_streams[i].chain.passed);
		np_streams[i].chain.passed = 0;
	}
	while ((row = first_ready()) != NULL)
	{
		np_lanes_take(row);
		lowest = row->is_due ? lowest : lower(lowest, row->id);
		np_lanes_forget(row);
	}
	free_id = 0;
	have_due = false;
	if (!are_any())
		return lowest;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
	{
		pass_behind(lane);
		lowest = lower(lowest, lane->passed);
		lane->passed = 0;
		remove_if_empty(lane);
	}
	return lowest;
}
