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

extern bool np_outbox_begin(MemoryContext *caller);
extern void np_outbox_commit(MemoryContext caller);
extern void np_outbox_refresh(void);
extern Oid	np_outbox_table(void);
extern NpSession *np_outbox_session(void);
extern void np_outbox_execute(NpStatement *statement, Datum *values, bool read_only);
extern SPIPlanPtr np_outbox_plan(NpStatement *statement);
extern int64 np_outbox_waiting(void);
extern void np_outbox_set_waiting(int64 count);

#endif							/* NP_OUTBOX_TABLE_H */
