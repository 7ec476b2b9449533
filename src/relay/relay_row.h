/*-------------------------------------------------------------------------
 *
 * relay_row.h
 *	  A row of the outbox that the relay has in hand.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_ROW_H
#define NP_RELAY_ROW_H

#include "lib/ilist.h"
#include "storage/itemptr.h"

#include "base/report.h"
#include "base/wait.h"
#include "message/message.h"

/* How the error of a row begins for which a server ends the connection. */
#define NP_CULPRIT	"the server ends the connection for this message"

typedef enum NpRowState
{
	NP_ROW_UNSENT,
	NP_ROW_SENT,
	NP_ROW_STORED,
	NP_ROW_FAILED,				/* and is to be tried again */
	NP_ROW_DEAD,
	NP_ROW_DOUBTED				/* it may be stored, which is to be noted */
} NpRowState;

/* How last_error begins, for good, of one that may be stored. */
#define NP_ROW_IN_DOUBT	"58030"

/* How last_error of one begins that is dead, and waits in the table until that can be written down; the error of its own follows. */
#define NP_ROW_UNBURIED "22000: dead, but not taken by nats_outbox_dead: "

typedef struct NpRow
{
	dlist_node	node;			/* in the list of what is ready, waits behind another one, or has ended */
	int64		id;
	const char *msg_id;			/* as the table has it; NULL: it is not there */
	ItemPointerData place;		/* in the table, where it was read */
	int			attempts;		/* before this one */
	bool		is_due;			/* its time has come: to be tried again, or of delivery */
	bool		has_failed;		/* before */
	bool		is_probe;		/* no stream has taken it for long */
	bool		is_released;	/* a stream has taken another one like it */
	bool		is_suspect;		/* connections were lost with it before */
	bool		is_unread;		/* its payload is larger than the server takes, and was left where it is */
	size_t		length;			/* of headers and payload */
	NpMessage	message;		/* headers and payload only until it is sent */
	char	   *content;		/* these two; NULL: none */
	struct NpLane *lane;		/* NULL: none */
	void	   *source;			/* of the WAL's relay: its place in the queue */
	struct NpStream *stream;	/* that takes it; NULL: not known, or not of interest */
	bool		is_chained;		/* it is stored right behind the one before it, or not at all */

	NpRowState	state;
	NpTime		sent_at;
	uint64		token;			/* of one that was sent */
	bool		in_doubt;		/* this attempt or an earlier one may have stored it */
	bool		waits_for_stream;	/* nobody takes it, or nobody answers */
	bool		is_uncounted;	/* it has failed, by no fault of its own */
	bool		is_gone;		/* somebody has changed or deleted it meanwhile: it is not dead */
	bool		is_unburied;	/* it is dead, but that could not be written down ... */
	bool		was_dead;		/* ... before, so that it is not tried */
	bool		is_written;		/* what became of it, by what was done last */
	bool		is_told;		/* of, by the statement whose rows are read */
	bool		is_holder;		/* counted by settling.c as one that holds up its subject */
	double		delay;			/* of one that has failed: in how many seconds it is tried again */
	char		sqlstate[6];	/* why it failed, or came into doubt ... */
	char	   *error;			/* ... in this attempt; NULL: neither */
} NpRow;

extern uint64 np_subject_hash(NpSpan subject);
extern NpRow *np_row_create(int64 id, const char *msg_id, NpSpan subject);
extern void np_row_take(NpRow *row, const NpMessage *message);
extern void np_row_release(NpRow *row);
extern void np_row_free(NpRow *row);
extern void np_row_set_released(NpRow *row, bool is_released);
extern int	np_rows_released(void);
extern NpRow *np_row_find(int64 id, const char *msg_id);
extern int64 np_rows_bytes(void);
extern int64 np_rows_max_bytes(void);
extern void np_rows_trim(void);

extern bool np_row_is_to_blame(const char *sqlstate);
extern void np_row_fail(NpRow *row, const char *sqlstate, const char *error);
extern void np_row_refuse(NpRow *row, const char *sqlstate, const char *error);
extern void np_row_wait_for_stream(NpRow *row, const NpFailure *failure);
extern bool np_row_holds_untold(const NpRow *row);
extern bool np_row_waits_for_others(const NpRow *row);
extern void np_row_put_off(NpRow *row, const NpFailure *failure);
extern char *np_row_last_error(bool in_doubt, const char *sqlstate, const char *error);
extern bool np_row_doubt(NpRow *row, const NpFailure *failure);

#endif							/* NP_RELAY_ROW_H */
