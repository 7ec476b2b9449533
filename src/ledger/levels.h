/*-------------------------------------------------------------------------
 *
 * levels.h
 *	  The subtransactions of the current transaction that have published something.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LEVELS_H
#define NP_LEVELS_H

#include "base/report.h"
#include "ledger/queue.h"

/* How many failed messages of a level are kept for the report. */
#define NP_MAX_LISTED	5

/* What has become of critical messages. */
typedef struct NpOutcome
{
	int64		awaited;		/* not complete */
	int64		acked;			/* stored */
	int64		failed;			/* not */
	int			listed;
	NpFailedMessage list[NP_MAX_LISTED];	/* the first failed ones in call order */
} NpOutcome;

typedef struct NpLevel
{
	struct NpLevel *upper;
	int			nest_level;
	uint64		first;			/* its tokens, and those of its children, are from this one on */
	NpQueueMark held;			/* what was held before it */
	NpOutcome	outcome;		/* of its futures */
} NpLevel;

extern void np_outcome_list(NpOutcome *outcome, const NpFailedMessage *message);
extern void np_outcome_merge(NpOutcome *into, const NpOutcome *from);
extern void np_levels_settle(int nest_level);
extern void np_levels_enter(uint64 next_token);
extern NpLevel *np_levels_top(void);
extern NpLevel *np_levels_find(uint64 token);
extern bool np_levels_contain(uint64 token);
extern uint64 np_levels_subabort(int nest_level, uint64 next_token);
extern void np_levels_reset(void);

#endif							/* NP_LEVELS_H */
