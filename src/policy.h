/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  What the administrator lets be published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_POLICY_H
#define NP_POLICY_H

#include "message.h"

extern bool np_policy_skips_calls(void);
extern bool np_policy_admits(const NpMessage *message);
extern void np_policy_check_subject(NpSpan subject);

#endif							/* NP_POLICY_H */
