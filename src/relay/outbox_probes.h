/*-------------------------------------------------------------------------
 *
 * outbox_probes.h
 *	  What no stream takes: whether one does by now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_PROBES_H
#define NP_OUTBOX_PROBES_H

#include "base/wait.h"
#include "relay/outbox_read.h"

extern void np_probes_ended(NpRow *row);
extern bool np_probes_have_released(void);
extern void np_probes_none(void);
extern bool np_probes_read_released(NpReading *reading);
extern NpTime np_probes_read(NpReading *reading);

#endif							/* NP_OUTBOX_PROBES_H */
