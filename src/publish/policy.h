/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  What the administrator lets be published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_POLICY_H
#define NP_POLICY_H

#include "message/message.h"
#include "stats/stats.h"

extern bool np_policy_skips_calls(NpStatsMode mode);
extern bool np_policy_admits(const NpMessage *message, NpStatsMode mode);
extern void np_policy_check_subject(NpSpan subject);

#endif							/* NP_POLICY_H */
