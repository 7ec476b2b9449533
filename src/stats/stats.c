/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What this backend has done, counted.
 *
 * Counting writes to the backend's own memory alone.  What is new is added to
 * that of all backends at the end of each transaction, by shared_stats.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "port/pg_bitutils.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "stats/activity.h"
#include "stats/stats.h"

#define COUNTERS	(sizeof(NpStats) / sizeof(int64))

/* Those in the first bucket have at most so many bits, in microseconds. */
#define FIRST_BUCKET_BITS	5

/* What of a mode has been counted since np_stats_take_new. */
typedef struct Fresh
{
	NpCounted	counted;
	bool		is_there;
} Fresh;

NpStatsMode np_stats_mode = NP_STATS_SYNC;

static Fresh fresh[NP_STATS_MODES];
static NpStats added;			/* of all modes, and not fresh any more */

/* Add each counter to that of a sum. */
void
np_stats_add(NpStats *sum, const NpStats *stats)
{
	StaticAssertStmt(sizeof(NpStats) == COUNTERS * sizeof(int64), "NpStats has only int64");
	for (size_t i = 0; i < COUNTERS; i++)
		((int64 *) sum)[i] += ((const int64 *) stats)[i];
}

/* Where to count what is done in a mode. */
NpStats *
np_stats_of(NpStatsMode mode)
{
	fresh[mode].is_there = true;
	return &fresh[mode].counted.stats;
}

/* The times in a bucket, which is not the last, are below this. */
NpTime
np_histogram_bound(int bucket)
{
	return (NpTime) 1 << (FIRST_BUCKET_BITS + bucket);
}

/* So many things have each taken this time. */
void
np_histogram_add(NpHistogram *histogram, NpTime time, int64 count)
{
	int			bits = time <= 0 ? 0 : pg_leftmost_one_pos64((uint64) time) + 1;

	histogram->counts[Min(Max(bits - FIRST_BUCKET_BITS, 0), NP_HISTOGRAM_BUCKETS - 1)] += count;
	histogram->sum += Max(time, 0) * count;
}

/* The end of a transaction has waited for its messages. */
void
np_stats_add_commit_wait(NpStatsMode mode, NpTime time)
{
	NpTime	   *longest = &fresh[mode].counted.longest_commit_wait;

	np_histogram_add(&np_stats_of(mode)->commit_waits, time, 1);
	*longest = Max(*longest, time);
}

/* Messages have failed because nothing could be sent. */
void
np_stats_add_unsent(NpStatsMode mode, int64 count)
{
	np_stats_of(mode)->published += count;
	np_stats_of(mode)->failed += count;
}

/*
 * Keep what went wrong.  The subject is in UTF-8 and absent when it is no
 * message's; the failure's texts are in the database's encoding.
 */
void
np_stats_record_failure(NpStatsMode mode, NpSpan subject, const NpFailure *failure)
{
	NpLastError *error = &fresh[mode].counted.error;
	StringInfoData text;

	initStringInfo(&text);
	if (subject.data != NULL)
		appendStringInfo(&text, "could not publish to \"%.*s\": ", (int) subject.length, subject.data);
	appendStringInfoString(&text, np_to_utf8_somehow(failure->text));
	if (failure->detail != NULL)
		appendStringInfo(&text, " (%s)", np_to_utf8_somehow(failure->detail));
	np_utf8_copy(error->text, sizeof(error->text), (NpSpan) {text.data, text.len});
	pfree(text.data);
	error->at = GetCurrentTimestamp();
	fresh[mode].is_there = true;
	np_activity_set_error(error->text);
}

/* What has been counted since the backend began. */
NpStats
np_stats_of_session(void)
{
	NpStats		sum = added;

	for (int i = 0; i < NP_STATS_MODES; i++)
		np_stats_add(&sum, &fresh[i].counted.stats);
	return sum;
}

/*
 * Move what is new of a mode to *counted.  False: nothing is.  Never throws.
 */
bool
np_stats_take_new(NpStatsMode mode, NpCounted *counted)
{
	if (!fresh[mode].is_there)
		return false;
	*counted = fresh[mode].counted;
	np_stats_add(&added, &counted->stats);
	memset(&fresh[mode], 0, sizeof(Fresh));
	return true;
}
