/*-------------------------------------------------------------------------
 *
 * change_publish.h
 *	  Publishing what is to be said of one row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_PUBLISH_H
#define NP_CHANGE_PUBLISH_H

#include "change/change_message.h"

extern void np_change_publish(Oid schema, const NpChangePlan *plan, const NpChange *change);

#endif							/* NP_CHANGE_PUBLISH_H */
