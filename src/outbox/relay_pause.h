/*-------------------------------------------------------------------------
 *
 * relay_pause.h
 *	  A pause of the relay, as it gets into a dump.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_PAUSE_H
#define NP_RELAY_PAUSE_H

#include "utils/relcache.h"
#include "utils/snapshot.h"

extern bool np_pause_is_marked(Oid extension);
extern bool np_pause_is_in(Relation control, Snapshot snapshot, bool *paused);
extern void np_pause_mark(Oid control);
extern void np_pause_begin(Oid schema);
extern void np_pause_end(Oid schema);

#endif							/* NP_RELAY_PAUSE_H */
