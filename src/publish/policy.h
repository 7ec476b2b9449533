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
extern bool np_policy_is_bounded(void);
extern bool np_policy_allows(NpSpan subject);
extern void np_policy_check_subject(NpSpan subject);
extern void np_policy_check_message(const NpMessage *message);
extern void np_policy_check_outbox(void);
extern void np_policy_refuse_outbox_as(Oid role);
extern void np_policy_check_as(NpSpan subject, const char *patterns, Oid role);

#endif							/* NP_POLICY_H */
