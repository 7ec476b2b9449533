/*-------------------------------------------------------------------------
 *
 * outbox_due.h
 *	  Rows of the outbox that wait for their time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_DUE_H
#define NP_OUTBOX_DUE_H

#include "utils/timestamp.h"

#include "relay/outbox_read.h"

extern TimestampTz np_due_floor(void);
extern void np_due_asked(NpTime taken);
extern void np_due_look_again(void);
extern void np_due_written(void);
extern bool np_due_read(NpReading *reading, TimestampTz first, bool is_none, NpTime *next_due, bool *has_more);

#endif							/* NP_OUTBOX_DUE_H */
