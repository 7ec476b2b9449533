/*-------------------------------------------------------------------------
 *
 * chains.h
 *	  The messages of a stream, in the order of the outbox and pipelined.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHAINS_H
#define NP_CHAINS_H

#include "relay/relay_row.h"
#include "relay/streams.h"

/* What a chain adds to the headers of a message, at most. */
#define NP_CHAIN_HEADERS	NP_EXPECTATION_SIZE(NP_MAX_CHAIN_TEXT)

extern bool np_chain_is_over(const NpStream *stream);
extern bool np_chain_queues(NpStream *stream);
extern void np_chain_enter(NpRow *row);
extern void np_chain_return(NpRow *row);
extern NpRow *np_chains_first(void);
extern NpRow *np_chain_pop(NpStream *stream, NpSpan subject);

extern void np_chains_set_largest(size_t largest);
extern void np_chain_begin(NpRow *row);
extern void np_chain_message(const NpRow *row, NpMessage *message);
extern void np_chain_stored(NpRow *row, const NpPubAck *ack, NpSpan id);
extern void np_chain_refused(NpRow *row);
extern void np_chain_lost(NpRow *row);
extern void np_chain_join(NpRow *row, NpStream *stream);

extern bool np_chain_is_slow(const NpStream *stream, NpTime since);
extern bool np_chain_passes(NpStream *stream, int64 id);
extern int64 np_chains_free(void);
extern void np_chains_revisit(int64 id);

#endif							/* NP_CHAINS_H */
