/*-------------------------------------------------------------------------
 *
 * check_features.c
 *	  The doctor's look at what the stream allows beyond plain messages.
 *
 * Nothing of it is wrong, or right: it is what the arguments of the publish
 * functions meet there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/subject.h"
#include "check/check.h"
#include "message/schedule.h"

/* What a field of the configuration allows. */
typedef struct Feature
{
	const char *field;
	const char *what;
} Feature;

static const Feature features[] = {
	{"allow_rollup_hdrs", "rollup"},
	{"allow_msg_ttl", "ttl"},
	{"allow_msg_counter", "increment"},
	{"allow_msg_schedules", "deliver_at"},
	{"allow_atomic", "atomic commits"},
	{"allow_batched", "batches of fast ingest"}
};

/* Those that the stream allows, or those that it does not; "" for none. */
static const char *
list_features(const NpExamination *examination, bool allowed)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < lengthof(features); i++)
		if (np_json_is_true(examination->config, features[i].field) == allowed)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", features[i].what);
	return list.data;
}

/* Has the stream the subjects where messages for this one would wait? */
static bool
has_room_for_schedules(const NpExamination *examination)
{
	Jsonb	   *subjects = np_json_child(examination->config, "subjects");
	NpSpan		example = np_schedule_subject(examination->subject, (NpSpan) {"x", 1});

	for (int i = 0; i < np_json_count(subjects); i++)
	{
		char	   *pattern = np_json_element_text(subjects, i);

		if (pattern != NULL && np_pattern_matches(np_to_utf8(pattern, strlen(pattern)), example))
			return true;
	}
	return false;
}

void
np_check_features(NpExamination *examination, NpFinding *finding)
{
	const char *allowed = list_features(examination, true);
	const char *refused = list_features(examination, false);

	if (allowed[0] != '\0')
		np_find(finding, NP_CHECK_OK, "The stream allows %s.", allowed);
	if (refused[0] != '\0')
		np_find(finding, NP_CHECK_OK, "It does not allow %s.", refused);
	if (np_json_is_true(examination->config, "allow_msg_counter"))
		np_find(finding, NP_CHECK_OK, "It holds counters, and takes no message without increment.");
	if (!np_json_is_true(examination->config, "allow_msg_schedules"))
		np_find(finding, NP_CHECK_OK, "Messages with deliver_at can wait only in nats_outbox.");
	else if (!has_room_for_schedules(examination))
		np_find(finding, NP_CHECK_WARNING, "Messages with deliver_at have no place to wait: give the stream a subject that takes \"%s\".",
				np_from_utf8(np_schedule_subject(examination->subject, (NpSpan) {"x", 1})));
}
