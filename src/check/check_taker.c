/*-------------------------------------------------------------------------
 *
 * check_taker.c
 *	  Which stream takes the subject: what the account's JetStream says of it,
 *	  corrected by who does take a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "check/check.h"

/* Is a stream of this name, in UTF-8, among those that take the subject? */
static bool
has_answered(const NpAnswers *answers, const char *stream)
{
	const char *name = np_to_utf8_somehow(stream);

	for (int i = 0; i < Min(answers->count, NP_MAX_ANSWERS); i++)
		if (strcmp(answers->list[i].stream, name) == 0)
			return true;
	return false;
}

/*
 * The stream is the one that takes messages, whatever the account's own JetStream
 * says of the subject: a mapping or an import can lead to another one.
 */
static void
take_answer(NpExamination *examination, const NpAnswer *answer)
{
	/* else JetStream could not be asked, which is said already */
	bool		was_asked = examination->stream != NULL || examination->has_no_stream || examination->no_jetstream != NULL;

	examination->stream = np_string_from_utf8(answer->stream);
	examination->streams = NULL;
	examination->config = examination->state = examination->cluster = examination->stream_info = NULL;
	examination->stream_failure = (NpFailure) {NP_FAULT_NONE};
	if (answer->place == NULL)
		np_examine_stream_info(examination);
	else if (was_asked)
		examination->stream_unknown = psprintf("The stream \"%s\" is %s, and can be looked at there.",
											   examination->stream, answer->place);
	examination->is_elsewhere = answer->place != NULL && was_asked;
}

/*
 * Find the stream that takes the subject, as np_examine_streams does, and see
 * whether it does, or another one.
 */
void
np_examine_taker(NpExamination *examination)
{
	const NpAnswers *answers;

	np_examine_streams(examination);
	if (examination->asked_answers)
		return;
	np_examine_answers(examination);
	answers = examination->answers;
	if (answers != NULL && answers->count > 0 &&
		(examination->stream == NULL || !has_answered(answers, examination->stream)))
		take_answer(examination, &answers->list[0]);
}

/* Has a stream taken a probe? */
bool
np_is_taken(const NpExamination *examination)
{
	return examination->answers != NULL && examination->answers->count > 0 &&
		examination->answers->refusal[0] == '\0';
}
