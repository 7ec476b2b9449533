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
#include "relay/outbox_glance.h"
#include "relay/relay_row.h"

/* The columns that are read, of the table o; held: does the row wait for another one? */
#define NP_ROW_COLUMNS(held) \
	"SELECT o.id, o.subject, o.payload, o.headers, o.msg_id, o.attempts, coalesce(starts_with(o.last_error, '58030'), false)," \
	" coalesce(strpos(o.last_error, '" NP_CULPRIT "') > 0, false), o.last_error IS NOT NULL OR o.attempts > 0, o.ctid, o.next_attempt_at, " held

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
	NpHolders  *holders;		/* for which rows may have to wait; NULL: the statement says whether they do */
	int			room;			/* for so many rows more */
	bool		is_full;		/* something was left by the last way ... */
	TimestampTz stopped_at;		/* ... of what is due: from this time on */
	int64		settled;		/* up to this id, all rows that there will ever be are seen */
} NpReading;

/* A way to read rows; the second statement keeps the order of each subject. */
typedef struct NpWay
{
	NpStatement statements[2];
	bool		is_due;			/* its rows have waited for their time */
	void		(*seen) (const NpReading *reading, int64 id);	/* each row; may be NULL */
	void		(*taken) (NpRow *row);	/* those that are not in hand already; may be NULL */
} NpWay;

extern void np_read_rows(NpWay *way, bool in_order, const Datum *values, NpReading *reading);

#endif							/* NP_OUTBOX_READ_H */
