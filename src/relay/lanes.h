/*-------------------------------------------------------------------------
 *
 * lanes.h
 *	  Which row of the outbox may go now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LANES_H
#define NP_LANES_H

#include "relay/relay_row.h"

extern bool np_lanes_enter(NpRow *row, bool ordered);
extern bool np_lanes_have_passed(NpSpan subject, int64 id);
extern void np_lanes_pass(NpSpan subject, int64 id);
extern NpRow *np_lanes_first(void);
extern void np_lanes_take(NpRow *row);
extern void np_lanes_return(NpRow *row);
extern void np_lanes_come_back(NpRow *row, bool may_pass);
extern int	np_lanes_unsent(void);
extern void np_lanes_leave(NpRow *row);
extern void np_lanes_let_go(NpSpan subject);
extern void np_lanes_hold(NpRow *row);
extern void np_lanes_give_up(NpRow *row);
extern void np_lanes_forget(NpRow *row);
extern void np_lanes_pass_slow(NpTime sent_before);
extern void np_lanes_narrow(void);
extern void np_lanes_widen(void);
extern int64 np_lanes_free(void);
extern bool np_lanes_have_due(void);
extern bool np_lanes_find_due(void);
extern void np_lanes_revisit(int64 id);
extern int64 np_lanes_clear(void);
extern NpRow *np_lanes_doubted(void);

#endif							/* NP_LANES_H */
