/*-------------------------------------------------------------------------
 *
 * check_server.c
 *	  The doctor's checks of the connection, the server and the NATS user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "base/subject.h"
#include "check/check.h"
#include "libnats/library.h"
#include "publish/session.h"
#include "wire/server_info.h"

#define PINGS			5

#define NO_CONNECTION	"There is no connection to the server."

/* Each COMMIT waits for a round trip at least. */
#define SLOW_ROUND_TRIP	NP_MILLISECONDS(10)

/* What is off by more is not noise. */
#define CLOCK_LIMIT		USECS_PER_SEC

/* ---- connection --------------------------------------------------------------------- */

/* What a try to connect has failed at, and what to do about it. */
typedef struct Cure
{
	const char *step;
	const char *advice;
} Cure;

static const Cure cures[] = {
	[NP_WIRE_OK] = {"inbox", "Allow the NATS user to subscribe to the inboxes, or set inbox_prefix to a subject that it may subscribe to."},
	[NP_WIRE_NO_LOGIN] = {"authentication", "Check that the server process can read the file, and that it holds credentials for NATS."},
	[NP_WIRE_NO_HOST] = {"dns", "Correct the host in the URL, or the name resolution of this machine."},
	[NP_WIRE_NO_SERVER] = {"tcp", "Check that nats-server runs and listens there, and that no firewall is in between."},
	[NP_WIRE_NO_TLS] = {"tls", "Check that the server wants TLS, that tls_ca_file has the authority of its certificate, and that the certificate has the name in the URL."},
	[NP_WIRE_NOT_AUTHORIZED] = {"authentication", "Correct the credentials in the settings, or in the user mapping of the foreign server."},
	[NP_WIRE_NOT_SUPPORTED] = {"libnats", "Use a newer libnats, or switch the option off."},
	[NP_WIRE_FAILED] = {"nats", "Check that what listens there is nats-server 2.9 or later, and accepts clients."},
};

static void
find_failed_tries(NpFinding *finding, const List *tries)
{
	bool		advised[lengthof(cures)] = {false};
	ListCell   *cell;

	foreach(cell, tries)
	{
		const NpConnectionTry *tried = lfirst(cell);

		np_find(finding, NP_CHECK_FAILED, "%s (%s): %s.", tried->url, cures[tried->status].step, tried->reason);
	}
	foreach(cell, tries)
	{
		const NpConnectionTry *tried = lfirst(cell);

		if (!advised[tried->status])
			np_find(finding, NP_CHECK_FAILED, "%s", cures[tried->status].advice);
		advised[tried->status] = true;
	}
}

static void
find_no_connection(NpExamination *examination, NpFinding *finding, const NpFailure *failure)
{
	const NpSession *session = examination->session;

	if (session != NULL && !np_connection_is_open(session->connection) &&
		np_connection_tries(session->connection) != NIL)
	{
		find_failed_tries(finding, np_connection_tries(session->connection));
		return;
	}
	np_find_failure(finding, NP_CHECK_FAILED, failure);
	np_find(finding, NP_CHECK_FAILED, "%s", failure->hint != NULL ? failure->hint :
			session == NULL ? "Set nats_publish.server to a foreign server that is there and that the role may use." :
			"Check that the server runs and is not overloaded.");
}

void
np_check_connection(NpExamination *examination, NpFinding *finding)
{
	bool		connected;
	NpFailure	failure;
	NpConnectionIdentity identity;

	connected = np_check_attempt(np_examine_connection, examination, NULL, &failure);
	np_examine_subject(examination);
	if (!connected)
	{
		examination->unreachable = NO_CONNECTION;
		find_no_connection(examination, finding, &failure);
		return;
	}
	identity = np_connection_identity(examination->session->connection);
	np_find(finding, NP_CHECK_OK, "%s, %s TLS, logged in with %s.", identity.url,
			identity.tls ? "with" : "without", identity.login);
}

/* ---- server ------------------------------------------------------------------------- */

static void
examine_info(NpExamination *examination, void *unused)
{
	examination->info = np_server_info(examination->session->connection);
}

static void
find_features(NpExamination *examination, NpFinding *finding)
{
	NpConnection *connection = examination->session->connection;
	int64		level = np_json_int64(examination->info, "api_lvl", 0);

	if (!np_server_is_at_least(connection, 2, 9))
		np_find(finding, NP_CHECK_FAILED, "That is too old: use nats-server 2.9 or later.");
	else if (level >= 2)
		np_find(finding, NP_CHECK_OK, "It has API level " INT64_FORMAT ": ttl and atomic commits can be used.", level);
	else if (np_server_is_at_least(connection, 2, 11))
		np_find(finding, NP_CHECK_OK, "ttl can be used; atomic commits need nats-server 2.12.");
	else
		np_find(finding, NP_CHECK_OK, "ttl needs nats-server 2.11, atomic commits 2.12.");
}

static void
examine_features(NpExamination *examination, void *unused)
{
	(void) np_server_is_at_least(examination->session->connection, 2, 9);
}

void
np_check_server(NpExamination *examination, NpFinding *finding)
{
	NpFailure	failure;
	const char *name;
	const char *cluster;

	if (!np_check_attempt(examine_info, examination, NULL, &failure) ||
		!np_check_attempt(examine_features, examination, NULL, &failure))
	{
		np_find_failure(finding, NP_CHECK_UNKNOWN, &failure);
		return;
	}
	name = np_json_text(examination->info, "server_name");
	cluster = np_json_text(examination->info, "cluster");
	/* a leaf node alone takes its own name for that of a cluster */
	if (cluster != NULL && name != NULL && strcmp(cluster, name) == 0)
		cluster = NULL;
	np_find(finding, NP_CHECK_OK, "nats-server %s, \"%s\"%s%s%s; libnats %s.",
			np_json_text(examination->info, "version"), name != NULL ? name : "",
			cluster != NULL ? " of the cluster \"" : "", cluster != NULL ? cluster : "", cluster != NULL ? "\"" : "",
			np_library_version());
	find_features(examination, finding);
}

/* ---- jetstream ---------------------------------------------------------------------- */

static const char *
domain_clause(NpExamination *examination)
{
	char	   *domain = examination->info != NULL ? np_json_text(examination->info, "domain") : NULL;

	return domain != NULL ? psprintf(" in the domain \"%s\"", domain) : "";
}

static bool
server_has_jetstream(const NpExamination *examination)
{
	return examination->info != NULL && np_json_is_true(examination->info, "jetstream");
}

static const char *
describe_absence(const NpExamination *examination, const NpFailure *failure)
{
	if (!server_has_jetstream(examination))
		return "The server does not have JetStream";
	if (failure->hint != NULL)	/* JetStream says so itself */
		return psprintf("The server has JetStream, the account does not: %s", failure->text);
	return "The server has JetStream, but does not answer the account's requests";
}

/*
 * The account has none.  Messages may be stored all the same, by another account
 * that exports the subject or a server behind a leaf node.
 */
static void
find_no_jetstream(NpExamination *examination, NpFinding *finding, const NpFailure *failure)
{
	NpCheckStatus status = NP_CHECK_UNKNOWN;
	const char *what = describe_absence(examination, failure);

	examination->no_jetstream = failure->hint != NULL ? failure->hint :
		server_has_jetstream(examination) ? NP_HINT_ACCOUNT : NP_HINT_SWITCH_ON;
	if (examination->subject.data != NULL)
		np_examine_taker(examination);
	if (np_is_taken(examination))
	{
		np_find(finding, NP_CHECK_OK, "%s. A stream takes the subject all the same.", what);
		return;
	}
	if (examination->answers != NULL && examination->answers->nobody)
		status = NP_CHECK_FAILED;
	np_find(finding, status, "%s. %s", what, examination->no_jetstream);
	if (status == NP_CHECK_UNKNOWN)
		np_find(finding, status, "Another account or server may take what is published: nats_check(subject, probe => true) tells.");
}

void
np_check_jetstream(NpExamination *examination, NpFinding *finding)
{
	NpFailure	failure;

	if (np_examine_api(examination, "INFO", "", &examination->account, &failure))
		np_find(finding, NP_CHECK_OK, "The account has JetStream%s, with %s.", domain_clause(examination),
				np_count_of(np_json_int64(examination->account, "streams", 0), "stream"));
	else if (failure.fault == NP_FAULT_NOT_PERMITTED)
		np_find(finding, NP_CHECK_UNKNOWN, "The NATS user may not ask: it has no right to publish to $JS.API.INFO.");
	else if (failure.fault == NP_FAULT_NO_JETSTREAM)
		find_no_jetstream(examination, finding, &failure);
	else
		np_find(finding, NP_CHECK_UNKNOWN, "JetStream could not be asked: %s.", failure.text);
}

/* ---- round_trip --------------------------------------------------------------------- */

static int
compare_times(const void *a, const void *b)
{
	NpTime		left = *(const NpTime *) a;
	NpTime		right = *(const NpTime *) b;

	return left < right ? -1 : left > right;
}

/* False: one of them was not answered. */
static bool
ping(NpConnection *connection, NpTime *times)
{
	for (int i = 0; i < PINGS; i++)
	{
		NpTime		start = np_now();

		if (!np_connection_is_open(connection) ||
			!np_connection_ping(connection, NP_WAIT_ACK, start + NP_MILLISECONDS(np_ack_timeout)))
			return false;
		times[i] = np_now() - start;
	}
	qsort(times, PINGS, sizeof(NpTime), compare_times);
	return true;
}

/* The time that the server has written; raises what is not one. */
static void
read_clock(NpExamination *examination, void *written)
{
	*(TimestampTz *) written = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(examination->clock),
																	   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* How far the server's clock is ahead of ours, at least; microseconds. */
static int64
clock_offset(const NpExamination *examination, TimestampTz written)
{
	if (written < examination->clock_before)
		return written - examination->clock_before;
	return Max(written - examination->clock_after, 0);
}

static void
find_clock(NpExamination *examination, NpFinding *finding)
{
	NpFailure	failure;
	TimestampTz written;
	int64		offset;

	if (examination->clock == NULL || !np_check_attempt(read_clock, examination, &written, &failure) ||
		TIMESTAMP_NOT_FINITE(written))
	{
		np_find(finding, NP_CHECK_OK, "The server does not report its time.");
		return;
	}
	offset = clock_offset(examination, written);
	if (offset > CLOCK_LIMIT || offset < -CLOCK_LIMIT)
		np_find(finding, NP_CHECK_WARNING, "The server's clock is %.1f s %s ours. Synchronize the clocks of both machines.",
				fabs(offset / 1e6), offset > 0 ? "ahead of" : "behind");
	else
		np_find(finding, NP_CHECK_OK, "The server's clock agrees with ours.");
}

void
np_check_round_trip(NpExamination *examination, NpFinding *finding)
{
	NpTime		times[PINGS];
	NpFailure	failure;

	if (!np_session_ready(examination->session, true, &failure))
	{
		np_find_failure(finding, NP_CHECK_FAILED, &failure);
		examination->unreachable = NO_CONNECTION;
		return;
	}
	if (!ping(examination->session->connection, times))
	{
		np_find(finding, NP_CHECK_FAILED, "The server does not answer a PING. Check that it runs and is not overloaded.");
		examination->unreachable = "The server does not answer.";
		return;
	}
	np_find(finding, NP_CHECK_OK, "The median of %d PINGs is %.2f ms, the longest took %.2f ms.", PINGS,
			times[PINGS / 2] / 1000.0, times[PINGS - 1] / 1000.0);
	if (times[PINGS / 2] > SLOW_ROUND_TRIP)
		np_find(finding, NP_CHECK_WARNING, "Each COMMIT that publishes waits for a round trip or more: move the server closer, or use the outbox.");
	np_examine_user(examination);
	if (examination->clock == NULL && examination->subject.data != NULL)
		np_examine_streams(examination);
	find_clock(examination, finding);
}

/* ---- permissions -------------------------------------------------------------------- */

/* Does a list of patterns in the server's JSON have one that matches? */
static bool
list_matches(Jsonb *patterns, NpSpan subject)
{
	for (int i = 0; i < np_json_count(patterns); i++)
	{
		char	   *pattern = np_json_element_text(patterns, i);

		if (pattern != NULL && np_pattern_matches(np_to_utf8(pattern, strlen(pattern)), subject))
			return true;
	}
	return false;
}

/* Nothing that is said is no limit; what is denied is so whatever is allowed. */
static bool
may_publish(Jsonb *user, NpSpan subject)
{
	Jsonb	   *permissions = np_json_child(user, "permissions");
	Jsonb	   *publish = permissions != NULL ? np_json_child(permissions, "publish") : NULL;
	Jsonb	   *allow = publish != NULL ? np_json_child(publish, "allow") : NULL;

	if (publish == NULL)
		return true;
	if (list_matches(np_json_child(publish, "deny"), subject))
		return false;
	return np_json_count(allow) == 0 || list_matches(allow, subject);
}

static void
find_subject_permission(NpExamination *examination, NpFinding *finding)
{
	char	   *subject = np_from_utf8(examination->subject);

	if (examination->bad_subject != NULL)
		np_find(finding, NP_CHECK_UNKNOWN, "%s", examination->bad_subject);
	else if (examination->user == NULL)
		np_find(finding, NP_CHECK_UNKNOWN, "Whether the NATS user may publish to \"%s\" is not known: %s.", subject,
				examination->user_failure.fault == NP_FAULT_NOT_PERMITTED ? "it may not ask at $SYS.REQ.USER.INFO" :
				examination->user_failure.fault == NP_FAULT_NO_JETSTREAM ? "servers tell it since 2.10" :
				examination->user_failure.text);
	else if (may_publish(examination->user, examination->subject))
		np_find(finding, NP_CHECK_OK, "The NATS user may publish to \"%s\".", subject);
	else
		np_find(finding, NP_CHECK_FAILED, "The NATS user may not publish to \"%s\". Allow it in its permissions on the server.", subject);
}

void
np_check_permissions(NpExamination *examination, NpFinding *finding)
{
	np_examine_user(examination);
	if (examination->subject.data != NULL)
		np_examine_streams(examination);
	np_find(finding, NP_CHECK_OK, "The NATS user may subscribe to its inbox.");
	if (examination->api_refused)
		np_find(finding, NP_CHECK_OK, "It may not use all of the JetStream API, which publishing does not need but some checks do.");
	else if (examination->api_silence == NULL)
		np_find(finding, NP_CHECK_OK, "It may use the JetStream API.");
	if (examination->subject.data != NULL)
		find_subject_permission(examination, finding);
}
