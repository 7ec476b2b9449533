/*-------------------------------------------------------------------------
 *
 * settling.h
 *	  Writing down what became of the rows of the outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SETTLING_H
#define NP_SETTLING_H

#include "relay/relay_row.h"

/* What became of the rows that were settled. */
typedef struct NpSettled
{
	int64		published;
	int64		failed;			/* attempts that count */
	int64		dead;
	bool		is_changed;		/* somebody else has deleted or edited rows that were on their way */
	bool		has_returned;	/* rows that are in doubt, which are read again */
	bool		has_let_go;		/* rows that held up others are there no more */
	int			sqlerrcode;		/* for which rows could not be written yet; 0: at most because others have
								 * locked them */
	NpTime		next_due;		/* when the first of those that failed is to be tried again, or others be
								 * probed; NP_FOREVER: none has */
	char	   *error;			/* of one that failed, or could not be written; NULL: none.  palloc'd. */
} NpSettled;

extern void np_settle_later(NpRow *row);
extern int	np_settle_waiting(void);
extern int	np_settle_kept(void);
extern bool np_settle_holds(NpSpan subject, int64 id);
extern void np_settle(NpSettled *settled, bool kept_too);

#endif							/* NP_SETTLING_H */
