/*-------------------------------------------------------------------------
 *
 * argument.c
 *	  The values of headers that are typed arguments.
 *
 * Each is as the server wants it, palloc'd; raises 22023 for what the server
 * would not take, or would take for something else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/report.h"
#include "message/argument.h"

static NpSpan
span_of(const char *text)
{
	return (NpSpan) {text, strlen(text)};
}

NpSpan
np_argument_sequence(const char *argument, int64_t sequence)
{
	if (sequence < 0)
		np_raise_input("%s must not be negative", argument);
	return span_of(psprintf(INT64_FORMAT, (int64) sequence));
}

/*
 * The server takes whole seconds, or "never".  A fraction is rounded up, so
 * that nothing expires early; months and days are as in EXTRACT(epoch).
 */
NpSpan
np_argument_ttl(const Interval *ttl)
{
	double		seconds;

	if (np_compat_interval_is_endless(ttl))
		return span_of("never");
	seconds = ttl->time / (double) USECS_PER_SEC +
		ttl->day * (double) SECS_PER_DAY +
		(ttl->month / MONTHS_PER_YEAR) * (double) (DAYS_PER_YEAR * SECS_PER_DAY) +
		(ttl->month % MONTHS_PER_YEAR) * (double) (DAYS_PER_MONTH * SECS_PER_DAY);
	if (seconds < 1)
		np_raise_input("ttl must be at least one second");
	if (seconds > 1e9)
		np_raise_input("ttl is too long");
	return span_of(psprintf(INT64_FORMAT, (int64) ceil(seconds)));
}

/* What else goes: "subject", which the server calls "sub", or "all". */
NpSpan
np_argument_rollup(NpSpan rollup)
{
	if (np_span_equals(rollup, span_of("subject")))
		return span_of("sub");
	if (np_span_equals(rollup, span_of("all")))
		return span_of("all");
	np_raise_input("rollup is \"%s\", and can be \"subject\" or \"all\"", np_from_utf8(rollup));
}

/* A whole number, with its sign. */
NpSpan
np_argument_increment(Numeric increment)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(increment)));
	char	   *point = strchr(text, '.');

	/* "NaN" and "Infinity" have other characters */
	if (text[strspn(text, "-0123456789.")] != '\0' || (point != NULL && point[1 + strspn(point + 1, "0")] != '\0'))
		np_raise_input("increment is %s, and must be a whole number", text);
	if (point != NULL)
		*point = '\0';
	return span_of(psprintf("%s%s", text[0] == '-' ? "" : "+", text));
}

/* Nanoseconds since 1970 in 63 bits are what the server keeps. */
#define FIRST_YEAR	1970
#define LAST_YEAR	2261

/* Once, at that time (ADR-51). */
NpSpan
np_argument_schedule(TimestampTz time)
{
	struct pg_tm utc;
	fsec_t		microseconds;

	if (TIMESTAMP_NOT_FINITE(time) || timestamp2tm(time, NULL, &utc, &microseconds, NULL, NULL) != 0 ||
		utc.tm_year < FIRST_YEAR || utc.tm_year > LAST_YEAR)
		np_raise_input("deliver_at must be in the years %d to %d", FIRST_YEAR, LAST_YEAR);
	return span_of(psprintf("@at %04d-%02d-%02dT%02d:%02d:%02d.%06dZ", utc.tm_year, utc.tm_mon, utc.tm_mday,
							utc.tm_hour, utc.tm_min, utc.tm_sec, (int) microseconds));
}
