/*-------------------------------------------------------------------------
 *
 * gaps.h
 *	  Numbers behind which a table was read, and whose rows can still appear.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_GAPS_H
#define NP_GAPS_H

#include "base/types.h"

/* There are no more. */
#define NP_MAX_GAPS	1000

/* From the first to the last one. */
typedef struct NpGap
{
	int64_t		first;
	int64_t		last;
	int64_t		look;			/* in which the last of its numbers that was given had been given */
} NpGap;

extern void np_gaps_add(int64_t first, int64_t last, int64_t look);
extern void np_gaps_renew(int64_t number, int64_t look);
extern void np_gaps_remove(int64_t number);
extern void np_gaps_cut(int64_t horizon, int64_t read);
extern const NpGap *np_gaps(int64_t look, int *count);

#endif							/* NP_GAPS_H */
