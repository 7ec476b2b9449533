/*-------------------------------------------------------------------------
 *
 * outbox_probes.c
 *	  What no stream takes: whether one does by now.
 *
 * Rows that wait for a stream, for room in it, or for a permission are each
 * tried only rarely, when they are many.  So a few of them are tried besides,
 * of subjects with different first tokens.  When one is stored, the others
 * with its first token are released: first those that follow it in the order
 * of subjects, then all of them.  A few are on their way at first, and more
 * with each that is stored.  One that fails for the same kind of reason ends
 * it, for a second at least.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/encoding.h"
#include "relay/outbox_probes.h"

/* So many rows are probed at a time, in these intervals. */
#define PROBES				8
#define FIRST_PROBE_DELAY	NP_MILLISECONDS(1000)
#define LAST_PROBE_DELAY	NP_MILLISECONDS(30000)

/* So many are on their way at first. */
#define FIRST_WINDOW		8

/* In the order of bytes, behind a subject, and behind all that begin with a token and a dot. */
#define AFTER_SUBJECT	"\001"
#define AFTER_TOKEN		"/"

/* 500 characters, which is what the index has of a subject. */
#define MAX_SUBJECT		2048

/* Where rows are released, one after the other. */
typedef enum Stage
{
	RELEASES_NOTHING,
	RELEASES_FOLLOWING,			/* what follows the subject that was stored */
	RELEASES_DEEPER,			/* all with its first token and others */
	RELEASES_TOKEN				/* and that alone */
} Stage;

static char next_probed[MAX_SUBJECT];	/* the subject from which on the next row is probed; "": from the
										 * first one */
static NpTime next_probe;
static NpTime probe_delay = FIRST_PROBE_DELAY;
static Stage stage;
static char stored[MAX_SUBJECT];	/* the subject that has released others ... */
static char released[MAX_SUBJECT];	/* ... and its first token */
static int	window;				/* so many may be on their way */
static NpTime next_release;		/* not before, for the last one was ended by a row that failed */

/* A text in the database's encoding; false: it is too long. */
static bool
copy(char *to, NpSpan text)
{
	return strlcpy(to, np_from_utf8(text), MAX_SUBJECT) < MAX_SUBJECT - 1;
}

/* The first token; true: there are others. */
static bool
first_token(NpSpan subject, NpSpan *token)
{
	const char *end = memchr(subject.data, '.', subject.length);

	*token = (NpSpan) {subject.data, end == NULL ? subject.length : end - subject.data};
	return end != NULL;
}

/* ---- What becomes of them --------------------------------------------------------------- */

static void
release(NpSpan subject, NpSpan token)
{
	if (copy(stored, subject) && copy(released, token))
	{
		stage = RELEASES_FOLLOWING;
		window = FIRST_WINDOW;
	}
}

static bool
is_released(NpSpan token)
{
	return stage != RELEASES_NOTHING && strcmp(released, np_from_utf8(token)) == 0;
}

static void
on_stored(NpSpan subject, NpSpan token)
{
	probe_delay = FIRST_PROBE_DELAY;
	if (is_released(token))
		window = Min(window + 1, INT_MAX - 1);
	/* those of that token are found by the next probe */
	else if (stage != RELEASES_NOTHING)
		next_probe = 0;
	else if (np_now() < next_release)
		next_probe = Min(next_probe, next_release);
	else
		release(subject, token);
}

/* What became of a row that was probed, or had failed. */
void
np_probes_ended(NpRow *row)
{
	NpSpan		token;

	(void) first_token(row->message.subject, &token);
	np_row_set_released(row, false);
	if (row->state == NP_ROW_STORED)
		on_stored(row->message.subject, token);
	else if (row->is_probe && np_row_waits_for_others(row) && is_released(token))
	{
		stage = RELEASES_NOTHING;
		next_release = np_now() + FIRST_PROBE_DELAY;
	}
}

/* Are there rows that wait for a stream which is there by now, and may more of them go? */
bool
np_probes_have_released(void)
{
	return stage != RELEASES_NOTHING && np_rows_released() < window;
}

/* Nothing is released: there is nothing, or nothing is sent. */
void
np_probes_none(void)
{
	stage = RELEASES_NOTHING;
}

/* ---- Reading ---------------------------------------------------------------------------- */

static void
take_probe(NpRow *row)
{
	NpSpan		token;
	bool		is_deep = first_token(row->message.subject, &token);

	row->is_probe = true;
	if (!copy(next_probed, token) ||
		strlcat(next_probed, is_deep ? AFTER_TOKEN : AFTER_SUBJECT, MAX_SUBJECT) >= MAX_SUBJECT)
		next_probed[0] = '\0';
}

static void
take_released(NpRow *row)
{
	row->is_probe = true;
	np_row_set_released(row, true);
}

/*
 * What waits for others (np_row_waits_for_others()), and is not tried within
 * some time: the first rows, from a subject on, or before another one.
 */
#define FROM_WAITING(time) " FROM %1$s.nats_outbox AS o WHERE " NP_OUTBOX_FAILED("o.") " AND o.next_attempt_at > now() + interval '" time "'" \
	" AND (left(o.last_error, 2) IN ('42', '53', '0A') OR starts_with(o.last_error, '" NP_ROW_IN_DOUBT "')) AND left(o.subject, 500) COLLATE \"C\" >= $1"
#define BEFORE	" AND left(o.subject, 500) COLLATE \"C\" < $2"
#define BY_SUBJECT	" ORDER BY left(o.subject, 500) COLLATE \"C\", o.id"

static NpWay probe_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_WAITING("30 s") BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}},
		{.text = NP_ROW_COLUMNS("false") FROM_WAITING("30 s") " AND " NP_ROW_IS_FREE("") BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}}
	},
	.is_due = true,
	.taken = take_probe
};

static NpWay released_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_WAITING("0") BEFORE BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}},
		{.text = NP_ROW_COLUMNS("false") FROM_WAITING("0") BEFORE " AND " NP_ROW_IS_FREE("") BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}}
	},
	.held_by = NP_HELD_BY_FAILED_ELSEWHERE,
	.is_due = true,
	.taken = take_released
};

/* One row at a time, of the next token each. */
static void
read_probes(NpReading *reading)
{
	for (int i = 0; i < PROBES && reading->room > 0; i++)
	{
		Datum		values[] = {CStringGetTextDatum(next_probed)};
		int			before = reading->room;

		reading->room = 1;
		np_read_rows(&probe_rows, reading->ordered, values, reading);
		if (reading->room > 0)
		{
			reading->room = before;
			next_probed[0] = '\0';
			break;
		}
		reading->room = before - 1;
	}
	next_probe = np_now() + probe_delay;
	probe_delay = Min(probe_delay * 2, LAST_PROBE_DELAY);
}

/* From where to where. */
static void
find_range(Datum values[2])
{
	const char *from = released;
	const char *before = AFTER_TOKEN;

	if (stage == RELEASES_FOLLOWING)
		from = stored;
	else if (stage == RELEASES_DEEPER)
		from = psprintf("%s.", released);
	if (stage == RELEASES_TOKEN || strcmp(from, released) == 0)
		before = AFTER_SUBJECT;
	values[0] = CStringGetTextDatum(from);
	values[1] = CStringGetTextDatum(psprintf("%s%s", released, before));
}

/* Read what is released.  They have a share; false: there are more. */
bool
np_probes_read_released(NpReading *reading)
{
	Datum		values[2];
	int			most = Min(window - np_rows_released(), Max(reading->room / 4, 1));
	int			rest = reading->room - most;

	if (reading->room == 0)
		return false;
	find_range(values);
	reading->room = most;
	np_read_rows(&released_rows, reading->ordered, values, reading);
	reading->room += rest;
	if (!reading->is_full)
		stage = stage == RELEASES_TOKEN ? RELEASES_NOTHING : stage + 1;
	return !np_probes_have_released();
}

/* Read what is to be probed now; returns when the next probe is due. */
NpTime
np_probes_read(NpReading *reading)
{
	if (stage == RELEASES_NOTHING && np_now() >= next_probe && reading->room > 0)
		read_probes(reading);
	return next_probe;
}
