/*-------------------------------------------------------------------------
 *
 * outbox_table.h
 *	  The relay's transactions on the tables of the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_TABLE_H
#define NP_OUTBOX_TABLE_H

#include "outbox/relay_state.h"
#include "outbox/statement.h"
#include "publish/delivery.h"

/* What is put off for longer may be what no stream takes, which the probes look for. */
#define NP_LONG_DELAY	(30 * USECS_PER_SEC)

/* The columns of a message that is dead. */
enum
{
	NP_DEAD_ID,
	NP_DEAD_SUBJECT,
	NP_DEAD_PAYLOAD,
	NP_DEAD_HEADERS,
	NP_DEAD_MSG_ID,
	NP_DEAD_CREATED_AT,
	NP_DEAD_ATTEMPTS,
	NP_DEAD_ERROR,
	NP_DEAD_COLUMNS
};

typedef struct NpDead
{
	Datum		values[NP_DEAD_COLUMNS];
	bool		nulls[NP_DEAD_COLUMNS];
} NpDead;

extern bool np_outbox_begin(MemoryContext *caller);
extern void np_outbox_commit(MemoryContext caller);
extern bool np_outbox_was_begun(void);
extern void np_outbox_refresh(void);
extern bool np_outbox_has_rights(void);
extern Oid	np_outbox_table(void);
extern AttrNumber np_outbox_column(const char *name, Oid type);
extern NpRelayState np_outbox_absent_as(void);
extern Oid	np_outbox_extension(void);
extern int64 np_outbox_last_given(void);
extern Oid	np_outbox_sequence_storage(void);
extern NpSession *np_outbox_session(void);
extern void np_outbox_execute(NpStatement *statement, const Datum *values, bool read_only);
extern void np_outbox_execute_on(const char *relation, NpStatement *statement, const Datum *values, const bool *nulls, bool read_only);
extern int64 np_outbox_next_id(void);
extern void np_outbox_bury(const NpDead *dead);
extern void np_outbox_read(NpStatement *statement, const Datum *values, DestReceiver *receiver);
extern int64 np_outbox_waiting(void);
extern void np_outbox_set_waiting(int64 count);

#endif							/* NP_OUTBOX_TABLE_H */
