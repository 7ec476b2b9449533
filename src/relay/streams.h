/*-------------------------------------------------------------------------
 *
 * streams.h
 *	  What the relay knows of the streams that take its messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_STREAMS_H
#define NP_STREAMS_H

#include "lib/ilist.h"

#include "base/wait.h"
#include "outbox/relay_state.h"
#include "publish/delivery.h"

/* Streams that are known at once; messages of others go by subject. */
#define NP_MAX_STREAMS		64

/* The longest name of a stream, and the longest id, that a chain has. */
#define NP_MAX_CHAIN_TEXT	256

typedef enum NpStreamMode
{
	NP_STREAM_UNUSED,
	NP_STREAM_HEARD,			/* it has acknowledged a message: to be asked about */
	NP_STREAM_BARRED,			/* it can't be pipelined, or does not say */
	NP_STREAM_PIPELINED,
	NP_STREAM_BY_SUBJECT		/* others write to it, or it does not answer */
} NpStreamMode;

/* The messages of a stream that go one behind the other; chains.c. */
typedef struct NpChain
{
	dlist_head	waiting;		/* rows, in the order in which they go */
	dlist_head	returned;		/* rows that were refused, which go before them */
	int			on_way;			/* rows of the stream ... */
	int			laneless;		/* ... and those of them whose subject has no lane */
	bool		is_open;		/* a row may go behind the last one */
	char		last_id[NP_MAX_CHAIN_TEXT]; /* of that one */
	size_t		last_id_length;
	uint64		stored;			/* the last sequence that is known to be ours */
	bool		was_refused;	/* something was, since a row went alone */
	NpTime		answered_at;	/* when the last answer came, or the first row went */
	int			limit;			/* so many may be on their way */
	int			gained;			/* were stored in a chain since it was hindered last */
	int			hindrance;		/* how much others have disturbed it, and rows that can't be chained */
	NpTime		held_up_since;	/* when such a row went, that is on its way; 0: none is */
	NpTime		held_up_for;	/* how long the last one was */
	int64		passed;			/* the lowest id of rows that were passed by; 0: none */
} NpChain;

typedef struct NpStream
{
	char		name[NP_MAX_CHAIN_TEXT + 1];
	char		domain[NP_MAX_CHAIN_TEXT + 1];
	NpStreamMode mode;
	bool		has_others;		/* who write to it */
	NpTime		next_question;
	NpTime		delay;			/* until it is pipelined again, when it ceases to be */
	NpTime		next_telling;	/* that this relay writes to it */
	MemoryContext context;		/* of its subjects; NULL: not used yet */
	NpSpan	   *subjects;
	int			subject_count;
	NpChain		chain;
} NpStream;

extern NpStream np_streams[NP_MAX_STREAMS];
extern int	np_streams_used;

extern NpStream *np_stream_of(NpSpan subject);
extern void np_streams_heard(const NpPubAck *ack, NpStream *expected);
extern void np_stream_tell(NpStream *stream);
extern bool np_streams_any_heard(void);
extern NpStream *np_streams_ask(NpSession *session);
extern void np_stream_rest(NpStream *stream, bool has_others);
extern void np_stream_doubt(NpStream *stream);
extern void np_streams_doubt(bool all);
extern void np_streams_forget(void);
extern NpRelayOrder np_streams_order(const char **shared);
extern void np_stream_reset_delay(NpStream *stream);

#endif							/* NP_STREAMS_H */
