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

/* Where a delivery takes messages, and whether, as the session's settings and role have it at a time. */
typedef struct NpChangeWay
{
	int			publishing;		/* NpPublishing */
	int			session;		/* of on_commit: the number */
	int			storage;		/* of the outbox: NpStorage */
} NpChangeWay;

extern NpChangeWay np_change_way(NpDelivery delivery);
extern bool np_change_way_equal(const NpChangeWay *a, const NpChangeWay *b);
extern void np_change_deliver_end(Oid schema, NpDelivery delivery, const NpChangeWay *way, const NpMessage *message);
extern void np_change_deliver(Oid schema, NpDelivery delivery, const NpMessage *message);
extern void np_change_deliver_read(Oid schema, NpDelivery delivery, NpMessage *message);

#endif							/* NP_CHANGE_DELIVERY_H */
