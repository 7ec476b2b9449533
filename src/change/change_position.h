/*-------------------------------------------------------------------------
 *
 * change_position.h
 *	  The place of a change in its transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_POSITION_H
#define NP_CHANGE_POSITION_H

#include "change/change_plan.h"

typedef struct NpChangePosition
{
	int64		number;			/* from 1, among those that end with the same message */
	int64		number_of_table;
	const char *id;				/* of the transaction, as Debezium's: where it was when the first was
								 * published, too */
} NpChangePosition;

extern void np_change_position_init(void);
extern NpChangePosition np_change_position_next(const NpChangePlan *plan, Oid schema);

#endif							/* NP_CHANGE_POSITION_H */
