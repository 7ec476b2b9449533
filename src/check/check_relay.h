/*-------------------------------------------------------------------------
 *
 * check_relay.h
 *	  The doctor's check of the outbox and its relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHECK_RELAY_H
#define NP_CHECK_RELAY_H

#include "check/check.h"

extern bool np_check_is_relayed(void);
extern void np_check_relay(NpExamination *examination, NpFinding *finding);

#endif							/* NP_CHECK_RELAY_H */
