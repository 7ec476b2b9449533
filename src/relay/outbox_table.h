/*-------------------------------------------------------------------------
 *
 * outbox_table.h
 *	  The relay's transactions on the tables of the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_TABLE_H
#define NP_OUTBOX_TABLE_H

#include "outbox/statement.h"
#include "publish/delivery.h"

/* What is put off for longer may be what no stream takes, which the probes look for. */
#define NP_LONG_DELAY	(30 * USECS_PER_SEC)

extern bool np_outbox_begin(MemoryContext *caller);
extern void np_outbox_commit(MemoryContext caller);
extern bool np_outbox_was_begun(void);
extern void np_outbox_refresh(void);
extern bool np_outbox_has_rights(void);
extern Oid	np_outbox_table(void);
extern AttrNumber np_outbox_column(const char *name, Oid type);
extern Oid	np_outbox_extension(void);
extern int64 np_outbox_last_given(void);
extern NpSession *np_outbox_session(void);
extern void np_outbox_execute(NpStatement *statement, const Datum *values, bool read_only);
extern void np_outbox_read(NpStatement *statement, const Datum *values, DestReceiver *receiver);
extern int64 np_outbox_waiting(void);
extern void np_outbox_set_waiting(int64 count);

#endif							/* NP_OUTBOX_TABLE_H */
