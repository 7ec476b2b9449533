/*-------------------------------------------------------------------------
 *
 * change_wal.h
 *	  What the WAL has of the changes of a table, and what it lacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_WAL_H
#define NP_CHANGE_WAL_H

#include "base/report.h"
#include "change/change_plan.h"

extern NpChangePlan *np_change_plan_of(Relation relation, Relation published, const NpChangeOptions *options,
									   const NpTriggerFacts *trigger);
extern bool np_change_wal_suits_new(Relation relation, const NpChangeOptions *options, const NpTriggerFacts *trigger);
extern void np_change_wal_check(const NpChangePlan *plan, int16 trigger_type);
extern void np_change_wal_check_op(const NpChangePlan *plan, NpChangeOp op);

#endif							/* NP_CHANGE_WAL_H */
