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
#include "change/change_transaction.h"
#include "message/message.h"

/* The place of a change in its transaction. */
typedef struct NpChangePosition
{
	int64		number;			/* from 1, among those that end with the same message */
	int64		number_of_table;
	const char *id;				/* of the transaction, as Debezium's: where it was when the first was
								 * published, too */
} NpChangePosition;

typedef struct NpChange
{
	NpChangeOp	op;
	const NpChangeTransaction *transaction;
	XLogRecPtr	lsn;			/* where it is, or was when its message was made */
	NpSpan		id;				/* its message's own; absent: a template's, or an automatic one */
	TupleTableSlot *old;		/* NULL where there is none */
	TupleTableSlot *new;
	const bool *changed;		/* by a column's number; NULL: no UPDATE, or it is not known */
	bool		key_changed;
	const bool *unchanged;		/* by a column's number: the new value is not known; NULL: all are */
	NpChangePosition position;	/* if the plan has_position */
	TransactionId version;		/* of NP_READ: what made the row as it is */
	Oid			maker;			/* as whom its message is made; InvalidOid: the current user */
} NpChange;

/* As many messages as one change can be. */
#define NP_MAX_CHANGE_MESSAGES	2

extern int	np_change_messages(const NpChangePlan *plan, const NpChange *change, NpChange *messages);
extern void np_change_message_describe(NpMessage *message, const NpChangePlan *plan, const NpChange *change,
									   bool with_subject, bool with_key);
extern void np_change_message_build(NpMessage *message, const NpChangePlan *plan, const NpChange *change);

#endif							/* NP_CHANGE_MESSAGE_H */
