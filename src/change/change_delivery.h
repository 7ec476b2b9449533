/*-------------------------------------------------------------------------
 *
 * change_delivery.h
 *	  The ways in which messages about changes are published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_DELIVERY_H
#define NP_CHANGE_DELIVERY_H

#include "change/change_options.h"
#include "message/message.h"

extern void np_change_deliver(Oid schema, NpDelivery delivery, const NpMessage *message);
extern void np_change_deliver_read(Oid schema, NpDelivery delivery, NpMessage *message);

#endif							/* NP_CHANGE_DELIVERY_H */
