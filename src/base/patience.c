/*-------------------------------------------------------------------------
 *
 * patience.c
 *	  For how long others may hold something up.
 *
 * An error that may be over the next time is worth waiting, and somebody's code
 * may take its time.  But they can do so for ever, each time for another row,
 * and would hold up all the rest.  So what they take is limited in all; and it
 * is forgotten while it goes on without them.
 *
 *-------------------------------------------------------------------------
 */
#include "base/patience.h"

/* So often as long as it was held up it has to go on for that to be forgotten. */
#define FORGETTING	10

/* For how long has it been held up, as far as that is not forgotten? */
int64_t
np_patience_used(const NpPatience *patience, int64_t now)
{
	int64_t		left = patience->held_up - (now - patience->last) / FORGETTING;

	return left > 0 ? left : 0;
}

/* It was held up for so long, until now. */
void
np_patience_use(NpPatience *patience, int64_t now, int64_t duration)
{
	patience->held_up = np_patience_used(patience, now - duration) + duration;
	patience->last = now;
}

/*
 * There is an error again: was it held up for longer than that, in all?
 * is_still_held_up: it did not go on since the last one; then all that has
 * passed since is lost, with whatever was waited for.
 */
bool
np_patience_ends(NpPatience *patience, int64_t now, int64_t most, bool is_still_held_up)
{
	np_patience_use(patience, now, is_still_held_up ? now - patience->last : 0);
	return patience->held_up > most;
}
