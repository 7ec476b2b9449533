/*-------------------------------------------------------------------------
 *
 * window.h
 *	  The messages that wait for an acknowledgment, by their tokens.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WINDOW_H
#define NP_WINDOW_H

#include "base/report.h"
#include "base/types.h"
#include "base/wait.h"
#include "wire/outbound.h"

/* Who waits for a message. */
typedef enum NpMode
{
	NP_SYNC,					/* the call that published it */
	NP_CRITICAL,				/* the transaction */
	NP_UNCRITICAL,				/* nobody; a failure is a WARNING */
	NP_REQUEST,					/* not a message: an API request, and its call waits */
	NP_BATCH,					/* the atomic batch that it is a member of */
	NP_RELAYED,					/* the relay */
	NP_PROBE					/* not a message: all who answer are listened to */
} NpMode;

typedef struct NpPending
{
	uint64		token;			/* 0: this slot is free */
	const char *bytes;			/* the whole command, in chunk */
	NpChunk    *chunk;
	uint64		position;		/* of bytes in the outgoing stream */
	NpTime		retry_at;		/* 0: sent, or to be sent with the stream */
	NpTime		published_at;
	NpFailure  *cause;			/* why it is retried; NULL: nothing said */
	uint32		length;
	uint32		content_length; /* of its headers and payload */
	uint32		id_offset;		/* of its Nats-Msg-Id in bytes */
	uint32		stream_offset;	/* of the stream's name in bytes that the ack must have */
	uint16		id_length;		/* 0: it has none, and can't be sent again */
	uint16		stream_length;	/* 0: it can be any */
	uint16		subject_offset;
	uint16		subject_length;
	uint8		mode;			/* NpMode */
	uint8		counted_as;		/* NpStatsMode */
	uint8		attempts;		/* that the server has answered with "not now" */
	uint8		untaken;		/* how often nobody took it, likewise */
	uint8		needs;			/* NpFeature: must not go to a server that would ignore it */
	bool		may_be_refused; /* that its expectation does not hold is as good as an ack */
	bool		has_own_id;		/* the user has given it, so that he can give it again */
	bool		in_doubt;		/* a copy may be stored, of which no more will be heard */
	bool		refused;		/* by another stream than the expected one, which may answer until retry_at */
	bool		denied;			/* the NATS user may not publish it, or another one to its subject */
} NpPending;

/* A ring, in which a token's place is found without searching. */
typedef struct NpWindow
{
	MemoryContext context;
	NpPending  *slots;
	NpPending  *first_slots;	/* the few that it begins with, and goes back to */
	uint32		size;			/* a power of 2 */
	int			count;			/* of used slots */
	int			critical;		/* of these, those that the transaction waits for, ... */
	int			uncritical;		/* ... those that nobody waits for ... */
	int			needing;		/* ... those that not every server may get ... */
	int			denied;			/* ... and those that are marked so */
	uint64		last_denied;	/* that was marked */
	uint64		first;			/* no used slot is before this token ... */
	uint64		next;			/* ... or from this one on */
} NpWindow;

extern void np_window_init(NpWindow *window, MemoryContext context);
extern void np_window_trim(NpWindow *window);
extern void np_window_make_room(NpWindow *window, uint64 token);
extern NpPending *np_window_add(NpWindow *window, uint64 token);
extern NpPending *np_window_find(NpWindow *window, uint64 token);
extern NpPending *np_window_next(NpWindow *window, uint64 *next);
extern void np_window_set_denied(NpWindow *window, NpPending *pending, bool denied);
extern void np_window_remove(NpWindow *window, NpPending *pending);
extern NpSpan np_pending_subject(const NpPending *pending);
extern NpSpan np_pending_reply(const NpPending *pending);
extern NpSpan np_pending_id(const NpPending *pending);

#endif							/* NP_WINDOW_H */
