/*-------------------------------------------------------------------------
 *
 * check_settings.c
 *	  The doctor's check of the settings: do they contradict each other, the
 *	  server, or what a user expects?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"

#include "base/json.h"
#include "base/settings.h"
#include "check/check.h"
#include "outbox/relay_state.h"
#include "stats/shared_stats.h"

/* What fails closed. */
static void
find_problems(NpFinding *finding)
{
	ListCell   *cell;

	foreach(cell, np_guards_problems())
		np_find(finding, NP_CHECK_FAILED, "%s", (const char *) lfirst(cell));
}

/* They can be meant to restrict, and restrict nothing. */
static void
find_misspelt(NpFinding *finding)
{
	ListCell   *cell;

	foreach(cell, np_misspelt_names)
		np_find(finding, NP_CHECK_WARNING, "\"%s\" is set, but is not a setting of nats_publish, so it does nothing. Correct its name.",
				(const char *) lfirst(cell));
}

static void
find_publishing(NpFinding *finding)
{
	if (np_publishing == NP_PUBLISHING_OFF)
		np_find(finding, NP_CHECK_WARNING, "nats_publish.publishing is off: nothing is published. Set it to on, unless this is a copy.");
	else if (np_publishing == NP_PUBLISHING_DRY_RUN)
		np_find(finding, NP_CHECK_WARNING, "nats_publish.publishing is dry_run: messages are checked and not published. Set it to on, unless this is a copy.");
}

/* Messages that outlive the rows they are about. */
static void
find_durability(NpFinding *finding)
{
	if (!enableFsync)
		np_find(finding, NP_CHECK_WARNING, "fsync is off: after a crash the messages are there, and what committed with them may not be. Switch it on.");
	else if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		np_find(finding, NP_CHECK_WARNING, "synchronous_commit is off: after a crash the messages of the last transactions are there, and their rows are not. Switch it on where you publish.");
}

static void
find_sending(NpExamination *examination, NpFinding *finding)
{
	if (!np_auto_msg_id)
		np_find(finding, NP_CHECK_WARNING, "nats_publish.auto_msg_id is off: when its connection is lost, a message without an id fails and is not sent again. Switch it on, or give ids.");
	if (np_ack_timeout > np_commit_timeout)
		np_find(finding, NP_CHECK_WARNING, "nats_publish.ack_timeout is longer than commit_timeout: a COMMIT gives up what a call would wait for. Make commit_timeout the longer one.");
	if (np_commit_batch != NP_COMMIT_ATOMIC)
		return;
	if (examination->info != NULL && np_json_int64(examination->info, "api_lvl", 0) < 2)
		np_find(finding, NP_CHECK_WARNING, "nats_publish.commit_batch is atomic, which this server does not support. Set it to pipelined, or use nats-server 2.12.");
	if (examination->config != NULL && !np_json_is_true(examination->config, "allow_atomic"))
		np_find(finding, NP_CHECK_WARNING, "nats_publish.commit_batch is atomic, which the stream does not allow. Set it to pipelined, or allow_atomic for the stream.");
}

void
np_check_settings(NpExamination *examination, NpFinding *finding)
{
	find_problems(finding);
	find_misspelt(finding);
	find_publishing(finding);
	find_durability(finding);
	find_sending(examination, finding);
	if (finding->status == NP_CHECK_OK)
		np_find(finding, NP_CHECK_OK, "Nothing contradicts.");
	if (!np_relay_state_is_there())
		np_find(finding, NP_CHECK_OK, "nats_publish is not in shared_preload_libraries: there is no relay%s.",
				np_shared_stats_attach() ? "" : ", and there are no statistics");
}
