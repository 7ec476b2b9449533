/*-------------------------------------------------------------------------
 *
 * change_values.c
 *	  Values as Debezium encodes them in JSON.
 *
 * As its connector for PostgreSQL does with time.precision.mode =
 * adaptive_time_microseconds, decimal.handling.mode = string,
 * binary.handling.mode = base64 and interval.handling.mode = numeric.  Of types
 * that are not here, PostgreSQL's JSON is what Debezium has, too, or there
 * is nothing in JSON that all of its consumers would read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "datatype/timestamp.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "change/change_transaction.h"
#include "change/change_values.h"

#define DAYS_SINCE_1970		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)

/* What the JDBC driver has for an infinite timestamp, and Debezium from it. */
#define POSITIVE_INFINITY	INT64CONST(9223372036825200000)
#define NEGATIVE_INFINITY	INT64CONST(-9223372036832400000)

/* Coders of all columns, palloc'd. */
NpValueCoder *
np_value_coders_make(TupleDesc columns)
{
	NpValueCoder *coders = palloc0(sizeof(NpValueCoder) * columns->natts);

	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		NpValueCoder *coder = &coders[i];
		StringInfoData name;
		Oid			output;
		bool		is_varlena;

		initStringInfo(&name);
		escape_json(&name, NameStr(column->attname));
		coder->name = name.data;
		coder->typmod = column->atttypmod;
		coder->base_type = getBaseTypeAndTypmod(column->atttypid, &coder->typmod);
		getTypeOutputInfo(column->atttypid, &output, &is_varlena);
		fmgr_info_cxt(output, &coder->output, CurrentMemoryContext);
		coder->alone = CreateTemplateTupleDesc(1);
		TupleDescCopyEntry(coder->alone, 1, columns, i + 1);
		np_compat_finalize(coder->alone);
		BlessTupleDesc(coder->alone);
	}
	return coders;
}

static void
append_date(StringInfo json, DateADT date)
{
	if (DATE_NOT_FINITE(date))
		appendStringInfo(json, "%d", DATE_IS_NOBEGIN(date) ? PG_INT32_MIN : PG_INT32_MAX);
	else
		appendStringInfo(json, "%d", date + DAYS_SINCE_1970);
}

/* Of up to three digits milliseconds, else microseconds, which of the last years there are are too many. */
static void
append_timestamp(StringInfo json, Timestamp time, int32 typmod)
{
	int64		since_1970;

	if (TIMESTAMP_NOT_FINITE(time))
		since_1970 = TIMESTAMP_IS_NOBEGIN(time) ? NEGATIVE_INFINITY : POSITIVE_INFINITY;
	else if (typmod >= 0 && typmod <= 3)
		since_1970 = np_change_milliseconds(time);
	else if (pg_add_s64_overflow(time, DAYS_SINCE_1970 * USECS_PER_DAY, &since_1970))
		since_1970 = POSITIVE_INFINITY;
	appendStringInfo(json, INT64_FORMAT, since_1970);
}

static void
append_zoned_timestamp(StringInfo json, TimestampTz time)
{
	char		text[MAXDATELEN + 1];
	const int	utc = 0;
	char	   *zone;

	JsonEncodeDateTime(text, TimestampTzGetDatum(time), TIMESTAMPTZOID, &utc);
	zone = strstr(text, "+00:00");
	if (zone == NULL)
		escape_json(json, text);	/* infinity */
	else if (strcmp(zone, "+00:00") == 0)
		appendStringInfo(json, "\"%.*sZ\"", (int) (zone - text), text);
	else
	{
		/* 1 BC is the year 0, as ISO 8601 has it */
		const char *month = strchr(text, '-');
		int			year = 1 - atoi(text);

		appendStringInfo(json, "\"%s%04d%.*sZ\"", year < 0 ? "-" : "", abs(year), (int) (zone - month), month);
	}
}

static void
append_zoned_time(StringInfo json, const TimeTzADT *time)
{
	int64		utc = (time->time + time->zone * USECS_PER_SEC + USECS_PER_DAY) % USECS_PER_DAY;
	int			seconds = utc / USECS_PER_SEC;

	appendStringInfo(json, "\"%02d:%02d:%02d", seconds / SECS_PER_HOUR, seconds / SECS_PER_MINUTE % MINS_PER_HOUR,
					 seconds % SECS_PER_MINUTE);
	if (utc % USECS_PER_SEC != 0)
		appendStringInfo(json, ".%06d", (int) (utc % USECS_PER_SEC));
	appendStringInfoString(json, "Z\"");
}

/* About so many microseconds, with months of average length. */
static void
append_interval(StringInfo json, const Interval *span)
{
	double		days = rint((span->month * (DAYS_PER_YEAR / MONTHS_PER_YEAR) + span->day) * USECS_PER_DAY);
	int64		all;

	/* infinite ones, which there are since 17, are far beyond it */
	if (fabs(days) >= (double) PG_INT64_MAX || pg_add_s64_overflow((int64) days, span->time, &all))
		all = days + span->time < 0 ? PG_INT64_MIN : PG_INT64_MAX;
	appendStringInfo(json, INT64_FORMAT, all);
}

static void
append_base64(StringInfo json, Datum bytes)
{
	text	   *encoded = DatumGetTextPP(DirectFunctionCall2(binary_encode, bytes, CStringGetTextDatum("base64")));
	const char *data = VARDATA_ANY(encoded);

	appendStringInfoChar(json, '"');
	for (int i = 0; i < VARSIZE_ANY_EXHDR(encoded); i++)
		if (data[i] != '\n')
			appendStringInfoChar(json, data[i]);
	appendStringInfoChar(json, '"');
}

/* Append a value as row_to_json has it, which makes {"name":value} of it alone. */
void
np_value_coder_append_json(StringInfo json, const NpValueCoder *coder, Datum value, bool isnull)
{
	HeapTuple	row = heap_form_tuple(coder->alone, &value, &isnull);
	text	   *object = DatumGetTextPP(DirectFunctionCall1(row_to_json, HeapTupleGetDatum(row)));
	int			before = 1 + strlen(coder->name) + 1;

	appendBinaryStringInfo(json, VARDATA_ANY(object) + before, VARSIZE_ANY_EXHDR(object) - before - 1);
}

/* Append a value as JSON; the settings for output are those of a message. */
void
np_value_coder_append(StringInfo json, NpValueCoder *coder, Datum value, bool isnull)
{
	if (isnull)
	{
		appendStringInfoString(json, "null");
		return;
	}
	switch (coder->base_type)
	{
		case DATEOID:
			append_date(json, DatumGetDateADT(value));
			break;
		case TIMEOID:
			appendStringInfo(json, INT64_FORMAT, DatumGetTimeADT(value));
			break;
		case TIMETZOID:
			append_zoned_time(json, DatumGetTimeTzADTP(value));
			break;
		case TIMESTAMPOID:
			append_timestamp(json, DatumGetTimestamp(value), coder->typmod);
			break;
		case TIMESTAMPTZOID:
			append_zoned_timestamp(json, DatumGetTimestampTz(value));
			break;
		case INTERVALOID:
			append_interval(json, DatumGetIntervalP(value));
			break;
		case BYTEAOID:
			append_base64(json, value);
			break;
		case NUMERICOID:
		case JSONOID:
		case JSONBOID:
			escape_json(json, OutputFunctionCall(&coder->output, value));
			break;
		case OIDOID:
			appendStringInfoString(json, OutputFunctionCall(&coder->output, value));
			break;
		default:
			np_value_coder_append_json(json, coder, value, false);
	}
}
