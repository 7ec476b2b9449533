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
#include "outbox/relay_state.h"

extern bool np_check_is_relayed(void);
extern bool np_check_relay_status(NpRelayStatus *status, bool of_wal);
extern void np_check_relay_state(const char *name, NpRelayStatus *status, bool is_paused, NpFinding *finding);
extern void np_check_relay(NpExamination *examination, NpFinding *finding);

#endif							/* NP_CHECK_RELAY_H */
