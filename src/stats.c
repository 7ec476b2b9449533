/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What this session has done, counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stats.h"

NpStats		np_stats;
