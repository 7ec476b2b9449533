/*-------------------------------------------------------------------------
 *
 * feature.c
 *	  What a message needs that not every server knows.
 *
 * Older servers ignore a header that they do not know, and store the message
 * without what it asks for: forever, where it has a time to live.  So such a
 * message is sent only to a server that is known to be new enough.
 *
 *-------------------------------------------------------------------------
 */
#include <stddef.h>

#include "message/feature.h"

static const NpFeatureOrigin origins[] = {
	[NP_FEATURE_NONE] = {"publishing", 0, 0, NULL},
	[NP_FEATURE_TTL] = {"ttl", 2, 11, NULL},
	[NP_FEATURE_EXPECT_SUBJECT] = {"expect_last_subject_seq_subject", 2, 11, NULL},
	[NP_FEATURE_COUNTER] = {"increment", 2, 12, NULL},
	[NP_FEATURE_SCHEDULE] = {"deliver_at", 2, 12, "nats_publish_outbox() can deliver later with any server."},
	[NP_FEATURE_LATER_SCHEDULE] = {"a schedule with a source, a time zone or a roll-up", 2, 14, NULL}
};

const NpFeatureOrigin *
np_feature_origin(NpFeature feature)
{
	return &origins[feature];
}
