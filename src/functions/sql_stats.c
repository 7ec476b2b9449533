/*-------------------------------------------------------------------------
 *
 * sql_stats.c
 *	  The SQL functions about what all backends do and have done.
 *
 * The views around them name the databases and roles.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/encoding.h"
#include "base/report.h"
#include "stats/activity.h"
#include "stats/shared_stats.h"

PG_FUNCTION_INFO_V1(nats_publish_counters);
PG_FUNCTION_INFO_V1(nats_publish_times);
PG_FUNCTION_INFO_V1(nats_publish_backends);
PG_FUNCTION_INFO_V1(nats_publish_stats_reset);

/* The columns of nats_publish_counters(). */
enum
{
	COUNTERS_DATABASE,
	COUNTERS_MODE,
	COUNTERS_PUBLISHED,
	COUNTERS_ACKED,
	COUNTERS_DUPLICATES,
	COUNTERS_FAILED,
	COUNTERS_SUPPRESSED,
	COUNTERS_RETRIED,
	COUNTERS_RESENT,
	COUNTERS_BYTES,
	COUNTERS_ACK_MS,
	COUNTERS_COMMIT_WAITS,
	COUNTERS_COMMIT_WAIT_MS,
	COUNTERS_COMMIT_WAIT_MAX_MS,
	COUNTERS_CONNECTS,
	COUNTERS_RECONNECTS,
	COUNTERS_LAST_ERROR,
	COUNTERS_LAST_ERROR_AT,
	COUNTERS_STATS_RESET,
	COUNTERS_COLUMNS
};

/* The columns of nats_publish_times(). */
enum
{
	TIMES_DATABASE,
	TIMES_MODE,
	TIMES_MEASURE,
	TIMES_FROM_MS,
	TIMES_TO_MS,
	TIMES_COUNT,
	TIMES_COLUMNS
};

/* The columns of nats_publish_backends(). */
enum
{
	BACKENDS_PID,
	BACKENDS_DATABASE,
	BACKENDS_ROLE,
	BACKENDS_URL,
	BACKENDS_SERVER_NAME,
	BACKENDS_STATE,
	BACKENDS_PENDING,
	BACKENDS_PENDING_BYTES,
	BACKENDS_OLDEST_PENDING,
	BACKENDS_LAST_ERROR,
	BACKENDS_COLUMNS
};

static const char *const mode_names[] = {
	[NP_STATS_SYNC] = "sync",
	[NP_STATS_ASYNC] = "async",
	[NP_STATS_ON_COMMIT] = "on_commit",
	[NP_STATS_OUTBOX] = "outbox",
};

static Datum
milliseconds(NpTime time)
{
	return Float8GetDatum(time / 1000.0);
}

static Datum
text_or_null(const char *utf8, bool *isnull)
{
	*isnull = utf8[0] == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(np_string_from_utf8(utf8));
}

static void
raise_not_loaded(void)
{
	NpFailure	failure = np_failure(NP_FAULT_NOT_LOADED,
									 "statistics of all sessions need nats_publish in shared_preload_libraries");

	np_raise(&failure);
}

typedef void (*Visitor) (Oid database, NpStatsMode mode, const NpCounted *counted, ReturnSetInfo *rsinfo);

/* Call visit for each mode of each database.  Raises 55000 without shared memory. */
static void
each_counted(Visitor visit, FunctionCallInfo fcinfo)
{
	NpCounted  *counted = palloc(sizeof(NpCounted));

	if (!np_shared_stats_attach())
		raise_not_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < NP_MAX_STATS_DATABASES; i++)
	{
		for (int mode = 0; mode < NP_STATS_MODES; mode++)
		{
			Oid			database = np_shared_stats_read(i, mode, counted);

			if (OidIsValid(database))
				visit(database, mode, counted, (ReturnSetInfo *) fcinfo->resultinfo);
		}
	}
}

/* ---- Counters -------------------------------------------------------------------- */

static int64
total(const NpHistogram *histogram)
{
	int64		result = 0;

	for (int i = 0; i < NP_HISTOGRAM_BUCKETS; i++)
		result += histogram->counts[i];
	return result;
}

static void
put_counters(Oid database, NpStatsMode mode, const NpCounted *counted, ReturnSetInfo *rsinfo)
{
	const NpStats *stats = &counted->stats;
	Datum		values[COUNTERS_COLUMNS] = {0};
	bool		nulls[COUNTERS_COLUMNS] = {false};

	values[COUNTERS_DATABASE] = ObjectIdGetDatum(database);
	values[COUNTERS_MODE] = CStringGetTextDatum(mode_names[mode]);
	values[COUNTERS_PUBLISHED] = Int64GetDatum(stats->published);
	values[COUNTERS_ACKED] = Int64GetDatum(stats->acked);
	values[COUNTERS_DUPLICATES] = Int64GetDatum(stats->duplicates);
	values[COUNTERS_FAILED] = Int64GetDatum(stats->failed);
	values[COUNTERS_SUPPRESSED] = Int64GetDatum(stats->suppressed);
	values[COUNTERS_RETRIED] = Int64GetDatum(stats->retried);
	values[COUNTERS_RESENT] = Int64GetDatum(stats->resent);
	values[COUNTERS_BYTES] = Int64GetDatum(stats->bytes);
	values[COUNTERS_ACK_MS] = milliseconds(stats->acks.sum);
	values[COUNTERS_COMMIT_WAITS] = Int64GetDatum(total(&stats->commit_waits));
	values[COUNTERS_COMMIT_WAIT_MS] = milliseconds(stats->commit_waits.sum);
	values[COUNTERS_COMMIT_WAIT_MAX_MS] = milliseconds(counted->longest_commit_wait);
	values[COUNTERS_CONNECTS] = Int64GetDatum(stats->connects);
	values[COUNTERS_RECONNECTS] = Int64GetDatum(stats->reconnects);
	values[COUNTERS_LAST_ERROR] = text_or_null(counted->error.text, &nulls[COUNTERS_LAST_ERROR]);
	nulls[COUNTERS_LAST_ERROR_AT] = nulls[COUNTERS_LAST_ERROR];
	values[COUNTERS_LAST_ERROR_AT] = TimestampTzGetDatum(counted->error.at);
	values[COUNTERS_STATS_RESET] = TimestampTzGetDatum(np_shared_stats_reset_at());
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* nats_publish_counters(): what was counted, by database and mode */
Datum
nats_publish_counters(PG_FUNCTION_ARGS)
{
	each_counted(put_counters, fcinfo);
	return (Datum) 0;
}

/* nats_publish_stats_reset(): from now on it is counted anew */
Datum
nats_publish_stats_reset(PG_FUNCTION_ARGS)
{
	if (!np_shared_stats_attach())
		raise_not_loaded();
	np_shared_stats_reset();
	PG_RETURN_VOID();
}

/* ---- Times ------------------------------------------------------------------------ */

static void
put_histogram(Oid database, NpStatsMode mode, const char *measure, const NpHistogram *histogram,
			  ReturnSetInfo *rsinfo)
{
	for (int i = 0; i < NP_HISTOGRAM_BUCKETS; i++)
	{
		Datum		values[TIMES_COLUMNS] = {0};
		bool		nulls[TIMES_COLUMNS] = {false};

		values[TIMES_DATABASE] = ObjectIdGetDatum(database);
		values[TIMES_MODE] = CStringGetTextDatum(mode_names[mode]);
		values[TIMES_MEASURE] = CStringGetTextDatum(measure);
		values[TIMES_FROM_MS] = milliseconds(i == 0 ? 0 : np_histogram_bound(i - 1));
		values[TIMES_TO_MS] = i < NP_HISTOGRAM_BUCKETS - 1 ? milliseconds(np_histogram_bound(i)) :
			Float8GetDatum(get_float8_infinity());
		values[TIMES_COUNT] = Int64GetDatum(histogram->counts[i]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

static void
put_times(Oid database, NpStatsMode mode, const NpCounted *counted, ReturnSetInfo *rsinfo)
{
	put_histogram(database, mode, "ack", &counted->stats.acks, rsinfo);
	put_histogram(database, mode, "commit_wait", &counted->stats.commit_waits, rsinfo);
}

/* nats_publish_times(): how long it took, as histograms */
Datum
nats_publish_times(PG_FUNCTION_ARGS)
{
	each_counted(put_times, fcinfo);
	return (Datum) 0;
}

/* ---- Backends ---------------------------------------------------------------------- */

static void
put_backend(const NpActivity *activity, ReturnSetInfo *rsinfo)
{
	Datum		values[BACKENDS_COLUMNS] = {0};
	bool		nulls[BACKENDS_COLUMNS] = {false};

	values[BACKENDS_PID] = Int32GetDatum(activity->pid);
	values[BACKENDS_DATABASE] = ObjectIdGetDatum(activity->database);
	values[BACKENDS_ROLE] = ObjectIdGetDatum(activity->role);
	values[BACKENDS_URL] = text_or_null(activity->url, &nulls[BACKENDS_URL]);
	values[BACKENDS_SERVER_NAME] = text_or_null(activity->server_name, &nulls[BACKENDS_SERVER_NAME]);
	values[BACKENDS_STATE] = CStringGetTextDatum(np_activity_state_name(activity->state));
	values[BACKENDS_PENDING] = Int32GetDatum(activity->backlog.count);
	values[BACKENDS_PENDING_BYTES] = Int64GetDatum(activity->backlog.bytes);
	nulls[BACKENDS_OLDEST_PENDING] = activity->backlog.oldest == 0;
	values[BACKENDS_OLDEST_PENDING] = TimestampTzGetDatum(activity->backlog.oldest);
	values[BACKENDS_LAST_ERROR] = text_or_null(activity->last_error, &nulls[BACKENDS_LAST_ERROR]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* nats_publish_backends(): what each backend that has published is doing */
Datum
nats_publish_backends(PG_FUNCTION_ARGS)
{
	NpActivity *activity = palloc(sizeof(NpActivity));

	if (!np_shared_area_attach(&np_activity_area))
		raise_not_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < MaxBackends; i++)
		if (np_activity_read(i, activity))
			put_backend(activity, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
