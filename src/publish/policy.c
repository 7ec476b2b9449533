/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  What the administrator lets be published.
 *
 * The settings publishing and allowed_subjects.  Both are asked where a
 * message comes in, from a function, a trigger or a row that somebody writes
 * to the outbox; never by the relay, whose messages have been admitted, by
 * the session that wrote them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/encoding.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subject.h"
#include "publish/policy.h"

/* The setting's value in UTF-8, as subjects are; it changes rarely. */
static const char *
allowed_patterns(void)
{
	static char *setting = NULL;
	static char *patterns = NULL;
	NpSpan		utf8;

	if (setting != NULL && strcmp(setting, np_allowed_subjects) == 0)
		return patterns;
	if (setting != NULL)
	{
		pfree(setting);
		setting = NULL;
		pfree(patterns);
	}
	utf8 = np_to_utf8(np_allowed_subjects, strlen(np_allowed_subjects));
	patterns = MemoryContextAllocZero(TopMemoryContext, utf8.length + 1);
	memcpy(patterns, utf8.data, utf8.length);
	setting = MemoryContextStrdup(TopMemoryContext, np_allowed_subjects);
	return patterns;
}

/* Raises 42501 for a subject to which this session may not publish. */
void
np_policy_check_subject(NpSpan subject)
{
	NpFailure	failure;

	if (np_allowed_subjects[0] == '\0' || np_pattern_list_matches(allowed_patterns(), subject))
		return;
	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied for subject \"%s\"", np_from_utf8(subject));
	failure.hint = "The setting nats_publish.allowed_subjects says to which subjects this session may publish.";
	np_raise(&failure);
}

/* Is a call to publish to be skipped as it is?  Then it is counted. */
bool
np_policy_skips_calls(NpStatsMode mode)
{
	if (np_publishing != NP_PUBLISHING_OFF)
		return false;
	np_stats_of(mode)->suppressed++;
	return true;
}

/*
 * May a message, with which all is well, be published?  False: it is to be
 * skipped, and is counted.  Raises what np_policy_check_subject raises.
 */
bool
np_policy_admits(const NpMessage *message, NpStatsMode mode)
{
	np_policy_check_subject(message->subject);
	if (np_publishing != NP_PUBLISHING_DRY_RUN)
		return true;
	np_stats_of(mode)->suppressed++;
	return false;
}
