/*-------------------------------------------------------------------------
 *
 * patience.h
 *	  For how long others may hold something up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PATIENCE_H
#define NP_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

/* Zero: all of it is left.  Plain C, in microseconds: NpTime is PostgreSQL's. */
typedef struct NpPatience
{
	int64_t		held_up;		/* as far as that was not forgotten ... */
	int64_t		last;			/* ... by then */
} NpPatience;

extern int64_t np_patience_used(const NpPatience *patience, int64_t now);
extern void np_patience_use(NpPatience *patience, int64_t now, int64_t duration);
extern bool np_patience_ends(NpPatience *patience, int64_t now, int64_t most, bool is_still_held_up);

#endif							/* NP_PATIENCE_H */
