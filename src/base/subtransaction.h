/*-------------------------------------------------------------------------
 *
 * subtransaction.h
 *	  What may fail without the transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SUBTRANSACTION_H
#define NP_SUBTRANSACTION_H

extern ErrorData *np_try_subtransaction(void (*function) (void *argument), void *argument);

#endif							/* NP_SUBTRANSACTION_H */
