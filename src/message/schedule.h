/*-------------------------------------------------------------------------
 *
 * schedule.h
 *	  Where a message waits in its stream until it is delivered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SCHEDULE_H
#define NP_SCHEDULE_H

#include "base/types.h"

extern NpSpan np_schedule_subject(NpSpan target, NpSpan id);

#endif							/* NP_SCHEDULE_H */
