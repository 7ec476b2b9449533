/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  When the backend's transactions begin to matter to us.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TRANSACTION_H
#define NP_TRANSACTION_H

#include "relay/relay_state.h"

extern void np_transaction_init(void);
extern void np_transaction_join(void);
extern void np_transaction_wake_relay(NpRelayWake whom);

#endif							/* NP_TRANSACTION_H */
