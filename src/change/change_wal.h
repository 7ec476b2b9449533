/*-------------------------------------------------------------------------
 *
 * change_wal.h
 *	  What the WAL has of the changes of a table, and what it lacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_WAL_H
#define NP_CHANGE_WAL_H

#include "nodes/bitmapset.h"

#include "base/report.h"
#include "change/change_plan.h"

extern Bitmapset *np_change_identity(Relation relation);
extern void np_change_wal_plan(NpChangePlan *plan, Relation relation, Relation published,
							   const NpChangeOptions *options, const NpTriggerFacts *trigger, bool *needed);
extern void np_change_wal_check(const NpChangePlan *plan, int16 trigger_type);
extern void np_change_wal_check_op(const NpChangePlan *plan, NpChangeOp op);

#endif							/* NP_CHANGE_WAL_H */
