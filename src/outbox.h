/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The table in which messages wait for the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_H
#define NP_OUTBOX_H

#include "message.h"

extern int64 np_outbox_insert(Oid schema, const NpMessage *message);

#endif							/* NP_OUTBOX_H */
