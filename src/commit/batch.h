/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Held messages that JetStream stores all together or not at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_BATCH_H
#define NP_BATCH_H

#include "publish/delivery.h"

extern void np_batch_publish(NpSession *session);

#endif							/* NP_BATCH_H */
