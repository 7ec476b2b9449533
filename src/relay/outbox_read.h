/*-------------------------------------------------------------------------
 *
 * outbox_read.h
 *	  Rows of the outbox, read by a statement and handed to the lanes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_READ_H
#define NP_OUTBOX_READ_H

#include "outbox/outbox.h"
#include "outbox/statement.h"
#include "relay/relay_row.h"

/*
 * The columns that are read, of the table o; held: does the row wait for another
 * one?  Of types that we know, whatever the owner has made of the columns.
 */
#define NP_ROW_COLUMNS(held) \
	"SELECT o.id::int8, o.subject::text, o.payload::bytea, o.headers::jsonb, o.msg_id::text, greatest(o.attempts, 0)::int4," \
	" coalesce(starts_with(o.last_error::text, '" NP_ROW_IN_DOUBT "'), false), coalesce(strpos(o.last_error::text, '" NP_CULPRIT "') > 0, false)," \
	" o.last_error IS NOT NULL OR coalesce(o.attempts > 0, false), o.ctid::tid, o.next_attempt_at::timestamptz, " held \
	", CASE WHEN starts_with(o.last_error::text, '" NP_ROW_UNBURIED "') THEN substr(o.last_error::text, length('" NP_ROW_UNBURIED "') + 1) END"

/* Another row of the same subject waits to be tried again. */
#define NP_ROW_WAITS_FOR(which) \
	"EXISTS (SELECT FROM %1$s.nats_outbox AS w WHERE " NP_OUTBOX_FAILED("w.") \
	" AND left(w.subject, 500) COLLATE \"C\" = left(o.subject, 500) COLLATE \"C\" AND w.subject = o.subject AND w.id < o.id" which ")"

/* None does.  Not as NOT EXISTS, which is planned as a join, that can go through all that have failed for each row. */
#define NP_ROW_IS_FREE(which)	NP_ROW_WAITS_FOR(which) " IS NOT TRUE"

/* One look. */
typedef struct NpReading
{
	size_t		largest;		/* payload that is read */
	bool		ordered;
	int			room;			/* for so many rows more */
	bool		is_full;		/* something was left by the last way ... */
	TimestampTz stopped_at;		/* ... of what is due: from this time on, ... */
	int64		stopped_id;		/* ... and of what has that time, from this id on */
	int64		horizon;		/* up to this id, all rows that there will ever be are seen */
} NpReading;

/* Which rows of its subject a row must not overtake, where order is kept: */
typedef enum NpHeldBy
{
	NP_HELD_BY_STATEMENT,		/* those that the statement says */
	NP_HELD_BY_FAILED,			/* all that are tried again, or were passed by */
	NP_HELD_BY_FAILED_ELSEWHERE /* those of them that are not in hand */
} NpHeldBy;

/*
 * A way to read rows.  The second statement keeps the order of each subject by
 * itself; it is taken where the tables are not as the extension has made them.
 */
typedef struct NpWay
{
	NpStatement statements[2];
	NpHeldBy	held_by;
	bool		is_due;			/* its rows have waited for their time */
	void		(*seen) (const NpReading *reading, int64 id);	/* each row; may be NULL */
	void		(*taken) (NpRow *row);	/* those that are not in hand already; may be NULL */
} NpWay;

extern void np_read_rows(NpWay *way, bool in_order, const Datum *values, NpReading *reading);

#endif							/* NP_OUTBOX_READ_H */
