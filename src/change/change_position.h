/*-------------------------------------------------------------------------
 *
 * change_position.h
 *	  The place of a change in the session's transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_POSITION_H
#define NP_CHANGE_POSITION_H

#include "change/change_message.h"

extern void np_change_position_init(void);
extern NpChangePosition np_change_position_next(const NpChangePlan *plan, Oid schema);

#endif							/* NP_CHANGE_POSITION_H */
