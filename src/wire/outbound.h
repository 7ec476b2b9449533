/*-------------------------------------------------------------------------
 *
 * outbound.h
 *	  Bytes on their way out, kept until they are neither to be sent nor
 *	  needed to be sent again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOUND_H
#define NP_OUTBOUND_H

#include <sys/uio.h>

/* A piece of memory into which commands are written one after the other. */
typedef struct NpChunk
{
	struct NpChunk *next;		/* in the order of sending */
	int			references;		/* commands that somebody may want again */
	bool		queued;			/* not sent to its end, or still being filled */
	uint32		used;
	uint32		size;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} NpChunk;

typedef struct NpOutbound
{
	MemoryContext context;		/* of the chunks */
	NpChunk    *first;			/* the one that is being sent */
	NpChunk    *last;			/* the one that is being filled */
	NpChunk    *spare;			/* an empty one, to be used next */
	uint32		first_sent;		/* bytes of the first that were sent */
	uint64		appended;		/* bytes ever appended ... */
	uint64		sent;			/* ... and of these, gone or given up */
	uint64		offered;		/* the bytes up to here, if more than those, leave as they are */
	int64		bytes;			/* in use in all chunks */
	uint64		freed;			/* bytes of chunks, since memory was last released to the system */
} NpOutbound;

extern void np_outbound_init(NpOutbound *outbound, MemoryContext context);
extern char *np_outbound_append(NpOutbound *outbound, size_t length, NpChunk **chunk);
extern void np_outbound_release(NpOutbound *outbound, NpChunk *chunk);
extern int	np_outbound_peek(NpOutbound *outbound, struct iovec *vectors, int count);
extern void np_outbound_advance(NpOutbound *outbound, size_t length);
extern void np_outbound_offer(NpOutbound *outbound, size_t length);
extern uint64 np_outbound_unsent(const NpOutbound *outbound);
extern bool np_outbound_retract(NpOutbound *outbound, NpChunk *chunk, uint64 position, size_t length);
extern void np_outbound_trim(NpOutbound *outbound);
extern void np_outbound_clear(NpOutbound *outbound);

#endif							/* NP_OUTBOUND_H */
