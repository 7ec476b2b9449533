/*-------------------------------------------------------------------------
 *
 * outbox_due.c
 *	  What waits in the outbox for its time.
 *
 * Rows that have failed, and those that were not to go before a time, come
 * from an index on next_attempt_at.  Its low end is where the entries of all
 * earlier attempts are, which no VACUUM may remove while somebody has an old
 * snapshot.  So it is read from a floor on, which follows the first row that
 * still waits, and the clock, at some distance: who writes a time commits it a
 * little later.  Who does so much later, or writes a time of the past, has
 * his row seen when the index is read from its lowest entry again: a second
 * after another look, or later when that takes long.
 *
 * Of what is due, many rows may have to wait for another one of their subject.
 * They are seen again when that may be over, and else rarely.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "base/subtransaction.h"
#include "outbox/outbox.h"
#include "outbox/relay_state.h"
#include "relay/outbox_due.h"
#include "relay/outbox_probes.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"

/* Of the clock, in its microseconds: what is due is committed by then. */
#define FLOOR_DISTANCE	(1 * USECS_PER_SEC)

/* From the lowest entry on: the least time between, and the share of the time that it may take. */
#define LOWEST_INTERVAL	NP_MILLISECONDS(1000)
#define LOWEST_SHARE	200

/* What costs so little (of the processor: it may be others that take the time) is seen each time, and else with these shares of it. */
#define CHEAP			NP_MILLISECONDS(1)
#define WALK_SHARE		50
#define GLANCE_SHARE	20

/* Nothing that has failed is put off for so long, but by a clock that was wrong. */
static NpStatement mend_times = {
	.text = "UPDATE %1$s.nats_outbox SET next_attempt_at = now() WHERE id IN (SELECT id FROM %1$s.nats_outbox"
	" WHERE " NP_OUTBOX_FAILED("") " AND next_attempt_at > now() + interval '4 days' FOR UPDATE SKIP LOCKED)"
};

/* The least time between two such looks. */
#define MEND_INTERVAL	NP_MILLISECONDS(10000)

#define FROM_DUE	" FROM %1$s.nats_outbox AS o WHERE o.next_attempt_at <= now() AND (o.next_attempt_at, o.id) >= ($1, $2)"

/* In order, none before an earlier one of its subject that comes later here. */
static NpWay due_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_DUE " ORDER BY o.next_attempt_at, o.id",.argument_count = 2,.types = {TIMESTAMPTZOID, INT8OID}},
		{.text = NP_ROW_COLUMNS(NP_ROW_WAITS_FOR(" AND (w.next_attempt_at, w.id) > (o.next_attempt_at, o.id)")) FROM_DUE
		" ORDER BY o.next_attempt_at, o.id",.argument_count = 2,.types = {TIMESTAMPTZOID, INT8OID}}
	},
	.held_by = NP_HELD_BY_FAILED_ELSEWHERE,
	.is_due = true
};

/* A place in their order. */
typedef struct Place
{
	TimestampTz time;
	int64		id;
} Place;

static TimestampTz lowest = DT_NOBEGIN; /* the floor */

/* From the floor up to here, all that is due was seen: it waits for others. */
static Place walked = {DT_NOBEGIN, 0};

static NpTime next_walk;		/* when that is seen again */
static NpTime walk_cost;		/* what that has cost the last time, until now */
static NpWaiting known;			/* what waits ... */
static NpTime known_until;		/* ... until then, for looking is dear */
static NpTime next_from_lowest;
static NpTime next_mend;
static NpTime begun;			/* to look from the lowest entry on; 0: it is done */
static bool is_turn_of_due;		/* when there is room for one row only */

/* ---- The floor ------------------------------------------------------------------------ */

/* From which time on rows are to be looked for now. */
static TimestampTz
find_floor(void)
{
	NpTime		now = np_now();

	if (now < next_from_lowest)
		return lowest;
	begun = now;
	return lowest = DT_NOBEGIN;
}

/*
 * What waits for its time, as np_glance(), which can have to go through the
 * entries of all that has waited and does not any more: then the answer counts
 * for a while.
 */
void
np_due_glance(NpWaiting *waiting)
{
	NpTime		glance_begun;
	NpTime		cost;

	if (np_now() < known_until)
	{
		*waiting = known;
		return;
	}
	glance_begun = np_processor_time();
	np_glance(find_floor(), waiting);
	cost = np_processor_time() - glance_begun;
	if (cost < CHEAP)
		return;
	known = *waiting;
	known_until = np_now() + cost * GLANCE_SHARE;
	/* others may write rows that have failed */
	if (!known.any_failed)
		known.last = GetCurrentTransactionStartTimestamp();
	known.any_failed = true;
}

/* Rows were put off, the first of them until then. */
void
np_due_put_off(NpTime first)
{
	known_until = Min(known_until, first);
}

/* Times may have been written that are lower. */
void
np_due_from_the_lowest(void)
{
	next_from_lowest = 0;
	np_due_walk_again();
}

/* What waits for another row may be free. */
void
np_due_walk_again(void)
{
	next_walk = 0;
	known_until = 0;
}

/* What is below the first one that was found is not looked at for now.  Returns when it must be. */
static NpTime
raise_floor(const NpWaiting *waiting, TimestampTz now)
{
	lowest = now - FLOOR_DISTANCE;
	if (waiting->any)
		lowest = Min(lowest, waiting->first);
	if (begun == 0)
		return next_from_lowest;
	next_from_lowest = np_now() + Max(LOWEST_INTERVAL, (np_now() - begun) * LOWEST_SHARE);
	begun = 0;
	return NP_FOREVER;
}

/* ---- Reading -------------------------------------------------------------------------- */

/* From which time on they are read. */
static Place
begin_walk(NpTime now)
{
	if (now >= next_walk)
	{
		walked = (Place) {DT_NOBEGIN, PG_INT64_MIN};
		walk_cost = 0;
		next_walk = NP_FOREVER;
	}
	return walked.time >= lowest ? walked : (Place) {lowest, PG_INT64_MIN};
}

/* A walk that has not come to its end goes on from there. */
static void
end_walk(const NpReading *reading, NpTime cost, TimestampTz now)
{
	if (reading->is_full)
		walked = (Place) {reading->stopped_at, reading->stopped_id};
	else if (walked.time < now - FLOOR_DISTANCE)
		walked = (Place) {now - FLOOR_DISTANCE, PG_INT64_MIN};
	walk_cost += cost;
	if (!reading->is_full && next_walk == NP_FOREVER)
		next_walk = np_now() + (walk_cost < CHEAP ? 0 : walk_cost * WALK_SHARE);
}

/* They have a share; false: there are more. */
static bool
read_due(NpReading *reading, TimestampTz now)
{
	NpTime		walk_begun = np_processor_time();
	Place		from = begin_walk(np_now());
	Datum		values[] = {TimestampTzGetDatum(from.time), Int64GetDatum(from.id)};
	int			share = reading->room / 4;
	int			rest;

	is_turn_of_due = !is_turn_of_due;
	if (share == 0 && is_turn_of_due)
		share = 1;
	rest = reading->room - share;
	reading->room = share;
	np_read_rows(&due_rows, reading->ordered, values, reading);
	reading->room += rest;
	end_walk(reading, np_processor_time() - walk_begun, now);
	return !reading->is_full;
}

/* When the next one is due.  If the first one of all is not, it is that. */
static NpTime
time_of_next(const NpWaiting *waiting, TimestampTz now)
{
	TimestampTz next = waiting->first;

	if (!waiting->any || (next <= now && !np_glance_after(now, &next)))
		return NP_FOREVER;
	return TIMESTAMP_NOT_FINITE(next) ? NP_FOREVER : np_now() + Min(next - now, NP_MILLISECONDS(INT_MAX));
}

static void
mend_all(void *count)
{
	np_outbox_execute(&mend_times, NULL, false);
	*(uint64 *) count = SPI_processed;
}

/*
 * Returns when it is to be looked at again: what somebody has locked is left
 * for then, and so are all if one of them can't be written, which holds up
 * nothing else.
 */
static NpTime
mend(void)
{
	uint64		count = 0;
	ErrorData  *error;

	if (np_now() < next_mend)
		return next_mend;
	next_mend = np_now() + MEND_INTERVAL;
	error = np_try_subtransaction(mend_all, &count);
	if (error != NULL)
		np_relay_slot_set_error(np_worker_slot(), error->message);
	if (error != NULL || count == 0)
		return next_mend;
	np_due_from_the_lowest();
	return 0;
}

/* What has failed, of which the last one is tried again at this time.  Returns when it is to be looked at again. */
static NpTime
read_failed(TimestampTz last, TimestampTz now, NpReading *reading, bool *has_more)
{
	NpTime		next = last > now + 4 * USECS_PER_DAY ? mend() : NP_FOREVER;

	if (np_probes_have_released())
		*has_more |= !np_probes_read_released(reading);
	if (last > now + NP_LONG_DELAY)
		next = Min(next, np_probes_read(reading));
	return next;
}

/*
 * Have the lanes take what is due of that which waits, and probe what no
 * stream takes.  Returns when there may be more.
 */
NpTime
np_due_read(const NpWaiting *waiting, NpReading *reading, bool *has_more)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	NpTime		lowest_again = raise_floor(waiting, now);
	NpTime		next = time_of_next(waiting, now);
	NpTime		failed = NP_FOREVER;

	if (waiting->any && waiting->first <= now)
		*has_more |= !read_due(reading, now);
	if (waiting->any_failed)
		failed = read_failed(waiting->last, now, reading, has_more);
	else
		np_probes_none();
	return Min(Min(next, failed), lowest_again);
}
