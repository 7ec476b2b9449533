/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The table in which messages wait for the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_H
#define NP_OUTBOX_H

#include "message/message.h"

/* Of a message that does not wait for a time. */
#define NP_AT_ONCE		DT_NOBEGIN

/*
 * A row, of this alias with its dot, that has failed and is tried again; what
 * was not tried yet waits for its time, and holds up nobody.  Indexes have
 * these words.
 */
#define NP_OUTBOX_FAILED(alias) \
	alias "next_attempt_at IS NOT NULL AND (" alias "last_error IS NOT NULL OR " alias "attempts OPERATOR(pg_catalog.>) 0)"

/* How the last_error of a change of the WAL ends of which no message could be made: the row has what is known of it instead. */
#define NP_OUTBOX_NO_MESSAGE	" (of this change there is no message)"

/* Of the ids. */
#define NP_OUTBOX_SEQUENCE	"nats_outbox_id_seq"

/* What is in the tables, as anybody may see it. */
typedef struct NpOutboxContent
{
	int64		waiting;		/* rows of nats_outbox, but for ... */
	int64		scheduled;		/* ... those whose time has not come */
	char	   *oldest;			/* how long the oldest has waited, as an interval; NULL: there is none */
	bool		is_late;		/* that was long */
	int64		retrying;		/* of them, rows that have failed and are tried again */
	char	   *subject;		/* of the first of those; NULL: there is none */
	char	   *error;			/* its last one; NULL: none is known */
	int64		dead;			/* rows of nats_outbox_dead */
	bool		is_paused;
} NpOutboxContent;

extern NpOutboxContent np_outbox_content(Oid schema);
extern int64 np_outbox_id_cache(Oid sequence);
extern bool np_outbox_insert(Oid schema, const NpMessage *message, TimestampTz deliver_at, int64 *id);
extern bool np_outbox_insert_row(Oid schema, const NpMessage *message, TimestampTz deliver_at, int64 *id);
extern bool np_outbox_row_is_checked(void);
extern void np_outbox_set_diverting(bool is_diverting);
extern bool np_outbox_is_diverting(void);
extern Datum np_outbox_make_payload(NpSpan bytes);
extern Datum np_outbox_make_headers(const NpMessage *message, bool *isnull);

#endif							/* NP_OUTBOX_H */
