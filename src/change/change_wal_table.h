/*-------------------------------------------------------------------------
 *
 * change_wal_table.h
 *	  Whether a table can be published from the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_WAL_TABLE_H
#define NP_CHANGE_WAL_TABLE_H

#include "change/change_plan.h"

extern void np_change_wal_admit(Relation relation, const NpChangePlan *plan, const NpChangeOptions *options, const NpTriggerFacts *trigger);
extern void np_change_wal_look(Oid relation, const NpChangePlan *plan, const NpTriggerFacts *trigger);

#endif							/* NP_CHANGE_WAL_TABLE_H */
