/*-------------------------------------------------------------------------
 *
 * outbox_probes.c
 *	  What no stream takes: whether one does by now.
 *
 * Rows that no stream takes, or that are not answered, are put off for longer
 * and longer, and for the longer, the more there are.  So that they go when a
 * stream is there again, a few of those that would not go soon are tried
 * meanwhile, of one first token of their subjects each.  When one of them is
 * stored, or another one that had failed, the others with its token are
 * released, and follow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "relay/outbox_probes.h"

/* So many rows are probed at a time, in these intervals. */
#define PROBES				8
#define FIRST_PROBE_DELAY	NP_MILLISECONDS(1000)
#define LAST_PROBE_DELAY	NP_MILLISECONDS(30000)

/* What follows a token and a dot, and all that comes behind it, in the order of bytes. */
#define AFTER_TOKEN		"/"

#define MAX_TOKEN		256

static char probed[MAX_TOKEN];	/* the first token of the subject that was probed last; "": none */
static char released[MAX_TOKEN];	/* that of subjects which a stream takes by now, so that their rows go;
									 * "": none */
static NpTime next_probe;
static NpTime probe_delay = FIRST_PROBE_DELAY;

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

/* ---- What becomes of them --------------------------------------------------------------- */

/* What became of a row that was probed, or had failed. */
void
np_probes_ended(const NpRow *row)
{
	char		token[MAX_TOKEN];

	remember_token(token, row->message.subject);
	if (row->state == NP_ROW_STORED)
	{
		/* the others of that one are found by the next probe */
		if (released[0] != '\0' && strcmp(released, token) != 0)
			next_probe = 0;
		strlcpy(released, token, MAX_TOKEN);
		probe_delay = FIRST_PROBE_DELAY;
	}
	else if (row->is_probe && row->waits_for_stream && strcmp(released, token) == 0)
		released[0] = '\0';
}

/* Are there rows that wait for a stream which is there by now? */
bool
np_probes_have_released(void)
{
	return released[0] != '\0';
}

/* Nothing is released: there is nothing, or nothing is sent. */
void
np_probes_none(void)
{
	released[0] = '\0';
}

/* ---- Reading ---------------------------------------------------------------------------- */

static void
take_probe(NpRow *row)
{
	row->is_probe = true;
	remember_token(probed, row->message.subject);
}

/*
 * What no stream takes, and is not tried within some time: the first rows, from
 * a subject on, or before another one.
 */
#define FROM_STREAMLESS(time) " FROM %1$s.nats_outbox AS o WHERE " NP_OUTBOX_FAILED("o.") " AND o.next_attempt_at > now() + interval '" time "'" \
	" AND left(o.last_error, 5) IN ('42704', '0A000', '58030') AND left(o.subject, 500) COLLATE \"C\" >= $1"
#define BEFORE	" AND left(o.subject, 500) COLLATE \"C\" < $2"
#define BY_SUBJECT	" ORDER BY left(o.subject, 500) COLLATE \"C\", o.id"

static NpWay probe_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_STREAMLESS("30 s") BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}},
		{.text = NP_ROW_COLUMNS("false") FROM_STREAMLESS("30 s") " AND " NP_ROW_IS_FREE("") BY_SUBJECT,.argument_count = 1,.types = {TEXTOID}}
	},
	.is_due = true,
	.taken = take_probe
};

static NpWay released_rows = {
	.statements = {
		{.text = NP_ROW_COLUMNS("false") FROM_STREAMLESS("0") BEFORE BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}},
		{.text = NP_ROW_COLUMNS("false") FROM_STREAMLESS("0") BEFORE " AND " NP_ROW_IS_FREE("") BY_SUBJECT,.argument_count = 2,.types = {TEXTOID, TEXTOID}}
	},
	.is_due = true,
	.taken = take_probe
};

/* One row at a time, of the next token each. */
static void
read_probes(NpReading *reading)
{
	for (int i = 0; i < PROBES && reading->room > 0; i++)
	{
		Datum		values[] = {CStringGetTextDatum(psprintf("%s%s", probed, probed[0] == '\0' ? "" : AFTER_TOKEN))};
		int			before = reading->room;

		reading->room = 1;
		np_read_rows(&probe_rows, reading->ordered, values, reading);
		if (reading->room > 0)
		{
			reading->room = before;
			probed[0] = '\0';
			break;
		}
		reading->room = before - 1;
	}
	next_probe = np_now() + probe_delay;
	probe_delay = Min(probe_delay * 2, LAST_PROBE_DELAY);
}

/* Read what is released.  They have a share; false: there are more. */
bool
np_probes_read_released(NpReading *reading)
{
	Datum		values[] = {CStringGetTextDatum(released), CStringGetTextDatum(psprintf("%s%s", released, AFTER_TOKEN))};
	int			share = Max(reading->room / 4, 1);
	int			rest = reading->room - share;

	if (reading->room == 0)
		return false;
	reading->room = share;
	np_read_rows(&released_rows, reading->ordered, values, reading);
	if (!reading->is_full)
		released[0] = '\0';
	reading->room += rest;
	return !reading->is_full;
}

/* Read what is to be probed now; returns when the next probe is due. */
NpTime
np_probes_read(NpReading *reading)
{
	if (released[0] == '\0' && np_now() >= next_probe && reading->room > 0)
		read_probes(reading);
	return next_probe;
}
