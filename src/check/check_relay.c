/*-------------------------------------------------------------------------
 *
 * check_relay.c
 *	  The doctor's check of the outbox and its relay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/settings.h"
#include "check/check_relay.h"
#include "outbox/outbox.h"

/* Is the relay of this database wanted, by relay_databases? */
bool
np_check_is_relayed(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	List	   *names;
	ListCell   *cell;

	if (!SplitIdentifierString(pstrdup(np_relay_databases), ',', &names))
		return false;
	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), database) == 0)
			return true;
	}
	return false;
}

/* What the relay of this database's table, or of its WAL, reports.  False: there is none. */
bool
np_check_relay_status(NpRelayStatus *status, bool of_wal)
{
	char	   *database = get_database_name(MyDatabaseId);

	for (int i = 0; i < NP_MAX_RELAYS && np_relay_state_is_there(); i++)
	{
		*status = np_relay_status(of_wal ? np_relay_wal_slot(i) : i);
		if (strcmp(status->name, database) == 0)
			return true;
	}
	return false;
}

static void
find_content(const NpOutboxContent *content, NpFinding *finding)
{
	if (content->waiting == 0)
		np_find(finding, NP_CHECK_OK, content->scheduled == 0 ? "nats_outbox is empty." : "No message in nats_outbox is due yet.");
	else
		np_find(finding, content->is_late ? NP_CHECK_WARNING : NP_CHECK_OK, "In nats_outbox: %s, the oldest for %s.",
				np_count_of(content->waiting, "message"), content->oldest);
	if (content->retrying > 0)
		np_find(finding, NP_CHECK_WARNING, "Of these, %s failed and will be tried again; the first, of subject \"%s\": %s.",
				np_count_of(content->retrying, "message"), content->subject, content->error == NULL ? "no error is known" : content->error);
	if (content->scheduled > 0)
		np_find(finding, NP_CHECK_OK, "%s there for later.", np_count_of(content->scheduled, "message"));
	if (content->dead > 0)
		np_find(finding, NP_CHECK_WARNING, "In nats_outbox_dead: %s. Fix what last_error says there, and call nats_outbox_retry_all().",
				np_count_of(content->dead, "message"));
}

/* There is no relay: does anything need one? */
static void
find_absence(const NpOutboxContent *content, bool is_wanted, NpFinding *finding)
{
	bool		is_empty = content->waiting + content->scheduled == 0;
	NpCheckStatus status = !is_empty ? NP_CHECK_FAILED : NP_CHECK_WARNING;

	if (!is_wanted && is_empty)
		np_find(finding, NP_CHECK_OK, "This database has no relay and needs none: it is not in nats_publish.relay_databases.");
	else if (!np_relay_state_is_there())
		np_find(finding, status, "There is no relay. Put nats_publish into shared_preload_libraries, and this database into nats_publish.relay_databases.");
	else if (!is_wanted)
		np_find(finding, status, "There is no relay. Put this database into nats_publish.relay_databases.");
	else
		np_find(finding, status, "The relay has not been started. The server's log says why. Check that max_worker_processes is high enough.");
}

/* "The relay is …" */
static const char *
phrase_for(NpRelayState state)
{
	switch (state)
	{
		case NP_RELAY_NO_EXTENSION:
			return "without the extension";
		case NP_RELAY_NO_TABLE:
			return "without the table nats_outbox";
		case NP_RELAY_NO_DATABASE:
			return "without its database";
		case NP_RELAY_CLOSED:
			return "without its database, which does not accept connections";
		case NP_RELAY_NO_RIGHTS:
			return "without the rights that it needs";
		default:
			return np_relay_state_name(state);
	}
}

/* What a state of the relay asks for; NULL: nothing. */
static const char *
advice_for(NpRelayState state)
{
	switch (state)
	{
		case NP_RELAY_WAITING:
			return "Check that NATS runs, and takes the relay's connection.";
		case NP_RELAY_FAILING:
			return "It gets errors from the tables of the outbox, or from their triggers, and tries again. Others than the messages that these are about are published.";
		case NP_RELAY_BLOCKED:
			return "It could not have a lock that it needs, and tries again: see pg_locks and pg_stat_activity for who has one for long.";
		case NP_RELAY_PAUSED:
			return "Call nats_relay_resume() to let it go on.";
		case NP_RELAY_OFF:
			return "Set nats_publish.publishing to on, unless this is a copy. What ALTER DATABASE sets counts once the relay was ended with pg_terminate_backend().";
		case NP_RELAY_NO_EXTENSION:
		case NP_RELAY_NO_DATABASE:
			return "It looks again within seconds.";
		case NP_RELAY_NO_TABLE:
			return "Give nats_outbox its name and the schema of the extension again.";
		case NP_RELAY_CLOSED:
			return "It starts after ALTER DATABASE ... ALLOW_CONNECTIONS true.";
		case NP_RELAY_NO_RIGHTS:
			return "Grant the owner of nats_outbox what the error names.";
		case NP_RELAY_DIVERTING:
			return "It could not publish in time, and moves what it reads to nats_outbox. Check that NATS runs, and takes its connection.";
		case NP_RELAY_STANDBYS:
			return "Those of synchronous_standby_names or synchronized_standby_slots do not have its WAL: check that they run, or take them out.";
		case NP_RELAY_STOPPED:
			return "It will be started again soon; the server's log says why it ended.";
		default:
			return NULL;
	}
}

/* "1234, 5678" */
static char *
list_of_processes(const ArrayType *processes)
{
	StringInfoData list;
	const int32 *pids = (const int32 *) ARR_DATA_PTR(processes);
	int			count = ArrayGetNItems(ARR_NDIM(processes), ARR_DIMS(processes));

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, i == 0 ? "%d" : ", %d", pids[i]);
	return list.data;
}

/* What the relay of that name is at; is_paused: it is to be, whether it has seen that or not. */
void
np_check_relay_state(const char *name, NpRelayStatus *status, bool is_paused, NpFinding *finding)
{
	const ArrayType *blockers = np_relay_blocked_by(status);
	NpRelayState state = is_paused ? NP_RELAY_PAUSED : status->state;
	const char *advice = advice_for(state);

	if (state == NP_RELAY_BLOCKED && blockers != NULL)
		np_find(finding, NP_CHECK_WARNING, "The %s is blocked by a lock of process %s. See pg_stat_activity for what it does, or with 0, pg_prepared_xacts.",
				name, list_of_processes(blockers));
	else if (advice == NULL)
		np_find(finding, NP_CHECK_OK, "The %s is %s.", name, phrase_for(state));
	else
		np_find(finding, NP_CHECK_WARNING, "The %s is %s. %s", name, phrase_for(state), advice);
	if (status->shared_stream[0] != '\0')
		np_find(finding, NP_CHECK_OK, "Somebody else writes to stream \"%s\" (it can be another relay of this server), so it gets one message of a subject at a time.",
				np_string_from_utf8(status->shared_stream));
	if (advice != NULL && status->last_error[0] != '\0')
		np_find(finding, NP_CHECK_WARNING, "Its last error: %s.",
				np_string_from_utf8(status->last_error));
}

/* With ids that sessions keep for later, the relay publishes nothing. */
static void
find_id_cache(Oid schema, NpFinding *finding)
{
	int64		cache = np_outbox_id_cache(get_relname_relid(NP_OUTBOX_SEQUENCE, schema));

	if (cache > 1)
		np_find(finding, NP_CHECK_FAILED, "Sequence \"%s\" has CACHE " INT64_FORMAT ", so the relay publishes nothing. Set it to 1 with ALTER SEQUENCE.",
				NP_OUTBOX_SEQUENCE, cache);
}

static void
look_into_outbox(NpExamination *examination, void *argument)
{
	NpOutboxContent *content = argument;

	*content = np_outbox_content(examination->schema);
}

static void
find_on_primary(NpExamination *examination, NpFinding *finding)
{
	NpOutboxContent content = {0};
	NpFailure	failure;
	bool		is_known = np_check_attempt_here(look_into_outbox, examination, &content, &failure);
	NpRelayStatus status;

	find_id_cache(examination->schema, finding);
	if (np_check_relay_status(&status, false))
		np_check_relay_state("relay", &status, content.is_paused, finding);
	else if (is_known || examination->is_relayed)
		find_absence(&content, examination->is_relayed, finding);
	else
		np_find(finding, NP_CHECK_UNKNOWN, "There is no relay; whether one is needed is not known.");
	if (is_known)
		find_content(&content, finding);
	else
		np_find(finding, NP_CHECK_UNKNOWN, "The outbox could not be looked into: %s.", failure.text);
}

void
np_check_relay(NpExamination *examination, NpFinding *finding)
{
	if (RecoveryInProgress())
		np_find(finding, NP_CHECK_OK, "This is a standby: its relay starts when it is promoted. The primary's doctor tells of the outbox.");
	else
		find_on_primary(examination, finding);
}
