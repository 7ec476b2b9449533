/*-------------------------------------------------------------------------
 *
 * gaps.h
 *	  Numbers behind which a table was read, and whose rows can still appear.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_GAPS_H
#define NP_GAPS_H

/* From the first to the last one. */
typedef struct NpGap
{
	int64		first;
	int64		last;
} NpGap;

extern void np_gaps_add(int64 first, int64 last);
extern void np_gaps_remove(int64 number);
extern void np_gaps_cut(int64 settled, int64 read);
extern const NpGap *np_gaps(int *count);

#endif							/* NP_GAPS_H */
