/*-------------------------------------------------------------------------
 *
 * check_stream.c
 *	  The doctor's checks of the subject, and of the stream that takes it:
 *	  does an acknowledgment mean what its reader thinks?
 *
 * But for the first two, they are called with a stream whose configuration
 * and state are known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subject.h"
#include "check/check.h"
#include "publish/delivery.h"

/* From here on something is near its limit. */
#define NEARLY_FULL		80		/* percent */

/* The longest time between two attempts of the relay, ms. */
#define RELAY_PAUSE		30000

/* Streams that are named when several take the subject. */
#define MAX_NAMES		8

/* Pages of CONSUMER.LIST that are looked at. */
#define MAX_PAGES		20

/* A text of the stream's configuration; "" when it is not there. */
static const char *
config_text(const NpExamination *examination, const char *field)
{
	char	   *text = np_json_text(examination->config, field);

	return text != NULL ? text : "";
}

static bool
config_is(const NpExamination *examination, const char *field, const char *value)
{
	return strcmp(config_text(examination, field), value) == 0;
}

/* A limit of the stream's configuration; 0: there is none. */
static int64
config_limit(const NpExamination *examination, const char *field)
{
	return Max(np_json_int64(examination->config, field, 0), 0);
}

/* ---- subject ------------------------------------------------------------------------ */

void
np_check_subject(NpExamination *examination, NpFinding *finding)
{
	if (examination->bad_subject != NULL)
		np_find(finding, NP_CHECK_FAILED, "%s Publish to another one.", examination->bad_subject);
	else
		np_find(finding, NP_CHECK_OK, "It is valid, and nats_publish.allowed_subjects admits it.");
}

/* ---- stream ------------------------------------------------------------------------- */

static void
find_several_streams(const NpExamination *examination, NpFinding *finding)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < Min(np_json_count(examination->streams), MAX_NAMES); i++)
	{
		char	   *name = np_json_element_text(examination->streams, i);

		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "", name != NULL ? name : "");
	}
	np_find(finding, NP_CHECK_WARNING, "Several streams take the subject: %s. Let only one of them take it.", names.data);
}

static char *
cluster_text(const NpExamination *examination, const char *field)
{
	return examination->cluster != NULL ? np_json_text(examination->cluster, field) : NULL;
}

/* Is it one of a cluster, even with a single replica?  A leaf node alone takes its own name for that of a cluster. */
static bool
is_clustered(const NpExamination *examination)
{
	char	   *name = cluster_text(examination, "name");
	char	   *leader = cluster_text(examination, "leader");

	return name != NULL && (leader == NULL || strcmp(name, leader) != 0);
}

/* What keeps messages from the stream, unless a probe came through. */
static void
find_unusable_stream(const NpExamination *examination, NpFinding *finding)
{
	char	   *leader = cluster_text(examination, "leader");
	NpCheckStatus status = np_is_taken(examination) ? NP_CHECK_WARNING : NP_CHECK_FAILED;

	if (np_json_is_true(examination->config, "sealed"))
		np_find(finding, status, "It is sealed and takes no message. Publish to another stream.");
	if (np_json_child(examination->config, "mirror") != NULL)
		np_find(finding, status, "It is a mirror, which takes messages from its origin only. Publish to a subject of its origin.");
	if (is_clustered(examination) && (leader == NULL || leader[0] == '\0'))
		np_find(finding, status, "It has no leader, and takes nothing until a majority of its replicas is up. Start their servers.");
}

/*
 * None is known.  That the account has none proves nothing: an import, a mapping
 * or a leaf node may bring the message to one.
 */
static void
find_no_stream(const NpExamination *examination, NpFinding *finding)
{
	bool		nobody = examination->answers != NULL && examination->answers->nobody;

	if (nobody && (examination->has_no_stream || examination->no_jetstream != NULL))
		np_find(finding, NP_CHECK_FAILED, "No stream takes the subject. %s", np_advice_without_stream(examination));
	else
	{
		np_find(finding, NP_CHECK_UNKNOWN, "%s", examination->stream_unknown);
		if (nobody)
			np_find(finding, NP_CHECK_FAILED, "No stream takes a message to the subject: check that there is one, and that it has a leader.");
		if (examination->has_no_stream)
			np_find(finding, NP_CHECK_UNKNOWN, "Create one with nats_create_stream(), unless an import, a mapping or another domain brings messages to one.");
		if (examination->answers == NULL && examination->bad_subject == NULL && !examination->probe)
			np_find(finding, NP_CHECK_UNKNOWN, "With probe => true, nats_check() asks who takes it.");
	}
}

static void
find_stream(const NpExamination *examination, NpFinding *finding)
{
	NpCheckStatus status = np_is_taken(examination) ? NP_CHECK_WARNING : NP_CHECK_FAILED;

	if (examination->stream == NULL)
	{
		find_no_stream(examination, finding);
		return;
	}
	if (np_json_count(examination->streams) > 1)
		find_several_streams(examination, finding);
	else
		np_find(finding, NP_CHECK_OK, "\"%s\" takes the subject.", examination->stream);
	if (examination->config == NULL && examination->stream_failure.fault == NP_FAULT_JETSTREAM)
		np_find(finding, status, "%s Check that a majority of the servers with its replicas run.", examination->stream_unknown);
	else if (examination->config == NULL)
		np_find(finding, examination->is_elsewhere ? NP_CHECK_OK : NP_CHECK_UNKNOWN, "%s", examination->stream_unknown);
	else
		find_unusable_stream(examination, finding);
}

/* Do messages not come to the stream? */
static bool
is_unreached(const NpExamination *examination)
{
	return examination->stream != NULL && examination->answers != NULL && examination->answers->nobody;
}

void
np_check_stream(NpExamination *examination, NpFinding *finding)
{
	np_examine_taker(examination);
	find_stream(examination, finding);
	if (examination->bad_subject == NULL && (examination->probe || is_unreached(examination)))
		np_check_answers(examination, finding);
}

/* ---- storage, replicas -------------------------------------------------------------- */

void
np_check_storage(NpExamination *examination, NpFinding *finding)
{
	if (config_is(examination, "storage", "memory"))
		np_find(finding, NP_CHECK_WARNING, "The stream is in memory: what is acknowledged is lost when its servers stop. Create it with storage file.");
	else
		np_find(finding, NP_CHECK_OK, "The stream is in files.");
}

/* Its other replicas: those of the leader that answers. */
static void
find_replicas(const NpExamination *examination, NpFinding *finding)
{
	Jsonb	   *replicas = examination->cluster != NULL ? np_json_child(examination->cluster, "replicas") : NULL;

	for (int i = 0; i < np_json_count(replicas); i++)
	{
		Jsonb	   *replica = np_json_element(replicas, i);
		char	   *name = replica != NULL ? np_json_text(replica, "name") : NULL;

		if (name == NULL)
			continue;
		if (np_json_is_true(replica, "offline"))
			np_find(finding, NP_CHECK_WARNING, "The replica on \"%s\" is offline. Start that server.", name);
		else if (!np_json_is_true(replica, "current"))
			np_find(finding, NP_CHECK_WARNING, "The replica on \"%s\" is not current. Check that this server keeps up with the leader.", name);
	}
}

void
np_check_replicas(NpExamination *examination, NpFinding *finding)
{
	int64		replicas = np_json_int64(examination->config, "num_replicas", 1);

	if (replicas > 1)
		np_find(finding, NP_CHECK_OK, INT64_FORMAT " replicas.", replicas);
	else if (is_clustered(examination))
		np_find(finding, NP_CHECK_WARNING, "1 replica in a cluster: the stream stops without its server, and is lost with its disk. Give it 3 replicas.");
	else
		np_find(finding, NP_CHECK_OK, "1 replica on a server without a cluster: the stream is lost with its disk.");
	find_replicas(examination, finding);
}

/* ---- retention ---------------------------------------------------------------------- */

/* Does a consumer have the subject in its filter, or no filter? */
static bool
consumer_wants(Jsonb *consumer, NpSpan subject)
{
	Jsonb	   *config = np_json_child(consumer, "config");
	Jsonb	   *filters = config != NULL ? np_json_child(config, "filter_subjects") : NULL;
	char	   *filter = config != NULL ? np_json_text(config, "filter_subject") : NULL;

	if (filter != NULL && filter[0] != '\0')
		return np_pattern_matches(np_to_utf8(filter, strlen(filter)), subject);
	for (int i = 0; i < np_json_count(filters); i++)
	{
		filter = np_json_element_text(filters, i);
		if (filter != NULL && np_pattern_matches(np_to_utf8(filter, strlen(filter)), subject))
			return true;
	}
	return np_json_count(filters) == 0;
}

static int
count_wanting(Jsonb *consumers, NpSpan subject)
{
	int			count = 0;

	for (int i = 0; i < np_json_count(consumers); i++)
	{
		Jsonb	   *consumer = np_json_element(consumers, i);

		if (consumer != NULL && consumer_wants(consumer, subject))
			count++;
	}
	return count;
}

/* How many consumers take the subject, at least; -1: *failure says why that is not known. */
static int64
count_consumers(NpExamination *examination, NpFailure *failure)
{
	NpSpan		name = np_to_utf8(examination->stream, strlen(examination->stream));
	char	   *api = psprintf("CONSUMER.LIST.%.*s", (int) name.length, name.data);
	int64		offset = 0;
	int			wanting = 0;

	for (int page = 0; page < MAX_PAGES && wanting == 0; page++)
	{
		Jsonb	   *answer;
		int			count;

		if (!np_examine_api(examination, api, psprintf("{\"offset\": " INT64_FORMAT "}", offset), &answer, failure))
			return -1;
		count = np_json_count(np_json_child(answer, "consumers"));
		wanting = count_wanting(np_json_child(answer, "consumers"), examination->subject);
		offset += count;
		if (count == 0 || offset >= np_json_int64(answer, "total", 0))
			break;
	}
	return wanting;
}

static void
find_interest(NpExamination *examination, NpFinding *finding)
{
	NpFailure	failure;
	int64		all = np_json_int64(examination->state, "consumer_count", 0);
	int64		wanting = all == 0 ? 0 : count_consumers(examination, &failure);

	if (wanting < 0)
		np_find(finding, NP_CHECK_UNKNOWN, "interest: a message is stored only if a consumer takes its subject, and whether one does is not known: %s.", failure.text);
	else if (wanting > 0)
		np_find(finding, NP_CHECK_OK, "interest: messages are kept until its consumers have acknowledged them, and one at least takes the subject.");
	else
		np_find(finding, NP_CHECK_WARNING, "interest, with %s, none of which takes the subject: messages are acknowledged and not stored. Create the consumer first, or use retention limits.",
				np_count_of(all, "consumer"));
}

void
np_check_retention(NpExamination *examination, NpFinding *finding)
{
	if (config_is(examination, "retention", "interest"))
		find_interest(examination, finding);
	else if (config_is(examination, "retention", "workqueue"))
		np_find(finding, NP_CHECK_OK, "workqueue: messages are kept until a consumer has acknowledged them.");
	else
		np_find(finding, NP_CHECK_OK, "limits: messages are kept until a limit of the stream is reached.");
}

/* ---- no_ack, discard, duplicate_window, persist_mode --------------------------------- */

void
np_check_no_ack(NpExamination *examination, NpFinding *finding)
{
	if (np_json_is_true(examination->config, "no_ack"))
		np_find(finding, NP_CHECK_FAILED, "The stream acknowledges nothing, so each publish fails at its timeout. Set its no_ack to false.");
	else
		np_find(finding, NP_CHECK_OK, "The stream acknowledges.");
}

static bool
has_limits(const NpExamination *examination)
{
	return config_limit(examination, "max_msgs") > 0 || config_limit(examination, "max_bytes") > 0 ||
		config_limit(examination, "max_msgs_per_subject") > 0 || config_limit(examination, "max_age") > 0;
}

void
np_check_discard(NpExamination *examination, NpFinding *finding)
{
	if (!has_limits(examination))
		np_find(finding, NP_CHECK_OK, "%s, without a limit: only the account and the disk bound the stream.",
				config_text(examination, "discard"));
	else if (config_is(examination, "discard", "new"))
		np_find(finding, NP_CHECK_OK, "new: when the stream is full, publishing fails with SQLSTATE 53400.%s%s",
				config_limit(examination, "max_msgs_per_subject") > 0 && !np_json_is_true(examination->config, "discard_new_per_subject") ?
				" The oldest messages of a subject, which were acknowledged, are dropped when it reaches max_msgs_per_subject." : "",
				config_limit(examination, "max_age") > 0 ? " Messages are dropped when they reach max_age." : "");
	else
		np_find(finding, NP_CHECK_OK, "old: the oldest messages, which were acknowledged, are dropped when the stream reaches a limit.");
}

/* For how long a message may be sent again under its id, ms. */
static int64
retry_time(const NpExamination *examination)
{
	int64		time = np_delivery_resend_time();

	return examination->is_relayed ? time + RELAY_PAUSE : time;
}

/* The relay goes on for as long as there is no answer. */
static const char *
of_relay(const NpExamination *examination)
{
	return examination->is_relayed ? " (the relay's pauses included; in an outage longer)" : "";
}

void
np_check_duplicate_window(NpExamination *examination, NpFinding *finding)
{
	int64		window = config_limit(examination, "duplicate_window") / 1000000;
	double		needed = retry_time(examination) / 1000.0;

	if (window == 0)
		np_find(finding, NP_CHECK_WARNING, "The stream does not look for duplicates: what is sent again is stored twice. Give it a duplicate_window of %.0f s or more.", needed);
	else if (window / 1000.0 < needed)
		np_find(finding, NP_CHECK_WARNING, "%.1f s, but a message can be sent again for %.1f s%s. Make the stream's duplicate_window longer than that, or the timeouts shorter.",
				window / 1000.0, needed, of_relay(examination));
	else
		np_find(finding, NP_CHECK_OK, "%.1f s; a message can be sent again for %.1f s%s.", window / 1000.0, needed, of_relay(examination));
}

void
np_check_persist_mode(NpExamination *examination, NpFinding *finding)
{
	if (config_is(examination, "persist_mode", "async"))
		np_find(finding, NP_CHECK_WARNING, "async: messages are acknowledged before they are written. Create the stream with persist_mode default.");
	else
		np_find(finding, NP_CHECK_OK, "default: messages are written before they are acknowledged.");
}

/* ---- limits ------------------------------------------------------------------------- */

/* How much of a limit is used. */
static void
find_use(NpFinding *finding, const char *what, int64 used, int64 limit)
{
	double		percent;

	if (limit <= 0)
		return;
	percent = 100.0 * used / limit;
	if (percent >= 100)
		np_find(finding, NP_CHECK_FAILED, "%s: " INT64_FORMAT " of " INT64_FORMAT ": full. Raise the limit, or make room.", what, used, limit);
	else if (percent >= NEARLY_FULL)
		np_find(finding, NP_CHECK_WARNING, "%s: " INT64_FORMAT " of " INT64_FORMAT ", %.0f %%. Raise the limit, or make room.", what, used, limit, percent);
	else
		np_find(finding, NP_CHECK_OK, "%s: " INT64_FORMAT " of " INT64_FORMAT ".", what, used, limit);
}

/* A stream that drops its oldest messages is meant to be full. */
static void
find_use_of_stream(const NpExamination *examination, NpFinding *finding, const char *what, const char *used, const char *limit)
{
	int64		now = np_json_int64(examination->state, used, 0);
	int64		most = config_limit(examination, limit);

	if (config_is(examination, "discard", "new"))
		find_use(finding, what, now, most);
	else if (most > 0)
		np_find(finding, NP_CHECK_OK, "%s: " INT64_FORMAT " of " INT64_FORMAT "; beyond that, the oldest go.", what, now, most);
}

static void
find_stream_limits(const NpExamination *examination, NpFinding *finding)
{
	int64		max_message = config_limit(examination, "max_msg_size");
	int64		max_payload = np_connection_max_payload(examination->session->connection);

	find_use_of_stream(examination, finding, "Messages", "messages", "max_msgs");
	find_use_of_stream(examination, finding, "Bytes", "bytes", "max_bytes");
	if (max_message > 0 && max_message < max_payload)
		np_find(finding, NP_CHECK_OK, "The stream takes messages of " INT64_FORMAT " bytes at most, the server of " INT64_FORMAT ".", max_message, max_payload);
}

/* Of the account, or of one of its tiers. */
static void
find_account_limits(NpFinding *finding, Jsonb *account, const char *storage, const char *what)
{
	Jsonb	   *limits = np_json_child(account, "limits");
	char	   *limit = psprintf("max_%s", storage);

	if (limits != NULL)
		find_use(finding, what, np_json_int64(account, storage, 0), np_json_int64(limits, limit, 0));
}

void
np_check_limits(NpExamination *examination, NpFinding *finding)
{
	bool		in_memory = config_is(examination, "storage", "memory");
	const char *storage = in_memory ? "memory" : "storage";
	const char *what = in_memory ? "Memory of the account" : "Storage of the account";
	Jsonb	   *tiers;
	Jsonb	   *tier;

	find_stream_limits(examination, finding);
	if (examination->account == NULL)
		np_find(finding, NP_CHECK_UNKNOWN, "The limits of the account are not known.");
	else
	{
		tiers = np_json_child(examination->account, "tiers");
		tier = tiers == NULL ? NULL :
			np_json_child(tiers, psprintf("R" INT64_FORMAT, np_json_int64(examination->config, "num_replicas", 1)));
		find_account_limits(finding, tier != NULL ? tier : examination->account, storage, what);
	}
	if (finding->detail.len == 0)
		np_find(finding, NP_CHECK_OK, "Neither the stream nor the account has any.");
}
