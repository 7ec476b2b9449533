/*-------------------------------------------------------------------------
 *
 * change_message.h
 *	  The message about one changed row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_MESSAGE_H
#define NP_CHANGE_MESSAGE_H

#include "executor/tuptable.h"

#include "change/change_plan.h"
#include "change/change_position.h"
#include "message/message.h"

typedef struct NpChange
{
	NpChangeOp	op;
	TupleTableSlot *old;		/* NULL where there is none */
	TupleTableSlot *new;
	const bool *changed;		/* by a column's number; NULL: no UPDATE */
	bool		key_changed;
	NpChangePosition position;	/* if the plan has_position */
	TransactionId version;		/* of NP_READ: what made the row as it is */
} NpChange;

/* As many messages as one change can be. */
#define NP_MAX_CHANGE_MESSAGES	2

extern int	np_change_messages(const NpChangePlan *plan, const NpChange *change, NpChange *messages);
extern void np_change_message_build(NpMessage *message, const NpChangePlan *plan, const NpChange *change);

#endif							/* NP_CHANGE_MESSAGE_H */
