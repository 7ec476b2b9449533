/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  What the administrator lets be published.
 *
 * The settings publishing, allowed_subjects and, for the outbox,
 * server_required.  They are asked where a message comes in, from a function,
 * a trigger or a row that somebody writes to the outbox; never by the relay,
 * whose messages have been admitted, by the session that wrote them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/encoding.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subject.h"
#include "message/protocol.h"
#include "publish/policy.h"

/* The setting's value in UTF-8, as subjects are, or NULL when it is not valid; it changes rarely. */
static const char *
allowed_patterns(void)
{
	static char *setting = NULL;
	static char *patterns = NULL;
	static bool is_valid;
	NpSpan		utf8;
	int			position;

	if (setting != NULL && strcmp(setting, np_allowed_subjects) == 0)
		return is_valid ? patterns : NULL;
	if (setting != NULL)
	{
		pfree(setting);
		setting = NULL;
		pfree(patterns);
	}
	utf8 = np_to_utf8(np_allowed_subjects, strlen(np_allowed_subjects));
	patterns = MemoryContextAllocZero(TopMemoryContext, utf8.length + 1);
	memcpy(patterns, utf8.data, utf8.length);
	is_valid = np_pattern_list_problem(patterns, &position) == NULL;
	setting = MemoryContextStrdup(TopMemoryContext, np_allowed_subjects);
	return is_valid ? patterns : NULL;
}

/* May this session publish to some subjects only? */
bool
np_policy_is_bounded(void)
{
	return np_allowed_subjects[0] != '\0';
}

/* May this session publish to a subject, or to all that a pattern stands for? */
bool
np_policy_allows(NpSpan subject)
{
	const char *patterns;

	if (!np_policy_is_bounded())
		return true;
	patterns = allowed_patterns();
	return patterns != NULL && np_pattern_list_matches(patterns, subject);
}

NP_NORETURN static void
raise_denied(const char *what, NpSpan name)
{
	NpFailure	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied for %s \"%s\"", what, np_from_utf8(name));

	failure.hint = allowed_patterns() != NULL ?
		"The setting nats_publish.allowed_subjects says to which subjects this session may publish." :
		"The setting nats_publish.allowed_subjects has a bad value, so that no subject is allowed.";
	np_raise(&failure);
}

/* Raises 42501 for a subject to which this session may not publish. */
void
np_policy_check_subject(NpSpan subject)
{
	if (!np_policy_allows(subject))
		raise_denied("subject", subject);
}

/*
 * Raises 42501 for a subject that is not among these patterns, which are a
 * role's (np_role_bounds); "": it is not bounded.  A bad one allows nothing.
 */
void
np_policy_check_as(NpSpan subject, const char *patterns, Oid role)
{
	NpFailure	failure;
	int			position;

	if (patterns[0] == '\0')
		return;
	patterns = np_to_utf8(patterns, strlen(patterns)).data;
	if (np_pattern_list_problem(patterns, &position) == NULL && np_pattern_list_matches(patterns, subject))
		return;
	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied for subject \"%s\"", np_from_utf8(subject));
	failure.hint = psprintf("The setting nats_publish.allowed_subjects of the role \"%s\" says to which subjects changes of its tables may be published.",
							GetUserNameFromId(role, false));
	np_raise(&failure);
}

/* Most headers must name one subject, not a pattern. */
static bool
names_what_is_allowed(NpHeaderPower power, NpSpan value)
{
	size_t		position;

	return (power == NP_HEADER_READS_SUBJECTS || np_subject_check(value, &position) == NP_TEXT_OK) && np_policy_allows(value);
}

/* Of a bounded session: what a header names or removes must be within its bounds, too. */
static void
check_headers(NpSpan headers)
{
	NpSpan		name;
	NpSpan		value;

	while (np_header_next(&headers, &name, &value))
		switch (np_message_header_power(name))
		{
			case NP_HEADER_OF_MESSAGE:
				break;
			case NP_HEADER_READS_SUBJECTS:
			case NP_HEADER_READS_SUBJECT:
			case NP_HEADER_WRITES_SUBJECT:
				if (!names_what_is_allowed(np_message_header_power(name), value))
					raise_denied("the subject of header", name);
				break;
			case NP_HEADER_REMOVES:
				/* the server takes it in any case */
				if (value.length != strlen("sub") || pg_strncasecmp(value.data, "sub", value.length) != 0)
					raise_denied("header", name);
				break;
		}
}

/* Raises 42501 for a message that this session may not publish. */
void
np_policy_check_message(const NpMessage *message)
{
	np_policy_check_subject(message->subject);
	if (np_policy_is_bounded() && message->has_power)
		check_headers(message->headers);
}

/* Raises 42501 when what this session writes may not go out on the relay's connection. */
void
np_policy_check_outbox(void)
{
	if (np_server_required)
		np_raise_fault(NP_FAULT_NOT_PERMITTED,
					   "nats_publish.server_required is on, and the relay does not publish to this session's foreign server as its role.",
					   "permission denied for the outbox");
}

/* The same of a role that has no session, and of which server_required is on. */
void
np_policy_refuse_outbox_as(Oid role)
{
	NpFailure	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied for the outbox");

	failure.hint = psprintf("nats_publish.server_required of the role \"%s\" is on, and the relay does not publish changes of its tables to a foreign server as that role.",
							GetUserNameFromId(role, false));
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
 * skipped, and is counted.  Raises 42501 when this session may not publish it.
 */
bool
np_policy_admits(const NpMessage *message, NpStatsMode mode)
{
	np_policy_check_message(message);
	if (mode == NP_STATS_OUTBOX)
		np_policy_check_outbox();
	if (np_publishing != NP_PUBLISHING_DRY_RUN)
		return true;
	np_stats_of(mode)->suppressed++;
	return false;
}
