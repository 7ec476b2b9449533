/*-------------------------------------------------------------------------
 *
 * patience.h
 *	  For how long others' errors may hold something up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PATIENCE_H
#define NP_PATIENCE_H

#include "base/wait.h"

/* Zero: all of it is left. */
typedef struct NpPatience
{
	NpTime		held_up;		/* as far as that is not forgotten */
	NpTime		last;			/* when there was the last error */
} NpPatience;

extern bool np_patience_ends(NpPatience *patience, NpTime most, bool is_still_held_up);

#endif							/* NP_PATIENCE_H */
