/*-------------------------------------------------------------------------
 *
 * wal_divert.h
 *	  Moving messages of the WAL to nats_outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_DIVERT_H
#define NP_WAL_DIVERT_H

#include "access/xlogdefs.h"

#include "relay/relay_row.h"

/* What was moved at a time. */
typedef struct NpDiverted
{
	int64		moved;
	int64		kept;			/* not, as neither table takes them: to be tried again */
	int64		dead;			/* of those that were moved, to nats_outbox_dead */
	char	   *error;			/* of one that failed; NULL: none.  palloc'd. */
} NpDiverted;

extern void np_divert_later(NpRow *row);
extern void np_divert_untried(NpRow *row);
extern void np_divert_set_apart(void);
extern int	np_divert_waiting(void);
extern int	np_divert_kept(void);
extern bool np_divert_is_full(void);
extern void np_divert_write(NpDiverted *diverted);
extern XLogRecPtr np_divert_moved_until(void);
extern bool np_divert_holds(NpSpan subject);
extern bool np_divert_is_empty(void);
extern bool np_divert_holds_all(void);
extern void np_divert_look(void);
extern void np_divert_stop_waiting(void);
extern void np_divert_remember(void);

#endif							/* NP_WAL_DIVERT_H */
