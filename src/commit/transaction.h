/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  When the backend's transactions begin to matter to us.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TRANSACTION_H
#define NP_TRANSACTION_H

extern void np_transaction_init(void);
extern void np_transaction_join(void);
extern void np_transaction_wake_relay(void);

#endif							/* NP_TRANSACTION_H */
