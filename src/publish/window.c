/*-------------------------------------------------------------------------
 *
 * window.c
 *	  The messages that wait for an acknowledgment, by their tokens.
 *
 * Tokens are given out in order and acknowledged nearly so; a ring that
 * covers those from the oldest unacknowledged one on needs no hashing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "publish/window.h"

#define INITIAL_SIZE	32

/* What more slots than these take is worth giving back: 0.9 MB. */
#define KEPT_SIZE		8192

void
np_window_init(NpWindow *window, MemoryContext context)
{
	memset(window, 0, sizeof(*window));
	window->context = context;
	window->size = INITIAL_SIZE;
	window->first_slots = MemoryContextAllocZero(context, INITIAL_SIZE * sizeof(NpPending));
	window->slots = window->first_slots;
}

static NpPending *
slot_of(NpWindow *window, uint64 token)
{
	return &window->slots[token & (window->size - 1)];
}

static void
grow(NpWindow *window)
{
	NpPending  *old = window->slots;
	uint32		old_size = window->size;

	window->slots = MemoryContextAllocExtended(window->context,
											   (Size) old_size * 2 * sizeof(NpPending),
											   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	window->size = old_size * 2;
	for (uint32 i = 0; i < old_size; i++)
		if (old[i].token != 0)
			*slot_of(window, old[i].token) = old[i];
	if (old != window->first_slots)
		pfree(old);
}

/*
 * Be small again, if nothing is pending.  Invalidates pointers to slots.  Never
 * allocates or throws.
 */
void
np_window_trim(NpWindow *window)
{
	if (window->size <= KEPT_SIZE || window->count > 0)
		return;
	pfree(window->slots);
	window->slots = window->first_slots;
	window->size = INITIAL_SIZE;
	memset(window->slots, 0, INITIAL_SIZE * sizeof(NpPending));
}

/*
 * Have room for a token higher than all before it.
 *
 * Invalidates pointers to slots.  ERROR when out of memory.
 */
void
np_window_make_room(NpWindow *window, uint64 token)
{
	Assert(token >= window->next);
	if (window->count == 0)
		window->first = token;
	while (token - window->first >= window->size)
		grow(window);
}

/*
 * A slot for a token for which there is room, zeroed but for the token.  Never
 * throws.
 */
NpPending *
np_window_add(NpWindow *window, uint64 token)
{
	NpPending  *slot = slot_of(window, token);

	memset(slot, 0, sizeof(*slot));
	slot->token = token;
	window->next = token + 1;
	window->count++;
	return slot;
}

/* The slot of a token, or NULL: unknown, or not pending any more. */
NpPending *
np_window_find(NpWindow *window, uint64 token)
{
	NpPending  *slot = slot_of(window, token);

	return token != 0 && slot->token == token ? slot : NULL;
}

/*
 * The used slot with the lowest token that is at least *next, or NULL.
 *
 * *next becomes the token after it: started at any token, calls visit all
 * slots from there on, whatever is done to those returned.
 */
NpPending *
np_window_next(NpWindow *window, uint64 *next)
{
	if (window->count == 0)
		return NULL;
	for (uint64 token = Max(*next, window->first); token < window->next; token++)
	{
		NpPending  *slot = slot_of(window, token);

		if (slot->token == token)
		{
			*next = token + 1;
			return slot;
		}
	}
	return NULL;
}

/* Free a slot and what it owns, but for its reference to the chunk. */
void
np_window_remove(NpWindow *window, NpPending *pending)
{
	if (pending->mode == NP_CRITICAL)
		window->critical--;
	if (pending->mode == NP_UNCRITICAL)
		window->uncritical--;
	if (pending->needs > 0)
		window->needing--;
	if (pending->denied)
		window->denied--;
	if (pending->cause != NULL)
	{
		np_failure_free(pending->cause);
		pfree(pending->cause);
	}
	pending->token = 0;
	window->count--;
	while (window->first < window->next && slot_of(window, window->first)->token != window->first)
		window->first++;
}

/* Mark it as denied, or not any more. */
void
np_window_set_denied(NpWindow *window, NpPending *pending, bool denied)
{
	if (pending->denied != denied)
		window->denied += denied ? 1 : -1;
	pending->denied = denied;
}

/* The subject of a pending message, in UTF-8. */
NpSpan
np_pending_subject(const NpPending *pending)
{
	return (NpSpan) {pending->bytes + pending->subject_offset, pending->subject_length};
}

/* The subject that its reply comes to: that of this message alone. */
NpSpan
np_pending_reply(const NpPending *pending)
{
	const char *begin = pending->bytes + pending->subject_offset + pending->subject_length + 1;

	return (NpSpan) {begin, strcspn(begin, " ")};
}

/* Its Nats-Msg-Id, in UTF-8; absent when it has none. */
NpSpan
np_pending_id(const NpPending *pending)
{
	if (pending->id_length == 0)
		return (NpSpan) {NULL, 0};
	return (NpSpan) {pending->bytes + pending->id_offset, pending->id_length};
}
