/*-------------------------------------------------------------------------
 *
 * outbox_source.c
 *	  The outbox as a source of messages: what is new, and what is due again.
 *
 * New rows are read in the order of their ids, from a position on that only
 * grows, so that the rows that were deleted are not walked again.  Rows with
 * lower ids that appear later, when their transactions commit, are read from
 * the gaps that they have left.  Rows that have failed, and those that were
 * not to go before a time, come from an index on next_attempt_at; they have a
 * share of each look, and new rows the rest.
 *
 * In order, a new row behind one that has failed is passed by (lanes.c), and
 * read again when nothing holds it up any more.  And each relay_poll_interval,
 * or less often when that takes long, all is read from the first row on: for
 * rows that somebody has written with an id of his own, has edited, or has
 * deleted others before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/settings.h"
#include "outbox/outbox.h"
#include "outbox/relay_pause.h"
#include "relay/gaps.h"
#include "relay/lanes.h"
#include "relay/outbox_source.h"
#include "relay/outbox_table.h"
#include "relay/settled.h"

/* The columns that it reads. */
enum
{
	READ_ID = 1,
	READ_SUBJECT,
	READ_PAYLOAD,
	READ_HEADERS,
	READ_MSG_ID,
	READ_ATTEMPTS,
	READ_IN_DOUBT,
	READ_IS_SUSPECT,
	READ_HAS_FAILED,
	READ_IS_HELD
};

#define FETCH_ROWS		100

/* What can be headers takes less than this as jsonb. */
#define MAX_HEADERS		(1024 * 1024)

/* The share of the time that looks from the first row on may take, and the least time between others that go back. */
#define FULL_LOOK_SHARE	20
#define BACK_INTERVAL	NP_MILLISECONDS(1000)

#define COLUMNS(held) \
	"SELECT o.id, o.subject, o.payload, o.headers, o.msg_id, o.attempts, coalesce(starts_with(o.last_error, '58030'), false)," \
	" coalesce(strpos(o.last_error, '" NP_CULPRIT "') > 0, false), o.last_error IS NOT NULL OR o.attempts > 0, " held

/* Another row of the same subject waits to be tried again. */
#define WAITS_FOR(which) \
	"EXISTS (SELECT FROM %1$s.nats_outbox AS w WHERE " NP_OUTBOX_FAILED("w.") \
	" AND left(w.subject, 500) COLLATE \"C\" = left(o.subject, 500) COLLATE \"C\" AND w.subject = o.subject AND w.id < o.id" which ")"

#define FROM_NEW	" FROM %1$s.nats_outbox AS o WHERE o.id > $1 AND o.next_attempt_at IS NULL ORDER BY o.id"
#define FROM_GAPS	" FROM unnest($1, $2) AS gap (first, last) CROSS JOIN LATERAL (SELECT * FROM %1$s.nats_outbox AS o" \
	" WHERE o.id BETWEEN gap.first AND gap.last AND o.next_attempt_at IS NULL ORDER BY o.id) AS o"
#define FROM_DUE	" FROM %1$s.nats_outbox AS o WHERE o.next_attempt_at <= now()"

/* A way to read rows; the second one keeps the order of each subject. */
static NpStatement new_rows[] = {
	{.text = COLUMNS("false") FROM_NEW,.argument_count = 1,.types = {INT8OID}},
	{.text = COLUMNS(WAITS_FOR("")) FROM_NEW,.argument_count = 1,.types = {INT8OID}}
};

static NpStatement gap_rows[] = {
	{.text = COLUMNS("false") FROM_GAPS,.argument_count = 2,.types = {INT8ARRAYOID, INT8ARRAYOID}},
	{.text = COLUMNS(WAITS_FOR("")) FROM_GAPS,.argument_count = 2,.types = {INT8ARRAYOID, INT8ARRAYOID}}
};

/* In order, none before an earlier one of its subject that comes later here. */
static NpStatement due_rows[] = {
	{.text = COLUMNS("false") FROM_DUE " ORDER BY o.next_attempt_at, o.id"},
	{.text = COLUMNS("false") FROM_DUE " AND NOT " WAITS_FOR(" AND (w.next_attempt_at, w.id) > (o.next_attempt_at, o.id)")
	" ORDER BY o.next_attempt_at, o.id"}
};

/*
 * What no stream takes, and is not tried soon: the first rows, from a subject
 * on, or before another one.
 */
#define FROM_STREAMLESS	" FROM %1$s.nats_outbox AS o WHERE " NP_OUTBOX_FAILED("o.") " AND o.next_attempt_at > now() + interval '30 s'" \
	" AND left(o.last_error, 5) IN ('42704', '0A000', '58030') AND left(o.subject, 500) COLLATE \"C\" >= $1"
#define BEFORE	" AND left(o.subject, 500) COLLATE \"C\" < $2"
#define BY_SUBJECT	" ORDER BY left(o.subject, 500) COLLATE \"C\", o.id"

static NpStatement probe_rows[] = {
	{.text = COLUMNS("false") FROM_STREAMLESS BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}},
	{.text = COLUMNS("false") FROM_STREAMLESS " AND NOT " WAITS_FOR("") BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}}
};

static NpStatement released_rows[] = {
	{.text = COLUMNS("false") FROM_STREAMLESS BEFORE BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}},
	{.text = COLUMNS("false") FROM_STREAMLESS BEFORE " AND NOT " WAITS_FOR("") BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}}
};

static NpStatement read_control = {
	.text = "SELECT EXISTS (SELECT FROM %1$s.nats_control WHERE paused), last_value - (NOT is_called)::int4"
	" FROM %1$s.nats_outbox_id_seq"
};

/* When the first row is due, when the next one is, and when the last one that has failed is. */
static NpStatement read_times = {
	.text = "SELECT (SELECT next_attempt_at FROM %1$s.nats_outbox WHERE next_attempt_at IS NOT NULL ORDER BY next_attempt_at, id LIMIT 1),"
	" (SELECT next_attempt_at FROM %1$s.nats_outbox WHERE next_attempt_at > now() ORDER BY next_attempt_at, id LIMIT 1),"
	" (SELECT next_attempt_at FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") " ORDER BY next_attempt_at DESC LIMIT 1)"
};

/* Nothing that has failed is put off for so long, but by a clock that was wrong. */
static NpStatement mend_times = {
	.text = "UPDATE %1$s.nats_outbox SET next_attempt_at = now() WHERE id IN (SELECT id FROM %1$s.nats_outbox"
	" WHERE " NP_OUTBOX_FAILED("") " AND next_attempt_at > now() + interval '1 day' FOR UPDATE SKIP LOCKED)"
};

static NpStatement count_waiting = {
	.text = "SELECT count(*) FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("")
};

/* So many rows are probed at a time, in these intervals. */
#define PROBES				8
#define FIRST_PROBE_DELAY	NP_MILLISECONDS(1000)
#define LAST_PROBE_DELAY	NP_MILLISECONDS(30000)

/* What is put off for longer, by FROM_STREAMLESS. */
#define LONG_DELAY		(30 * USECS_PER_SEC)

/* What follows a token and a dot, and all that comes behind it, in the order of bytes. */
#define AFTER_TOKEN		"/"

#define MAX_TOKEN		256

static Oid	table_of_all;		/* that the rest is about */
static int64 last_given;		/* the last id that its sequence had given */
static int64 position;			/* new rows have been read up to this id */
static bool is_at_end;			/* there were no more when it was looked last */
static bool gaps_are_due;		/* rows can have appeared there since they were read */
static bool is_turn_of_due;		/* when there is room for one row only */
static NpTime next_full_look;	/* from the first row on; NP_FOREVER: one is under way ... */
static int64 full_look_end;		/* ... up to this id ... */
static NpTime full_look_cost;	/* ... and has taken so long */
static NpTime last_back;		/* when it went back last */
static NpTime next_probe;
static NpTime probe_delay = FIRST_PROBE_DELAY;

/* ---- Position ------------------------------------------------------------------------ */

/* Read new rows again from this id on. */
void
np_source_go_back(int64 id)
{
	position = Min(position, id - 1);
	np_gaps_cut(0, position);
	np_lanes_revisit(id);
}

/* Somebody may have changed rows that were read: read all again. */
void
np_source_look_again(void)
{
	if (next_full_look != NP_FOREVER)
		next_full_look = 0;
}

/* It is another table, or was emptied and begins anew. */
static void
begin_anew(void)
{
	(void) np_lanes_clear();
	np_source_go_back(1);
	next_full_look = 0;
	table_of_all = np_outbox_table();
}

static void
choose_position(NpTime now)
{
	if (now >= next_full_look)
	{
		next_full_look = NP_FOREVER;
		full_look_end = position;
		full_look_cost = 0;
		np_source_go_back(1);
	}
	else if (np_lanes_free() != 0 && (is_at_end || now >= last_back + BACK_INTERVAL))
	{
		last_back = now;
		np_source_go_back(np_lanes_free());
	}
}

static void
account(NpTime begun)
{
	NpTime		now = np_now();

	if (next_full_look != NP_FOREVER)
		return;
	full_look_cost += now - begun;
	if (is_at_end || position >= full_look_end)
		next_full_look = now + Max(NP_MILLISECONDS(np_relay_poll_interval), full_look_cost * FULL_LOOK_SHARE);
}

/* ---- Rows ------------------------------------------------------------------------------ */

static MemoryContext scratch;	/* of one row; NULL: not used yet */

static NpSpan
get_text(HeapTuple tuple, int column)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &isnull));

	return np_to_utf8(pnstrdup(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)), VARSIZE_ANY_EXHDR(value));
}

/* The length of a value that need not be read for that; 0 for NULL. */
static size_t
length_of(HeapTuple tuple, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : toast_raw_datum_size(value) - VARHDRSZ;
}

static NpSpan
get_payload(HeapTuple tuple)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, READ_PAYLOAD, &isnull);
	bytea	   *payload;

	if (isnull)
		return (NpSpan) {NULL, 0};
	payload = DatumGetByteaPP(value);
	return (NpSpan) {VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload)};
}

static void
build_message(HeapTuple tuple, NpRow *row)
{
	NpMessageOptions options = {.headers = NULL};
	NpMessage	message;
	bool		isnull;
	Datum		headers = SPI_getbinval(tuple, SPI_tuptable->tupdesc, READ_HEADERS, &isnull);

	if (length_of(tuple, READ_HEADERS) > MAX_HEADERS)
		np_raise_fault(NP_FAULT_SIZE, NULL, "headers are longer than nats-server takes");
	if (!isnull)
		options.headers = DatumGetJsonbP(headers);
	options.msg_id = get_text(tuple, READ_MSG_ID);
	np_message_build(&message, row->message.subject, get_payload(tuple), &options);
	np_row_take(row, &message);
}

/*
 * Have the message of a row.  What can't be published (the table's check can
 * be gone round) has failed.  The error is caught without a subtransaction, as
 * nothing that np_message_build does has to be undone.
 */
static void
take_message(HeapTuple tuple, NpRow *row)
{
	PG_TRY();
	{
		build_message(tuple, row);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(scratch);
		error = CopyErrorData();
		FlushErrorState();
		np_row_refuse(row, unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
}

/* One look. */
typedef struct Reading
{
	NpOutboxLook *look;
	int			room;			/* for so many rows more */
	bool		is_full;		/* something was left */
	bool		probes;			/* it looks whether a stream is there by now */
	int64		settled;		/* up to this id, all rows that there will ever be are seen */
} Reading;

static char probed[MAX_TOKEN];	/* the first token of the subject that was probed last; "": none */
static char released[MAX_TOKEN];	/* that of subjects which a stream takes by now, so that their rows go;
									 * "": none */

/* In the database's encoding; empty if it is too long, which then begins again with the first one. */
static void
remember_token(char *token, NpSpan subject)
{
	const char *end = memchr(subject.data, '.', subject.length);
	char	   *text = np_from_utf8((NpSpan) {subject.data, end == NULL ? subject.length : end - subject.data});

	token[0] = '\0';
	if (strlen(text) < MAX_TOKEN)
		strlcpy(token, text, MAX_TOKEN);
}

static void
enter_row(HeapTuple tuple, const Reading *reading, NpRow *row)
{
	TupleDesc	columns = SPI_tuptable->tupdesc;
	bool		isnull;

	row->attempts = DatumGetInt32(SPI_getbinval(tuple, columns, READ_ATTEMPTS, &isnull));
	row->in_doubt = DatumGetBool(SPI_getbinval(tuple, columns, READ_IN_DOUBT, &isnull));
	row->has_failed = DatumGetBool(SPI_getbinval(tuple, columns, READ_HAS_FAILED, &isnull));
	row->is_suspect = DatumGetBool(SPI_getbinval(tuple, columns, READ_IS_SUSPECT, &isnull));
	row->is_unread = length_of(tuple, READ_PAYLOAD) > reading->look->largest;
	if (row->is_unread)
		row->length = length_of(tuple, READ_PAYLOAD);
	else
		take_message(tuple, row);
}

/* Take a row, unless it is in hand already, or has to wait.  In the scratch context. */
static bool
take_row(HeapTuple tuple, Reading *reading, int64 id, bool is_due)
{
	TupleDesc	columns = SPI_tuptable->tupdesc;
	char	   *msg_id = SPI_getvalue(tuple, columns, READ_MSG_ID);
	NpSpan		subject;
	bool		isnull;
	NpRow	   *row;

	if (np_row_find(id, msg_id) != NULL)
		return false;
	subject = get_text(tuple, READ_SUBJECT);
	if (DatumGetBool(SPI_getbinval(tuple, columns, READ_IS_HELD, &isnull)))
	{
		np_lanes_pass(subject, id);
		return false;
	}
	row = np_row_create(id, msg_id, subject);
	row->is_probe = reading->probes;
	if (reading->probes)
		remember_token(probed, subject);
	row->is_due = is_due;
	if (!np_lanes_enter(row, reading->look->ordered))
	{
		np_row_free(row);
		return false;
	}
	enter_row(tuple, reading, row);
	return true;
}

static bool
has_room(const Reading *reading)
{
	return reading->room > 0 && np_rows_bytes() < (int64) np_max_pending_bytes * 1024;
}

/* Visit the fetched rows while there is room. */
static void
visit_fetched(Reading *reading, bool is_due, void (*seen) (const Reading *reading, int64 id))
{
	MemoryContext previous = MemoryContextSwitchTo(scratch);
	bool		isnull;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		int64		id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, READ_ID, &isnull));

		if (!has_room(reading))
		{
			reading->is_full = true;
			break;
		}
		if (seen != NULL)
			seen(reading, id);
		if (take_row(tuple, reading, id, is_due))
			reading->room--;
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(previous);
}

/* Execute a way to read rows, to its end or as long as there is room. */
static void
visit_rows(NpStatement *ways, bool ordered, Datum *values, Reading *reading, bool is_due,
		   void (*seen) (const Reading *reading, int64 id))
{
	Portal		cursor = SPI_cursor_open(NULL, np_outbox_plan(&ways[ordered ? 1 : 0]), values, NULL, true);

	reading->is_full = false;
	for (;;)
	{
		SPI_cursor_fetch(cursor, true, Min(FETCH_ROWS, reading->room + 1));
		if (SPI_processed == 0)
			break;
		visit_fetched(reading, is_due, seen);
		SPI_freetuptable(SPI_tuptable);
		if (reading->is_full)
			break;
	}
	SPI_cursor_close(cursor);
}

/* What became of a row that was probed. */
void
np_source_probed(const NpRow *row)
{
	char		token[MAX_TOKEN];

	remember_token(token, row->message.subject);
	if (row->state == NP_ROW_STORED)
	{
		strlcpy(released, token, MAX_TOKEN);
		probe_delay = FIRST_PROBE_DELAY;
	}
	else if (row->waits_for_stream && strcmp(released, token) == 0)
		released[0] = '\0';
}

/* Are there rows that wait for a stream which is there by now? */
bool
np_source_has_released(void)
{
	return released[0] != '\0';
}

/* ---- Ways to read ------------------------------------------------------------------- */

static void
seen_in_gap(const Reading *reading, int64 id)
{
	np_gaps_remove(id);
}

/* False: not all of them, for want of room. */
static bool
read_gaps(Reading *reading, bool ordered)
{
	int			count;
	const NpGap *gaps = np_gaps(&count);
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
	visit_rows(gap_rows, ordered, values, reading, false, seen_in_gap);
	return !reading->is_full;
}

/* A new row: those with lower ids that were not seen can appear later. */
static void
seen_new(const Reading *reading, int64 id)
{
	np_gaps_add(Max(position, reading->settled) + 1, id - 1);
	position = id;
}

static void
read_new(Reading *reading, bool ordered)
{
	Datum		values[] = {Int64GetDatum(position)};

	visit_rows(new_rows, ordered, values, reading, false, seen_new);
	is_at_end = !reading->is_full;
	if (is_at_end)
		position = Max(position, reading->settled);
}

static void
read_due(Reading *reading)
{
	int			share = reading->room / 4;
	int			rest;

	is_turn_of_due = !is_turn_of_due;
	if (share == 0 && is_turn_of_due)
		share = 1;
	rest = reading->room - share;
	reading->room = share;
	visit_rows(due_rows, reading->look->ordered, NULL, reading, true, NULL);
	reading->look->has_more |= reading->is_full;
	reading->room += rest;
}

/*
 * Rows that no stream takes are put off for the longer, the more there are.
 * So that they go when there is one, a few are tried meanwhile, of one first
 * token of their subjects each; when one is stored, the others with that
 * token follow.
 */
static void
read_probes(Reading *reading)
{
	reading->probes = true;
	for (int i = 0; i < PROBES && reading->room > 0; i++)
	{
		Datum		values[] = {CStringGetTextDatum(psprintf("%s%s", probed, probed[0] == '\0' ? "" : AFTER_TOKEN))};
		int			before = reading->room;

		reading->room = 1;
		visit_rows(probe_rows, reading->look->ordered, values, reading, true, NULL);
		if (reading->room > 0)
		{
			reading->room = before;
			probed[0] = '\0';
			break;
		}
		reading->room = before - 1;
	}
	reading->probes = false;
	next_probe = np_now() + probe_delay;
	probe_delay = Min(probe_delay * 2, LAST_PROBE_DELAY);
}

static void
read_released(Reading *reading)
{
	Datum		values[] = {CStringGetTextDatum(released), CStringGetTextDatum(psprintf("%s%s", released, AFTER_TOKEN))};
	int			share = Max(reading->room / 4, 1);
	int			rest = reading->room - share;

	reading->probes = true;
	reading->room = share;
	visit_rows(released_rows, reading->look->ordered, values, reading, true, NULL);
	reading->look->has_more |= reading->is_full;
	if (!reading->is_full)
		released[0] = '\0';
	reading->probes = false;
	reading->room += rest;
}

static void
read_streamless(Reading *reading)
{
	if (released[0] != '\0' && reading->room > 0)
		read_released(reading);
	else if (np_now() >= next_probe && reading->room > 0)
		read_probes(reading);
	reading->look->next_due = Min(reading->look->next_due, next_probe);
}

static TimestampTz
get_time(int column, bool *isnull)
{
	return DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull));
}

/* What has failed: the last of it is tried again at this time. */
static void
read_failed(Reading *reading, TimestampTz last, TimestampTz now)
{
	if (last > now + USECS_PER_DAY)
	{
		np_outbox_execute(&mend_times, NULL, false);
		reading->look->next_due = 0;
	}
	if (last > now + LONG_DELAY)
		read_streamless(reading);
	else
		released[0] = '\0';
}

/* What waits for its time; false: nothing of it has failed. */
static bool
read_waiting(Reading *reading)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz first;
	TimestampTz next;
	TimestampTz last;
	bool		none_waits;
	bool		none_comes;
	bool		none_failed;

	np_outbox_execute(&read_times, NULL, true);
	first = get_time(1, &none_waits);
	next = get_time(2, &none_comes);
	last = get_time(3, &none_failed);
	if (!none_comes && !TIMESTAMP_NOT_FINITE(next))
		reading->look->next_due = np_now() + Min(next - now, NP_MILLISECONDS(INT_MAX));
	if (!none_waits && first <= now)
		read_due(reading);
	read_failed(reading, none_failed ? now : last, now);
	return !none_failed;
}

static void
update_waiting(bool is_any)
{
	bool		isnull;

	if (!is_any)
		np_outbox_set_waiting(0);
	else if (next_full_look == NP_FOREVER && full_look_cost == 0)
	{
		np_outbox_execute(&count_waiting, NULL, true);
		np_outbox_set_waiting(DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)));
	}
}

static void
read_rows(Reading *reading)
{
	NpOutboxLook *look = reading->look;
	bool		is_any = read_waiting(reading);
	bool		ordered = look->ordered && is_any;

	update_waiting(is_any);
	if (gaps_are_due)
		gaps_are_due = !read_gaps(reading, ordered);
	/* a new row must not overtake one of the same session that is in a gap */
	if (!gaps_are_due)
	{
		np_gaps_cut(reading->settled, position);
		read_new(reading, ordered);
	}
	look->has_more |= gaps_are_due || !is_at_end;
}

/* ---- Looking -------------------------------------------------------------------------- */

/* Returns whether the relay is paused. */
static bool
look_at_control(void)
{
	int64		given;
	bool		isnull;
	bool		paused;

	np_outbox_execute(&read_control, NULL, true);
	paused = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	given = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	if (np_outbox_table() != table_of_all || given < last_given)
		begin_anew();
	last_given = given;
	return paused || np_pause_is_marked();
}

static void
look_inside(NpOutboxLook *look)
{
	Reading		reading = {.look = look,.room = look->room};
	bool		some_ended;

	look->session = np_outbox_session();
	if (look_at_control())
	{
		look->state = NP_OUTBOX_PAUSED;
		return;
	}
	look->state = NP_OUTBOX_THERE;
	reading.settled = np_settled(np_outbox_table(), last_given, &some_ended);
	gaps_are_due |= some_ended;
	np_outbox_refresh();
	choose_position(np_now());
	read_rows(&reading);
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
	MemoryContext caller;

	if (scratch == NULL)
		scratch = AllocSetContextCreate(TopMemoryContext, "nats_publish relay row", ALLOCSET_DEFAULT_SIZES);
	look->has_more = false;
	look->next_due = NP_FOREVER;
	look->state = NP_OUTBOX_ABSENT;
	if (np_outbox_begin(&caller))
		look_inside(look);
	np_outbox_commit(caller);
	if (look->state == NP_OUTBOX_THERE)
		account(begun);
}
