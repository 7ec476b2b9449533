/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  What this backend has done, counted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_STATS_H
#define NP_STATS_H

#include "datatype/timestamp.h"

#include "base/report.h"
#include "base/wait.h"

/* The ways that messages take. */
typedef enum NpStatsMode
{
	NP_STATS_SYNC,				/* requests to the API too */
	NP_STATS_ASYNC,
	NP_STATS_ON_COMMIT,
	NP_STATS_OUTBOX				/* what the relay does */
} NpStatsMode;

#define NP_STATS_MODES		(NP_STATS_OUTBOX + 1)

/* Bucket i is for times below 32 << i microseconds, the last for all others. */
#define NP_HISTOGRAM_BUCKETS	24

typedef struct NpHistogram
{
	int64		counts[NP_HISTOGRAM_BUCKETS];
	int64		sum;			/* microseconds */
} NpHistogram;

/* Only int64, which are added up one by one. */
typedef struct NpStats
{
	int64		published;		/* messages handed over by SQL, or read from the outbox */
	int64		acked;			/* stored, as JetStream says */
	int64		duplicates;		/* of these, stored before under the same id */
	int64		failed;			/* known not to be stored, or in doubt */
	int64		failed_uncritical;	/* of these, with critical => false */
	int64		suppressed;		/* calls that were skipped, as nats_publish.publishing says */
	int64		retried;		/* sent again as the server asked for it */
	int64		resent;			/* sent again on a new connection */
	int64		bytes;			/* payloads */
	int64		connects;
	int64		reconnects;		/* of these, after one was lost */
	int64		connections_lost;
	NpHistogram acks;			/* from publishing a message to reading its ack */
	NpHistogram commit_waits;	/* of a commit for its messages */
} NpStats;

/* What went wrong last. */
typedef struct NpLastError
{
	char		text[400];		/* UTF-8, cut; empty: nothing */
	TimestampTz at;
} NpLastError;

/* All that is counted of a mode. */
typedef struct NpCounted
{
	NpStats		stats;
	NpTime		longest_commit_wait;
	NpLastError error;
} NpCounted;

/*
 * What is not counted for a message goes to this: the mode of the call that
 * runs, or has run last.  Connections are also lost between calls, and those of
 * other sessions than the call's, so it can be nobody's argument.
 */
extern NpStatsMode np_stats_mode;

extern void np_stats_add(NpStats *sum, const NpStats *stats);
extern NpStats *np_stats_of(NpStatsMode mode);
extern NpTime np_histogram_bound(int bucket);
extern void np_histogram_add(NpHistogram *histogram, NpTime time, int64 count);
extern void np_stats_add_commit_wait(NpStatsMode mode, NpTime time);
extern void np_stats_add_unsent(NpStatsMode mode, int64 count);
extern void np_stats_record_failure(NpStatsMode mode, NpSpan subject, const NpFailure *failure);
extern NpStats np_stats_of_session(void);
extern bool np_stats_take_new(NpStatsMode mode, NpCounted *counted);

#endif							/* NP_STATS_H */
