/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  When the backend's transactions begin to matter to us.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TRANSACTION_H
#define NP_TRANSACTION_H

#include "outbox/relay_state.h"

/* Who is on a floor above, and has something to do at the ends. */
typedef struct NpTransactionListener
{
	void		(*before_end) (void);	/* may still publish */
	void		(*settle) (int nest_level); /* subtransactions of this nesting have committed */
	void		(*abort) (int nest_level);	/* they were rolled back; never throws */
	void		(*reset) (void);	/* the transaction has ended; never throws */
} NpTransactionListener;

extern void np_transaction_init(void);
extern void np_transaction_listen(const NpTransactionListener *listener);
extern void np_transaction_refuse_restricted(void);
extern void np_transaction_join(void);
extern void np_transaction_wake_relay(NpRelayWake whom);

#endif							/* NP_TRANSACTION_H */
