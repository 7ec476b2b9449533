/*-------------------------------------------------------------------------
 *
 * patience.c
 *	  For how long others' errors may hold something up.
 *
 * An error that may be over the next time is worth waiting.  But others' code
 * can raise such errors for ever, each for another row, and they would hold up
 * all the rest.  So what they may take is limited in all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/patience.h"

/* So often as long as it was held up it has to go on for that to be forgotten. */
#define FORGETTING	10

/*
 * There is an error again: have they held it up for longer than that?
 * is_still_held_up: it did not go on since the last one; then all that has
 * passed since is lost, with whatever was waited for.
 */
bool
np_patience_ends(NpPatience *patience, NpTime most, bool is_still_held_up)
{
	NpTime		passed = np_now() - patience->last;

	patience->held_up = is_still_held_up ? patience->held_up + passed : Max(patience->held_up - passed / FORGETTING, 0);
	patience->last = np_now();
	return patience->held_up > most;
}
