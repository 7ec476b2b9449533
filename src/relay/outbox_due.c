/*-------------------------------------------------------------------------
 *
 * outbox_due.c
 *	  Rows of the outbox that wait for their time.
 *
 * They are those that have failed, and those that were not to go before a
 * time, and come from an index on that.  Each attempt moves a row there, and
 * leaves an entry that is dead behind, until the table is vacuumed.  So what is
 * known is not asked again, but at times, for what others have written: no row
 * is looked for below a time before which there was none, and that some have
 * failed is taken to be so for a while.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "base/settings.h"
#include "relay/outbox_due.h"
#include "relay/outbox_probes.h"
#include "relay/outbox_table.h"

/* Who gives a row a time that has been, now() for example, commits within this, or the row is found at times. */
#define FLOOR_MARGIN	(10 * USECS_PER_SEC)

/* What is below the floor may be looked at for this share of the time. */
#define BELOW_SHARE		200

/* That rows have failed is taken to be so for so long. */
#define FAILED_INTERVAL	NP_MILLISECONDS(1000)

/* Of so many pages it is counted how many rows have failed; of more, so many are taken. */
#define SAMPLED_PAGES	256

static NpStatement read_next = {
	.text = "SELECT next_attempt_at FROM %1$s.nats_outbox WHERE next_attempt_at > now() ORDER BY next_attempt_at, id LIMIT 1"
};

static NpStatement read_last_failed = {
	.text = "SELECT next_attempt_at FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") " ORDER BY next_attempt_at DESC LIMIT 1"
};

/* Nothing that has failed is put off for so long, but by a clock that was wrong. */
static NpStatement mend_times = {
	.text = "UPDATE %1$s.nats_outbox SET next_attempt_at = now() WHERE id IN (SELECT id FROM %1$s.nats_outbox"
	" WHERE " NP_OUTBOX_FAILED("") " AND next_attempt_at > now() + interval '4 days' FOR UPDATE SKIP LOCKED)"
};

static NpStatement count_waiting = {
	.text = "SELECT count(*) FROM %1$s.nats_outbox TABLESAMPLE SYSTEM ($1) WHERE " NP_OUTBOX_FAILED(""),
	.argument_count = 1,
	.types = {FLOAT4OID}
};

/* In order, none before an earlier one of its subject that comes later here. */
#define FROM_DUE	" FROM %1$s.nats_outbox AS o WHERE o.next_attempt_at >= $1 AND o.next_attempt_at <= now()"
#define BY_TIME		" ORDER BY o.next_attempt_at, o.id"

static NpWay due_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_DUE BY_TIME,.argument_count = 1,.types = {TIMESTAMPTZOID}},
		{.text = NP_ROW_COLUMNS("false") FROM_DUE " AND NOT " NP_ROW_WAITS_FOR(" AND (w.next_attempt_at, w.id) > (o.next_attempt_at, o.id)")
		BY_TIME,.argument_count = 1,.types = {TIMESTAMPTZOID}}
	},
	.is_due = true
};

static TimestampTz floor_time = DT_NOBEGIN; /* no row waits for an earlier time, as far as is known */
static NpTime next_below;		/* when it is looked at what is below that */
static bool any_failed;			/* rows have failed, when it was asked last ... */
static TimestampTz last_failed; /* ... and the last of them is tried again at this time */
static NpTime next_asking;		/* when it is asked again, if they have */
static bool count_is_due;		/* it is to be counted how many have failed */
static bool is_turn_of_due;		/* when there is room for one row only */

/* No row is looked for that waits for an earlier time; to be told how long that took (np_due_asked). */
TimestampTz
np_due_floor(void)
{
	if (np_now() >= next_below)
		floor_time = DT_NOBEGIN;
	return floor_time;
}

void
np_due_asked(NpTime taken)
{
	if (floor_time == DT_NOBEGIN)
		next_below = np_now() + Max(NP_MILLISECONDS(np_relay_poll_interval), taken * BELOW_SHARE);
}

/* Nothing is known any more. */
void
np_due_look_again(void)
{
	next_below = 0;
	next_asking = 0;
	count_is_due = true;
}

/* Rows have been written that have failed, or had. */
void
np_due_written(void)
{
	next_asking = 0;
}

/* The time in the only row and column that a statement returns.  False: none. */
static bool
ask_time(NpStatement *statement, TimestampTz *time)
{
	bool		isnull = true;

	np_outbox_execute(statement, NULL, true);
	if (SPI_processed > 0)
		*time = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return !isnull;
}

/* ---- What has failed -------------------------------------------------------------------- */

static float4
sampled_percent(void)
{
	Relation	table = table_open(np_outbox_table(), AccessShareLock);
	BlockNumber pages = RelationGetNumberOfBlocks(table);

	table_close(table, AccessShareLock);
	return pages <= SAMPLED_PAGES ? 100 : 100.0 * SAMPLED_PAGES / pages;
}

/* About how many they are. */
static void
update_waiting(void)
{
	float4		percent = sampled_percent();
	Datum		values[] = {Float4GetDatum(percent)};
	bool		isnull;

	np_outbox_execute(&count_waiting, values, true);
	np_outbox_set_waiting(DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) * 100 / percent);
	count_is_due = false;
}

static void
none_failed(void)
{
	any_failed = false;
	np_outbox_set_waiting(0);
}

static void
ask_what_failed(NpTime *next_due)
{
	any_failed = ask_time(&read_last_failed, &last_failed);
	next_asking = np_now() + FAILED_INTERVAL;
	if (any_failed && last_failed > GetCurrentTransactionStartTimestamp() + 4 * USECS_PER_DAY)
	{
		np_outbox_execute(&mend_times, NULL, false);
		next_asking = *next_due = 0;
	}
	if (!any_failed)
		none_failed();
	else if (count_is_due)
		update_waiting();
}

/* ---- Reading ----------------------------------------------------------------------------- */

/* They have a share; false: there are more. */
static bool
read_due(NpReading *reading)
{
	Datum		values[] = {TimestampTzGetDatum(floor_time)};
	int			share = reading->room / 4;
	int			rest;

	is_turn_of_due = !is_turn_of_due;
	if (share == 0 && is_turn_of_due)
		share = 1;
	rest = reading->room - share;
	reading->room = share;
	np_read_rows(&due_rows, reading->ordered, values, reading);
	reading->room += rest;
	return !reading->is_full;
}

/* first: the time of the first of them. */
static void
read_waiting(NpReading *reading, TimestampTz first, NpTime *next_due, bool *has_more)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz next = first;

	if (!TIMESTAMP_NOT_FINITE(first))
		floor_time = Max(floor_time, Min(first, now) - FLOOR_MARGIN);
	if (first <= now)
	{
		if (!ask_time(&read_next, &next))
			next = DT_NOEND;
		*has_more |= !read_due(reading);
	}
	if (!TIMESTAMP_NOT_FINITE(next))
		*next_due = np_now() + Min(next - now, NP_MILLISECONDS(INT_MAX));
}

/*
 * Read what is due, or probed; first: the first time at which a row is due, not
 * before np_due_floor(); is_none: there is none.  *next_due: when the next one
 * is; *has_more is set if some could be read at once.  True: rows have failed,
 * and may hold up new ones.
 */
bool
np_due_read(NpReading *reading, TimestampTz first, bool is_none, NpTime *next_due, bool *has_more)
{
	if (!is_none)
		read_waiting(reading, first, next_due, has_more);
	if (is_none)
		none_failed();
	else if (!any_failed || np_now() >= next_asking)
		ask_what_failed(next_due);
	if (any_failed && last_failed > GetCurrentTransactionStartTimestamp() + NP_LONG_DELAY)
		*next_due = Min(*next_due, np_probes_read(reading, has_more));
	else
		np_probes_none();
	return any_failed;
}
