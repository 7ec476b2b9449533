/*-------------------------------------------------------------------------
 *
 * relay_streams.h
 *	  To which streams the relays of this server write.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_STREAMS_H
#define NP_RELAY_STREAMS_H

#include "base/wait.h"
#include "stats/shared_memory.h"

extern const NpSharedArea np_relay_streams_area;

extern void np_relay_streams_tell(const char *stream, const char *domain);
extern bool np_relay_streams_others(const char *stream, const char *domain, NpTime within);

#endif							/* NP_RELAY_STREAMS_H */
