/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  What this session has done, counted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_STATS_H
#define NP_STATS_H

typedef struct NpStats
{
	int64		published;		/* messages handed over by SQL */
	int64		acked;			/* stored, as JetStream says */
	int64		duplicates;		/* of these, stored before under the same id */
	int64		failed;			/* known not to be stored, or in doubt */
	int64		failed_uncritical;	/* of these, with critical => false */
	int64		suppressed;		/* calls that were skipped, as nats_publish.publishing says */
	int64		retried;		/* sent again as the server asked for it */
	int64		resent;			/* sent again on a new connection */
	int64		bytes;			/* payloads */
	int64		connects;
	int64		connections_lost;
} NpStats;

extern NpStats np_stats;

#endif							/* NP_STATS_H */
