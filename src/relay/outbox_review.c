/*-------------------------------------------------------------------------
 *
 * outbox_review.c
 *	  Rows of the outbox that have been read, and of which nothing is known any more.
 *
 * A row that was read is in hand, or is known to wait for another one.  But
 * somebody can write a row with an id of his own, edit one, or delete the one
 * for which it waits.  So each relay_poll_interval, or less often when that
 * takes long, all rows are looked at, in steps, between which the relay does
 * its work: there may be many that wait, or that are dead and can't be removed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "base/wait.h"
#include "relay/gaps.h"
#include "relay/lanes.h"
#include "relay/outbox_read.h"
#include "relay/outbox_review.h"
#include "relay/outbox_table.h"

/* It may take this share of the time, and a step this time. */
#define SHARE		200
#define STEP_TIME	NP_MILLISECONDS(1)

/* So many rows are looked at in a step at most. */
#define STEP_ROWS	"1000"

#define FROM_STEP	"SELECT o.id, o.msg_id, o.subject FROM %1$s.nats_outbox AS o WHERE o.id > $1 AND o.id <= $2 AND o.next_attempt_at IS NULL"
#define BY_ID		" ORDER BY o.id LIMIT " STEP_ROWS

static NpStatement read_step = {
	.text = FROM_STEP BY_ID,
	.argument_count = 2,
	.types = {INT8OID, INT8OID}
};

/* In order, without those that wait for one which is to be tried again. */
static NpStatement read_step_ordered = {
	.text = FROM_STEP " AND NOT " NP_ROW_WAITS_FOR("") BY_ID,
	.argument_count = 2,
	.types = {INT8OID, INT8OID}
};

static NpTime next_review;
static bool is_under_way;
static bool is_asked;			/* for another one behind it */
static int64 reviewed;			/* up to this id */
static int64 stride = 1;		/* among so many ids in a step */
static NpTime cost;				/* it has taken so long */

/* Somebody may have changed rows that were read. */
void
np_review_again(void)
{
	is_asked = true;
}

/* True: a review begins now. */
bool
np_review_begins(void)
{
	if (is_under_way || (!is_asked && np_now() < next_review))
		return false;
	is_under_way = true;
	is_asked = false;
	reviewed = 0;
	cost = 0;
	return true;
}

bool
np_review_is_under_way(void)
{
	return is_under_way;
}

/*
 * A row that is in the table: if nothing is known of it, from which id on it is
 * to be read again; else 0.
 */
static int64
find_lost(HeapTuple tuple, int64 id)
{
	bool		isnull;
	char	   *msg_id = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2);
	NpSpan		subject;

	if (np_row_find(id, msg_id) != NULL || np_gaps_have(id))
		return 0;
	subject = np_text_to_utf8(DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &isnull)));
	return np_lanes_lost(subject, id);
}

/* Look at the rows up to this id; returns from which id on rows are to be read again, 0: none are. */
static int64
look_at_rows(int64 last, bool ordered)
{
	Datum		values[] = {Int64GetDatum(reviewed), Int64GetDatum(last)};
	bool		isnull;

	np_outbox_execute(ordered ? &read_step_ordered : &read_step, values, true);
	reviewed = last;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		int64		id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		int64		lost = find_lost(tuple, id);

		if (lost != 0)
			return lost;
		if (i + 1 == atoi(STEP_ROWS))
			reviewed = id;
	}
	return 0;
}

/* The next step is to take as long as it should. */
static void
choose_stride(NpTime taken)
{
	if (taken < STEP_TIME / 2)
		stride = Min(stride * 2, PG_INT64_MAX / 2);
	else if (taken > STEP_TIME)
		stride = Max(stride / (taken / STEP_TIME + 1), 1);
}

/*
 * One step of the review that is under way, of the rows up to position, which
 * have been read.  Returns from which id on they are to be read again, which
 * ends the review; 0: none are.
 */
int64
np_review_step(int64 position, bool ordered)
{
	NpTime		begun = np_now();
	int64		lost = look_at_rows(Min(position, reviewed > PG_INT64_MAX - stride ? PG_INT64_MAX : reviewed + stride), ordered);
	NpTime		now = np_now();

	cost += now - begun;
	choose_stride(now - begun);
	if (lost != 0 || reviewed >= position)
	{
		is_under_way = false;
		next_review = now + Max(NP_MILLISECONDS(np_relay_poll_interval), cost * SHARE);
	}
	return lost;
}
