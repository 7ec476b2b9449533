/*-------------------------------------------------------------------------
 *
 * change_publish.c
 *	  Publishing what is to be said of one row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"

#include "change/change_delivery.h"
#include "change/change_position.h"
#include "change/change_publish.h"

/*
 * Publish the messages of a change as its plan says; schema is that of the
 * extension.  What is needed for them is palloc'd in the current context.
 *
 * Raises what np_change_message_build and publishing raise.
 */
void
np_change_publish(Oid schema, const NpChangePlan *plan, const NpChange *change)
{
	NpChange	messages[NP_MAX_CHANGE_MESSAGES];
	int			count = np_change_messages(plan, change, messages);

	for (int i = 0; i < count; i++)
	{
		NpMessage	message;

		if (plan->has_position)
			messages[i].position = np_change_position_next(plan, schema);
		if (plan->format == NP_FORMAT_DEBEZIUM)
			messages[i].lsn = GetXLogInsertRecPtr();
		np_change_message_build(&message, plan, &messages[i]);
		/* who has a place in the transaction has it when that ends */
		if (change->op == NP_READ && !plan->has_position)
			np_change_deliver_read(schema, plan->delivery, &message);
		else
			np_change_deliver(schema, plan->delivery, &message);
	}
}
