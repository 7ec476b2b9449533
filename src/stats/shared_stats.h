/*-------------------------------------------------------------------------
 *
 * shared_stats.h
 *	  What all backends have done, counted by database and mode.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SHARED_STATS_H
#define NP_SHARED_STATS_H

#include "stats/shared_memory.h"
#include "stats/stats.h"

/* Databases that are counted. */
#define NP_MAX_STATS_DATABASES	256

extern const NpSharedArea np_stats_area;

extern bool np_shared_stats_attach(void);
extern void np_shared_stats_flush(void);
extern Oid	np_shared_stats_read(int number, NpStatsMode mode, NpCounted *result);
extern TimestampTz np_shared_stats_reset_at(void);
extern void np_shared_stats_reset(void);

#endif							/* NP_SHARED_STATS_H */
