/*-------------------------------------------------------------------------
 *
 * feature.h
 *	  What a message needs that not every server knows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_FEATURE_H
#define NP_FEATURE_H

/* In the order of the versions: a server that knows one knows those before it. */
typedef enum NpFeature
{
	NP_FEATURE_NONE,
	NP_FEATURE_TTL,
	NP_FEATURE_EXPECT_SUBJECT,
	NP_FEATURE_COUNTER,
	NP_FEATURE_SCHEDULE,
	NP_FEATURE_LATER_SCHEDULE,	/* what schedules have learned since */
	NP_FEATURE_NEWEST = NP_FEATURE_LATER_SCHEDULE
} NpFeature;

/* What it is called, and since which version of nats-server it is known. */
typedef struct NpFeatureOrigin
{
	const char *name;
	int			major;
	int			minor;
	const char *hint;			/* what does without it, or NULL */
} NpFeatureOrigin;

extern const NpFeatureOrigin *np_feature_origin(NpFeature feature);

#endif							/* NP_FEATURE_H */
