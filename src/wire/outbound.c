/*-------------------------------------------------------------------------
 *
 * outbound.c
 *	  Bytes on their way out, kept until they are neither to be sent nor
 *	  needed to be sent again.
 *
 * Each command is written once, into a chunk.  From there it goes to the
 * socket, and there it stays for a resend until its message is acknowledged:
 * the send buffer and the resend buffer are one.  A chunk is freed when it
 * has been sent to its end and no command in it is referenced any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "wire/outbound.h"

#define CHUNK_SIZE	(64 * 1024)

/* So much memory that was freed is worth giving back. */
#define WORTH_TRIMMING	(16 * 1024 * 1024)

void
np_outbound_init(NpOutbound *outbound, MemoryContext context)
{
	memset(outbound, 0, sizeof(*outbound));
	outbound->context = context;
}

/* Free a chunk that nobody needs. */
static void
recycle(NpOutbound *outbound, NpChunk *chunk)
{
	if (chunk->references > 0)
		return;
	if (chunk->queued)
	{
		/* the only one, which would go on being filled */
		if (chunk != outbound->first || chunk != outbound->last || outbound->first_sent < chunk->used)
			return;
		outbound->first = outbound->last = NULL;
		outbound->first_sent = 0;
		chunk->queued = false;
	}
	outbound->bytes -= chunk->used;
	if (outbound->spare == NULL && chunk->size == CHUNK_SIZE)
		outbound->spare = chunk;
	else
	{
		outbound->freed += chunk->size;
		pfree(chunk);
	}
}

static NpChunk *
take_chunk(NpOutbound *outbound, size_t length)
{
	NpChunk    *chunk = outbound->spare;

	if (chunk != NULL && length <= chunk->size)
		outbound->spare = NULL;
	else
	{
		size_t		size = Max(length, CHUNK_SIZE);

		chunk = MemoryContextAllocHuge(outbound->context, offsetof(NpChunk, data) + size);
		chunk->size = size;
	}
	chunk->next = NULL;
	chunk->references = 0;
	chunk->queued = true;
	chunk->used = 0;
	return chunk;
}

/*
 * Room for a command of the given length at the end of what is to be sent.
 *
 * The caller fills it at once.  With chunk not NULL the bytes stay readable
 * until np_outbound_release(*chunk).  ERROR when out of memory.
 */
char *
np_outbound_append(NpOutbound *outbound, size_t length, NpChunk **chunk)
{
	NpChunk    *last = outbound->last;
	char	   *place;

	if (last == NULL || last->size - last->used < length)
	{
		NpChunk    *fresh = take_chunk(outbound, length);

		if (last != NULL)
			last->next = fresh;
		else
			outbound->first = fresh;
		outbound->last = last = fresh;
	}
	place = last->data + last->used;
	last->used += length;
	outbound->appended += length;
	outbound->bytes += length;
	if (chunk != NULL)
	{
		last->references++;
		*chunk = last;
	}
	return place;
}

void
np_outbound_release(NpOutbound *outbound, NpChunk *chunk)
{
	Assert(chunk->references > 0);
	chunk->references--;
	recycle(outbound, chunk);
}

/* How many bytes have not left the process. */
uint64
np_outbound_unsent(const NpOutbound *outbound)
{
	return outbound->appended - outbound->sent;
}

/*
 * Before its release: a command that nobody wants any more is not to be sent.
 * False: it has begun to leave, or others stand behind it.
 */
bool
np_outbound_retract(NpOutbound *outbound, NpChunk *chunk, uint64 position, size_t length)
{
	if (chunk != outbound->last || position < Max(outbound->sent, outbound->offered) ||
		position + length != outbound->appended)
		return false;
	chunk->used -= length;
	outbound->appended -= length;
	outbound->bytes -= length;
	return true;
}

/* Describe the next bytes to send, in at most count pieces; returns how many. */
int
np_outbound_peek(NpOutbound *outbound, struct iovec *vectors, int count)
{
	uint32		skip = outbound->first_sent;
	int			used = 0;

	for (NpChunk *chunk = outbound->first; chunk != NULL && used < count; chunk = chunk->next)
	{
		if (chunk->used > skip)
		{
			vectors[used].iov_base = chunk->data + skip;
			vectors[used++].iov_len = chunk->used - skip;
		}
		skip = 0;
	}
	return used;
}

/* Record that the next length bytes have been sent. */
void
np_outbound_advance(NpOutbound *outbound, size_t length)
{
	outbound->sent += length;
	while (outbound->first != NULL)
	{
		NpChunk    *chunk = outbound->first;
		size_t		here = Min(length, chunk->used - outbound->first_sent);

		outbound->first_sent += here;
		length -= here;
		if (outbound->first_sent < chunk->used)
			break;
		if (chunk == outbound->last)
		{
			recycle(outbound, chunk);	/* it goes on being filled */
			break;
		}
		outbound->first = chunk->next;
		outbound->first_sent = 0;
		chunk->queued = false;
		recycle(outbound, chunk);
	}
}

/*
 * Record that the next length bytes are on their way out already, though none
 * of them has left: they must be the next to be sent.
 */
void
np_outbound_offer(NpOutbound *outbound, size_t length)
{
	outbound->offered = outbound->sent + length;
}

/*
 * At the end of a transaction: give the memory that many messages have taken
 * back to the system.  glibc would keep it in the backend.  Never throws.
 */
void
np_outbound_trim(NpOutbound *outbound)
{
	if (outbound->freed < WORTH_TRIMMING)
		return;
	outbound->freed = 0;
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/*
 * Send nothing of what is still unsent.  What is referenced stays readable.
 * Never throws.
 */
void
np_outbound_clear(NpOutbound *outbound)
{
	while (outbound->first != NULL)
	{
		NpChunk    *chunk = outbound->first;

		outbound->first = chunk->next;
		if (outbound->last == chunk)
			outbound->last = NULL;
		chunk->queued = false;
		recycle(outbound, chunk);
	}
	outbound->first_sent = 0;
	outbound->sent = outbound->appended;
}
