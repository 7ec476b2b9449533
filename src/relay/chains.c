/*-------------------------------------------------------------------------
 *
 * chains.c
 *	  The messages of a stream, in the order of the outbox and pipelined.
 *
 * Who is the only writer of a stream knows which message is the last one in it.
 * So one that has been acknowledged is followed at once by others, each of which
 * expects the id of the one before it.  The server stores such a message right
 * behind that one, or not at all:
 *
 *	  alone ──► acknowledged ──► chained, chained, chained ...
 *		▲									│ refused
 *		└──── all are answered, and what was not stored has returned ◄┘
 *
 * Foretold sequences would not do.  When another writer takes the place of a
 * message, that one is refused; but the next one finds the sequence that it
 * expects, and with it the whole window would be stored before the first.  And
 * with the ids they add nothing: the last id of a stream is that of its last
 * message, none if that has none.
 *
 * That a chained message is refused says nothing about itself.  It returns to
 * where it was, in its order, and the first one goes alone, without anything
 * added: then it is stored, is known for a duplicate, or has failed as any
 * message can.  So whatever is added never fails a message, and what is in
 * doubt after a lost connection is resolved before anything behind it goes.
 *
 * When others write all the time, or rows come that can't be chained, the
 * stream is left to lanes.c for a while (streams.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/chains.h"

/* On their way: at first and when chains are broken, and at most. */
#define LEAST_LIMIT		16
#define LAST_LIMIT		1000000

/* For how long it is likely that nobody else has written anything. */
#define FRESH			NP_MILLISECONDS(100)

/*
 * How much a message of somebody else hinders, and a row that can't be chained:
 * that by itself, and by each so much time that it held up others, but for a
 * single one that is not answered for long; at how much the chain is given up ...
 */
#define BY_OTHERS		30
#define BY_ROW			1
#define BY_TIME			NP_MILLISECONDS(3)
#define MOST_BY_TIME	9
#define TOO_MUCH		90

/* ... and after so many messages that were stored in it, it is forgotten. */
#define ALL_IS_WELL		2000

static size_t largest;			/* that the server takes, headers and payload */

/* ---- What waits --------------------------------------------------------------------------- */

/* Its rows have to wait elsewhere: nothing that went from here is on its way any more. */
bool
np_chain_is_over(const NpStream *stream)
{
	return stream->mode != NP_STREAM_PIPELINED && stream->chain.laneless == 0;
}

/* Do its rows wait here?  Also behind the last ones, as long as they have not gone elsewhere. */
bool
np_chain_queues(NpStream *stream)
{
	return stream != NULL &&
		(!np_chain_is_over(stream) || !dlist_is_empty(&stream->chain.waiting) || !dlist_is_empty(&stream->chain.returned));
}

/* A row waits for its turn: by its id, as one may have waited elsewhere. */
void
np_chain_enter(NpRow *row)
{
	dlist_head *waiting = &row->stream->chain.waiting;
	dlist_node *behind = &waiting->head;

	if (!dlist_is_empty(waiting))
		behind = dlist_tail_node(waiting);
	while (behind != &waiting->head && dlist_container(NpRow, node, behind)->id > row->id)
		behind = behind->prev;
	if (dlist_is_empty(waiting))
		dlist_push_head(waiting, &row->node);
	else
		dlist_insert_after(behind, &row->node);
}

/* It was about to go, and does not yet. */
void
np_chain_return(NpRow *row)
{
	dlist_push_head(&row->stream->chain.waiting, &row->node);
}

/* Can it be chained as it is?  Headers of the server's may forbid others. */
static bool
is_fit(const NpRow *row)
{
	return !row->is_unread && !row->message.has_conditions &&
		row->message.id.data != NULL && row->length + NP_CHAIN_HEADERS <= largest &&
		row->message.headers.length + NP_CHAIN_HEADERS <= NP_MAX_HEADERS_LENGTH;
}

/* Also by what has become of it?  What may be stored already would be refused. */
static bool
is_chainable(const NpRow *row)
{
	return !row->is_due && !row->in_doubt && !row->is_suspect && is_fit(row);
}

static bool
may_go(const NpStream *stream, const NpRow *row)
{
	const NpChain *chain = &stream->chain;

	if (stream->mode != NP_STREAM_PIPELINED)
		return false;
	return row->state != NP_ROW_UNSENT || chain->on_way == 0 ||
		(chain->is_open && chain->on_way < chain->limit && is_chainable(row));
}

/* The row that may go next, of all streams, or NULL. */
NpRow *
np_chains_first(void)
{
	NpRow	   *first = NULL;

	for (int i = 0; i < np_streams_used; i++)
	{
		dlist_head *waiting = &np_streams[i].chain.waiting;
		NpRow	   *row = dlist_is_empty(waiting) ? NULL : dlist_head_element(NpRow, node, waiting);

		if (row != NULL && may_go(&np_streams[i], row) && (first == NULL || row->id < first->id))
			first = row;
	}
	return first;
}

static NpRow *
find(dlist_head *rows, NpSpan subject)
{
	dlist_iter	iter;

	dlist_foreach(iter, rows)
	{
		NpRow	   *row = dlist_container(NpRow, node, iter.cur);

		if (subject.data == NULL || np_span_equals(row->message.subject, subject))
			return row;
	}
	return NULL;
}

/*
 * Take out the first row that waits, of a subject or (absent) of any.  NULL:
 * there is none.
 */
NpRow *
np_chain_pop(NpStream *stream, NpSpan subject)
{
	NpRow	   *row = find(&stream->chain.returned, subject);

	if (row == NULL)
		row = find(&stream->chain.waiting, subject);
	if (row != NULL)
		dlist_delete(&row->node);
	return row;
}

/* ---- What is on its way --------------------------------------------------------------------- */

/* What the server takes, headers and payload. */
void
np_chains_set_largest(size_t length)
{
	largest = length;
}

static void
hinder(NpStream *stream, int how_much, bool by_others)
{
	NpChain    *chain = &stream->chain;

	chain->gained = 0;
	chain->hindrance += how_much;
	if (chain->hindrance < TOO_MUCH)
		return;
	chain->hindrance = 0;
	np_stream_rest(stream, by_others);
}

/* Nothing may go behind the last row. */
static void
close_chain(NpChain *chain)
{
	chain->is_open = false;
}

/* A text that old servers could take for a header (message.c) can't be given to one. */
static void
open_chain(NpChain *chain, NpSpan id)
{
	chain->is_open = id.length > 0 && id.length < NP_MAX_CHAIN_TEXT &&
		memmem(id.data, id.length, "Nats-", 5) == NULL;
	if (!chain->is_open)
		return;
	memcpy(chain->last_id, id.data, id.length);
	chain->last_id_length = id.length;
}

/* A single row gains nothing, and neither does one behind which others have had time to write. */
static bool
is_worth_it(NpChain *chain)
{
	return chain->on_way > 0 || (!dlist_is_empty(&chain->waiting) && np_now() < chain->answered_at + FRESH);
}

/* A row of a known stream, which has been taken out, is about to go. */
void
np_chain_begin(NpRow *row)
{
	NpStream   *stream = row->stream;
	NpChain    *chain = &stream->chain;
	bool		is_pipelined = stream->mode == NP_STREAM_PIPELINED;

	np_stream_tell(stream);
	row->is_chained = is_pipelined && chain->is_open && is_chainable(row) && is_worth_it(chain);
	if (chain->on_way == 0)
		chain->answered_at = np_now();
	chain->limit = Max(chain->limit, LEAST_LIMIT);
	chain->on_way++;
	if (row->lane == NULL)
		chain->laneless++;
	if (!row->is_chained)
		close_chain(chain);
	if (is_pipelined && !row->is_chained && !is_chainable(row) && !row->in_doubt && !dlist_is_empty(&chain->waiting))
	{
		/* how long the one before it did */
		hinder(stream, BY_ROW + (int) Min(chain->held_up_for / BY_TIME, MOST_BY_TIME), false);
		chain->held_up_since = is_fit(row) ? 0 : np_now();
	}
}

/* The message of a chained row, which is the last of the chain from now on; palloc'd. */
void
np_chain_message(const NpRow *row, NpMessage *message)
{
	NpChain    *chain = &row->stream->chain;

	np_message_expect(message, &row->message, (NpSpan) {chain->last_id, chain->last_id_length});
	open_chain(chain, row->message.id);
}

/* What has returned goes first. */
static void
restore(NpChain *chain)
{
	if (chain->on_way > 0)
		return;
	while (!dlist_is_empty(&chain->returned))
	{
		dlist_node *row = dlist_tail_node(&chain->returned);

		dlist_delete(row);
		dlist_push_head(&chain->waiting, row);
	}
}

static void
leave(NpRow *row)
{
	NpChain    *chain = &row->stream->chain;

	chain->on_way--;
	if (row->lane == NULL)
		chain->laneless--;
	chain->answered_at = np_now();
	chain->held_up_for = chain->held_up_since == 0 ? 0 : chain->answered_at - chain->held_up_since;
	chain->held_up_since = 0;
}

static void
gain(NpStream *stream)
{
	NpChain    *chain = &stream->chain;

	chain->limit = Min(chain->limit + 1, LAST_LIMIT);
	if (++chain->gained < ALL_IS_WELL)
		return;
	chain->gained = chain->hindrance = 0;
	np_stream_reset_delay(stream);
}

/* Behind a row that went alone, its place is known. */
static void
learn_place(NpStream *stream, uint64 sequence, NpSpan id)
{
	NpChain    *chain = &stream->chain;

	if (chain->was_refused && chain->stored > 0 && sequence > chain->stored + 1)
		hinder(stream, BY_OTHERS, true);
	chain->was_refused = false;
	if (stream->mode == NP_STREAM_PIPELINED && chain->on_way == 0)
		open_chain(chain, id);
}

/* A row on its way, with this id, is stored: now, or by an earlier copy. */
void
np_chain_stored(NpRow *row, const NpPubAck *ack, NpSpan id)
{
	NpChain    *chain = &row->stream->chain;

	leave(row);
	if (ack->duplicate)
		chain->stored = Max(chain->stored, ack->sequence);
	else
	{
		if (row->is_chained)
			gain(row->stream);
		else
			learn_place(row->stream, ack->sequence, id);
		chain->stored = ack->sequence;
	}
	restore(chain);
}

/* A chained row is not stored, or it is not known: it waits again. */
void
np_chain_refused(NpRow *row)
{
	NpChain    *chain = &row->stream->chain;

	leave(row);
	if (chain->is_open)
		chain->limit = Max(chain->limit / 4, LEAST_LIMIT);
	close_chain(chain);
	chain->was_refused = true;
	row->is_chained = false;
	row->state = NP_ROW_UNSENT;
	dlist_push_tail(&chain->returned, &row->node);
	restore(chain);
}

/* A row on its way has come to its end otherwise. */
void
np_chain_lost(NpRow *row)
{
	leave(row);
	close_chain(&row->stream->chain);
	restore(&row->stream->chain);
	row->is_chained = false;
}

/* A row that went before its stream was known. */
void
np_chain_join(NpRow *row, NpStream *stream)
{
	row->stream = stream;
	stream->chain.on_way++;
	stream->chain.answered_at = np_now();
}

/* ---- What can't wait ----------------------------------------------------------------------- */

/* Has nothing been heard of what is on its way since then? */
bool
np_chain_is_slow(const NpStream *stream, NpTime since)
{
	return stream->chain.on_way > 0 && stream->chain.answered_at < since;
}

/* Is a row to be passed by, because rows before it were?  They are read again together. */
bool
np_chain_passes(NpStream *stream, int64 id)
{
	if (stream->chain.passed == 0)
		return false;
	stream->chain.passed = Min(stream->chain.passed, id);
	return true;
}

/* The lowest id of rows that were passed by and may wait here again; 0: none. */
int64
np_chains_free(void)
{
	int64		lowest = 0;

	for (int i = 0; i < np_streams_used; i++)
	{
		const NpChain *chain = &np_streams[i].chain;

		if ((chain->on_way == 0 || !np_chain_queues(&np_streams[i])) && chain->passed != 0 && (lowest == 0 || chain->passed < lowest))
			lowest = chain->passed;
	}
	return lowest;
}

/* Rows from this id on are about to be read again, in order. */
void
np_chains_revisit(int64 id)
{
	for (int i = 0; i < np_streams_used; i++)
		if (np_streams[i].chain.passed >= id)
			np_streams[i].chain.passed = 0;
}
