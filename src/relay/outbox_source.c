/*-------------------------------------------------------------------------
 *
 * outbox_source.c
 *	  The outbox as a source of messages: what is new, and what is due again.
 *
 * New rows are read in the order of their ids, from a position on that only
 * grows, so that the rows that were deleted are not walked again.  Rows with
 * lower ids that appear later, when their transactions commit, are read from
 * the gaps that they have left.  Rows that wait for their time (outbox_due.c)
 * have a share of each look, and new rows the rest.
 *
 * In order, a new row behind one that has failed is passed by (lanes.c), and
 * read again when nothing holds it up any more.  And each relay_poll_interval,
 * or less often when that takes long, as it may when rows were published that
 * somebody still sees, all is read from the first row on: for
 * rows that somebody has written with an id of his own, has edited, or has
 * deleted others before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "outbox/outbox.h"
#include "outbox/relay_pause.h"
#include "relay/gaps.h"
#include "relay/lanes.h"
#include "relay/outbox_due.h"
#include "relay/outbox_glance.h"
#include "relay/outbox_read.h"
#include "relay/outbox_source.h"
#include "relay/outbox_table.h"
#include "relay/id_horizon.h"

/* The share of the time that looks from the first row on take, and of the processor's; unless they would be a minute apart, and then. */
#define FULL_LOOK_SHARE	200
#define PROCESSOR_SHARE	1000
#define LATE_LOOK		NP_MILLISECONDS(60000)
#define LATE_LOOK_SHARE	20

/* What it costs to walk so many rows that were deleted, as long as no VACUUM has removed them: 1 us. */
#define WALKED_IN_US	4

/* The least time between others that go back. */
#define BACK_INTERVAL	NP_MILLISECONDS(1000)

static NpStatement count_waiting = {
	.text = "SELECT count(*) FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("")
};

static Oid	table_of_all;		/* that the rest is about, ... */
static Oid	numbers_of_all;		/* ... and the storage of its sequence, which is another one when that was
								 * begun anew */
static int64 last_given;		/* the last id that its sequence had given */
static int64 look_number;
static int64 position;			/* new rows have been read up to this id */
static int64 first_unread = 1;	/* the lowest id that the look that is under way, or was last, could see */
static bool is_at_end;			/* there were no more when it was looked last */
static int64 due_gaps = PG_INT64_MAX;	/* rows can have appeared in those of this look, or later ones; none:
										 * PG_INT64_MAX */
static NpTime next_full_look;	/* from the first row on; NP_FOREVER: one is under way ... */
static int64 full_look_end;		/* ... up to this id */
static NpTime full_look_ended;	/* when the last one did; */
static NpTime full_look_cost;	/* it has taken so long ... */
static NpTime full_look_processor;	/* ... and so much of the processor's time */
static NpTime last_back;		/* when it went back last */
static NpTime look_cost;		/* how long the last look took */
static bool is_wanted_again;	/* a look from the first row on, when the one that is under way has ended */

/* ---- Position ------------------------------------------------------------------------ */

/* Read new rows again from this id on. */
void
np_source_go_back(int64 id)
{
	position = Min(position, id - 1);
	np_gaps_cut(0, position);
	np_lanes_revisit(id);
}

static int64
lowest_unread(void)
{
	int			count;
	const NpGap *gaps = np_gaps(0, &count);

	return count > 0 ? gaps[0].first : position + 1;
}

/* Somebody may have changed rows that were read: read all again. */
void
np_source_look_again(void)
{
	np_due_from_the_lowest();
	if (next_full_look == NP_FOREVER)
		is_wanted_again = true;
	else
		next_full_look = 0;
}

/* A look was ended by an error: rows that it has seen may not be in hand, also in gaps. */
void
np_source_failed(void)
{
	np_source_go_back(first_unread);
	np_source_look_again();
}

/* It is another table, or was emptied and begins anew. */
static void
begin_anew(void)
{
	(void) np_lanes_clear();
	np_source_go_back(1);
	np_due_from_the_lowest();
	next_full_look = 0;
	np_id_horizon_forget();
	table_of_all = np_outbox_table();
	numbers_of_all = np_outbox_sequence_storage();
	last_given = 0;
}

/*
 * When rows that were passed by, and can go now, are read again; NP_FOREVER:
 * there are none.  That is to take no more than half of the time.
 */
NpTime
np_source_next_back(void)
{
	return np_lanes_free() == 0 ? NP_FOREVER : last_back + (is_at_end ? 2 * look_cost : BACK_INTERVAL);
}

/*
 * How long after one look from the first row on the next one is.  What has been
 * published since may have to be walked by it.
 */
static NpTime
full_look_interval(void)
{
	NpTime		processor = full_look_processor + Max(position - full_look_end, 0) / WALKED_IN_US;
	NpTime		interval = Max(full_look_cost * FULL_LOOK_SHARE, processor * PROCESSOR_SHARE);

	return Max(NP_MILLISECONDS(np_relay_poll_interval), Min(interval, Max(LATE_LOOK, full_look_cost * LATE_LOOK_SHARE)));
}

/* Nobody wants one now, and its time has not come, or comes later for what has been published since. */
static bool
may_wait_with_full_look(NpTime now)
{
	if (next_full_look != 0 && now >= next_full_look)
		next_full_look = full_look_ended + full_look_interval();
	return now < next_full_look;
}

static void
choose_position(NpTime now)
{
	if (!may_wait_with_full_look(now))
	{
		next_full_look = NP_FOREVER;
		full_look_end = position;
		full_look_cost = full_look_processor = 0;
		np_source_go_back(1);
	}
	else if (now >= np_source_next_back())
	{
		last_back = now;
		np_source_go_back(np_lanes_free());
	}
}

static void
account(NpTime begun, NpTime processor_begun)
{
	NpTime		now = np_now();

	look_cost = now - begun;
	if (next_full_look != NP_FOREVER)
		return;
	full_look_cost += now - begun;
	full_look_processor += np_processor_time() - processor_begun;
	if (!is_at_end && position < full_look_end)
		return;
	full_look_end = position;
	full_look_ended = now;
	next_full_look = is_wanted_again ? 0 : now + full_look_interval();
	is_wanted_again = false;
}

/* ---- Ways to read ------------------------------------------------------------------- */

#define FROM_NEW	" FROM %1$s.nats_outbox AS o WHERE o.id > $1 AND o.next_attempt_at IS NULL ORDER BY o.id"
#define FROM_GAPS	" FROM unnest($1, $2) AS gap (first, last) CROSS JOIN LATERAL (SELECT o.ctid, * FROM %1$s.nats_outbox AS o" \
	" WHERE o.id BETWEEN gap.first AND gap.last AND o.next_attempt_at IS NULL ORDER BY o.id) AS o"

static void
seen_in_gap(const NpReading *reading, int64 id)
{
	np_gaps_remove(id);
}

/* A new row: those with lower ids that were not seen can appear later. */
static void
seen_new(const NpReading *reading, int64 id)
{
	np_gaps_add(Max(position, reading->horizon) + 1, id - 1, look_number);
	position = id;
}

static NpWay new_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_NEW,.argument_count = 1,.types = {INT8OID}},
		{.text = NP_ROW_COLUMNS(NP_ROW_WAITS_FOR("")) FROM_NEW,.argument_count = 1,.types = {INT8OID}}
	},
	.held_by = NP_HELD_BY_FAILED,
	.seen = seen_new
};

static NpWay gap_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_GAPS,.argument_count = 2,.types = {INT8ARRAYOID, INT8ARRAYOID}},
		{.text = NP_ROW_COLUMNS(NP_ROW_WAITS_FOR("")) FROM_GAPS,.argument_count = 2,.types = {INT8ARRAYOID, INT8ARRAYOID}}
	},
	.held_by = NP_HELD_BY_FAILED,
	.seen = seen_in_gap
};

/* False: not all of them, for want of room. */
static bool
read_gaps(NpReading *reading, bool in_order)
{
	int			count;
	const NpGap *gaps = np_gaps(due_gaps, &count);
	Datum	   *first = palloc(sizeof(Datum) * (count + 1));
	Datum	   *last = palloc(sizeof(Datum) * (count + 1));
	Datum		values[2];

	if (count == 0)
		return true;
	for (int i = 0; i < count; i++)
	{
		first[i] = Int64GetDatum(gaps[i].first);
		last[i] = Int64GetDatum(gaps[i].last);
	}
	values[0] = PointerGetDatum(construct_array(first, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = PointerGetDatum(construct_array(last, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	np_read_rows(&gap_rows, in_order, values, reading);
	return !reading->is_full;
}

static void
read_new(NpReading *reading, bool in_order)
{
	Datum		values[] = {Int64GetDatum(position)};

	np_read_rows(&new_rows, in_order, values, reading);
	is_at_end = !reading->is_full;
	if (is_at_end)
		position = Max(position, reading->horizon);
}

/* ---- Looking -------------------------------------------------------------------------- */

/* About how many they are, now and then. */
static void
update_waiting(void)
{
	bool		isnull;

	if (next_full_look != NP_FOREVER || full_look_cost > 0)
		return;
	np_outbox_execute(&count_waiting, NULL, true);
	np_outbox_set_waiting(DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)));
}

static void
read_rows(NpOutboxLook *look, NpReading *reading, bool any_failed)
{
	/* a new row that nothing can hold up needs no look for what does */
	bool		in_order = look->ordered && any_failed;

	if (due_gaps != PG_INT64_MAX && read_gaps(reading, in_order))
		due_gaps = PG_INT64_MAX;
	/* a new row must not overtake one of the same session that is in a gap */
	if (due_gaps == PG_INT64_MAX)
	{
		np_gaps_cut(reading->horizon, position);
		read_new(reading, in_order);
	}
	look->has_more |= due_gaps != PG_INT64_MAX || !is_at_end;
}

/*
 * Up to which id all rows are seen from now on.  The sequence comes before the
 * transactions that may not have ended, and what they have written behind them.
 *
 * Whoever has numbers that had been given before a look was there in that look,
 * or has ended before.  So who was not can't fill its gaps: those that one long
 * writer keeps are not read again for each of the short ones beside it.
 */
static int64
find_horizon(void)
{
	int64		given = np_outbox_last_given();
	int64		horizon;
	int64		ended_since;

	if (np_outbox_table() != table_of_all || np_outbox_sequence_storage() != numbers_of_all || given < last_given)
		begin_anew();
	look_number++;
	/* of numbers that were given since, some have been seen: who has the others may have ended unseen */
	if (given > last_given && position > last_given)
	{
		np_gaps_renew(last_given, look_number);
		due_gaps = Min(due_gaps, look_number);
	}
	last_given = given;
	horizon = np_id_horizon(np_outbox_table(), last_given, look_number, &ended_since);
	due_gaps = Min(due_gaps, ended_since);
	np_outbox_refresh();
	return horizon;
}

static void
look_inside(NpOutboxLook *look)
{
	NpReading	reading = {.largest = look->largest,.ordered = look->ordered,.room = look->room};
	NpWaiting	waiting;

	look->session = np_outbox_session();
	reading.horizon = find_horizon();
	if (np_glance_is_paused() || np_pause_is_marked(np_outbox_extension()))
	{
		look->state = NP_OUTBOX_PAUSED;
		return;
	}
	look->state = NP_OUTBOX_THERE;
	np_due_glance(&waiting);
	choose_position(np_now());
	first_unread = lowest_unread();
	look->next_due = np_due_read(&waiting, &reading, &look->has_more);
	if (waiting.any_failed)
		update_waiting();
	else
		np_outbox_set_waiting(0);
	read_rows(look, &reading, waiting.any_failed);
}

/*
 * Look into the outbox, and have the lanes take the rows that may go now, in a
 * transaction of its own.
 *
 * Raises what reading a table raises; the transaction is then the caller's to
 * abort, and the lanes are to be cleared.
 */
void
np_source_read(NpOutboxLook *look)
{
	NpTime		begun = np_now();
	NpTime		processor_begun = np_processor_time();
	MemoryContext caller;

	look->has_more = false;
	look->next_due = NP_FOREVER;
	look->state = NP_OUTBOX_ABSENT;
	if (np_outbox_begin(&caller))
		look_inside(look);
	np_outbox_commit(caller);
	if (look->state == NP_OUTBOX_THERE)
		account(begun, processor_begun);
}
