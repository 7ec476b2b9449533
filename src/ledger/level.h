/*-------------------------------------------------------------------------
 *
 * level.h
 *	  What a subcommit does to a stack of subtransaction levels.
 *
 * As in async.c: a level is entered when it first has something to keep, so
 * not every level of nesting has one; it becomes its parent's at subcommit,
 * and is dropped at subabort.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LEVEL_H
#define NP_LEVEL_H

/*
 * The subtransaction at the nest level `ending` commits.
 *
 * True: the top of the stack is its, and must be merged into the one below,
 * whose nest level is `upper` (0: there is none).  False: there is nothing to
 * merge; if the parent had no level, the top has just become that.
 */
static inline bool
np_level_must_merge(int *top, int upper, int ending)
{
	if (*top < ending)
		return false;
	if (upper == ending - 1)
		return true;
	(*top)--;
	return false;
}

#endif							/* NP_LEVEL_H */
