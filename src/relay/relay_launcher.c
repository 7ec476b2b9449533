/*-------------------------------------------------------------------------
 *
 * relay_launcher.c
 *	  The background worker that starts and stops the relays.
 *
 * It runs on a primary only (a standby's postmaster starts it at promotion),
 * and keeps to what the setting relay_databases says: a worker for each of
 * them that exists, started again with a growing delay when it ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "base/settings.h"
#include "base/wait.h"
#include "outbox/relay_state.h"
#include "outbox/wal_slot.h"
#include "relay/relay_launcher.h"
#include "relay/relay_process.h"

PGDLLEXPORT void np_launcher_main(Datum argument);

#define FIRST_DELAY		NP_MILLISECONDS(1000)
#define LAST_DELAY		NP_MILLISECONDS(60000)

/* A worker that has lived so long did not fail to start. */
#define SETTLED_AFTER	NP_MILLISECONDS(60000)

/* A worker that an earlier launcher has started does not notify this one of its end, nor does a database that is created. */
#define LONGEST_SLEEP	NP_MILLISECONDS(5000)

/* What the launcher remembers of a slot. */
typedef struct Relay
{
	bool		wanted;
	NpRelayState unusable;		/* why, as it was logged; NP_RELAY_STARTING: it is not */
	BackgroundWorkerHandle *handle; /* of the worker last started; NULL: none */
	NpTime		started;
	NpTime		next_start;
	NpTime		delay;
} Relay;

static Relay relays[NP_MAX_SLOTS];

/* ---- Starting and stopping ---------------------------------------------------------- */

/* One that DROP DATABASE has left half-way can't be connected to either. */
static bool
accepts_connections(Form_pg_database database)
{
	return database->datallowconn && database->datconnlimit >= -1;
}

/*
 * Why there can be no relay for a database; NP_RELAY_STARTING: there can.
 *
 * As autovacuum.c get_database_list: without a database of its own, a process
 * can read pg_database, but may not have its indexes.
 */
static NpRelayState
state_of_database(const char *name)
{
	NpRelayState state = NP_RELAY_NO_DATABASE;
	Relation	databases;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	databases = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(databases, 0, NULL);
	while (state == NP_RELAY_NO_DATABASE && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(database->datname), name) == 0)
			state = accepts_connections(database) ? NP_RELAY_STARTING : NP_RELAY_CLOSED;
	}
	table_endscan(scan);
	table_close(databases, AccessShareLock);
	CommitTransactionCommand();
	return state;
}

static void
reset_worker(Relay *relay)
{
	if (relay->handle != NULL)
		pfree(relay->handle);
	relay->handle = NULL;
}

/* Is there a worker that has not claimed its slot?  Its database may be locked. */
static bool
is_starting(const Relay *relay)
{
	pid_t		pid;

	return relay->handle != NULL && GetBackgroundWorkerPid(relay->handle, &pid) != BGWH_STOPPED;
}

/* What differs between the relays of the table and of the WAL. */
static const struct
{
	const char *type;
	const char *function;
}			kinds[] = {
	{"nats_publish relay", "np_relay_main"},
	{"nats_publish WAL relay", "np_wal_relay_main"}
};

static void
register_worker(int slot, const char *database)
{
	int			kind = np_relay_is_of_wal(slot) ? 1 : 0;
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "nats_publish",
		.bgw_main_arg = Int32GetDatum(slot),
		.bgw_notify_pid = MyProcPid
	};
	MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered;

	strlcpy(worker.bgw_function_name, kinds[kind].function, BGW_MAXLEN);
	strlcpy(worker.bgw_type, kinds[kind].type, BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for %s", kinds[kind].type, database);
	strlcpy(worker.bgw_extra, database, BGW_EXTRALEN);
	reset_worker(&relays[slot]);
	registered = RegisterDynamicBackgroundWorker(&worker, &relays[slot].handle);
	MemoryContextSwitchTo(previous);
	if (registered)
		return;
	np_relay_slot_set(slot, NP_RELAY_STOPPED);
	np_relay_slot_set_error(slot, "no background worker slot is free");
	ereport(LOG,
			(errmsg("could not start the %s for database \"%s\": no background worker slot is free", kinds[kind].type, database),
			 errhint("Raise max_worker_processes.")));
}

static void
start_worker(int slot, const char *database, NpTime now)
{
	Relay	   *relay = &relays[slot];
	NpRelayState state = state_of_database(database);

	np_relay_slot_set(slot, state);
	if (state == NP_RELAY_STARTING)
	{
		relay->delay = Min(Max(relay->delay * 2, FIRST_DELAY), LAST_DELAY);
		relay->next_start = now + relay->delay;
		relay->started = now;
		register_worker(slot, database);
	}
	else
	{
		reset_worker(relay);
		relay->next_start = now + LONGEST_SLEEP;
		if (relay->unusable != state)
			ereport(LOG,
					(errmsg(state == NP_RELAY_CLOSED ?
							"database \"%s\" of nats_publish.relay_databases does not accept connections" :
							"database \"%s\" of nats_publish.relay_databases does not exist", database)));
	}
	relay->unusable = state;
}

/* A database whose place is not free yet gets it when this is called again. */
static void
mark_wanted(bool is_new_list)
{
	List	   *names;
	ListCell   *cell;

	for (int i = 0; i < NP_MAX_RELAYS; i++)
		relays[i].wanted = false;
	/* the check hook has seen that it is a list */
	if (!SplitIdentifierString(pstrdup(np_relay_databases), ',', &names))
		return;
	foreach(cell, names)
	{
		int			slot = np_relay_slot_for(lfirst(cell));

		if (slot >= 0)
			relays[slot].wanted = true;
		else if (is_new_list && foreach_current_index(cell) >= NP_MAX_RELAYS)
			ereport(LOG,
					(errmsg("nats_publish.relay_databases has more than %d databases: none is relayed for \"%s\"",
							NP_MAX_RELAYS, (char *) lfirst(cell))));
	}
}

/* The relay of the WAL is wanted where that of the table is, and there is a slot for it; it is the launcher's alone that it is named. */
static void
mark_wanted_for_wal(void)
{
	for (int i = 0; i < NP_MAX_RELAYS; i++)
	{
		NpRelayStatus status = np_relay_status(i);
		Relay	   *relay = &relays[np_relay_wal_slot(i)];

		relay->wanted = relays[i].wanted && OidIsValid(status.database) &&
			np_relay_ordered(np_relay_wal_slot(i)) != NP_WAL_LEAVE &&
			np_wal_slot(status.database).state != NP_WAL_SLOT_MISSING &&
			np_relay_slot_name(np_relay_wal_slot(i), status.name);
	}
}

/* Start what is due and stop what is not wanted; returns when to look again. */
static NpTime
keep_workers(void)
{
	NpTime		now = np_now();
	NpTime		next = now + LONGEST_SLEEP;

	for (int i = 0; i < NP_MAX_SLOTS; i++)
	{
		NpRelayStatus status = np_relay_status(i);
		Relay	   *relay = &relays[i];

		if (status.name[0] == '\0')
			continue;
		if (!relay->wanted)
		{
			reset_worker(relay);
			memset(relay, 0, sizeof(*relay));
			if (status.pid != 0)
				(void) kill(status.pid, SIGTERM);
			/* what the relay of the table has said of that of the WAL stays */
			if (status.state != NP_RELAY_NO_SLOT || !np_relay_is_of_wal(i) || !relays[i - NP_MAX_RELAYS].wanted)
				np_relay_slot_free(i);
			/* until it has left its slot */
			next = Min(next, now + FIRST_DELAY);
		}
		else if (status.pid != 0)
		{
			if (now - relay->started > SETTLED_AFTER)
				relay->delay = 0;
		}
		else if (!is_starting(relay))
		{
			/* it has ended before it came to its slot */
			if (status.state == NP_RELAY_STARTING && relay->handle != NULL)
				np_relay_slot_set(i, NP_RELAY_STOPPED);
			if (now >= relay->next_start)
				start_worker(i, status.name, now);
			next = Min(next, relay->next_start);
		}
	}
	return next;
}

/* ---- The process ------------------------------------------------------------------------ */

/* The launcher. */
void
np_launcher_main(Datum argument)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "nats_publish launcher",
												  ALLOCSET_DEFAULT_SIZES);
	bool		is_new_list = true;

	np_relay_process_start(NULL);
	/* there is nothing that pg_cancel_backend() could end, but us */
	HOLD_CANCEL_INTERRUPTS();
	np_launcher_set();
	MemoryContextSwitchTo(context);
	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			is_new_list = true;
		}
		mark_wanted(is_new_list);
		mark_wanted_for_wal();
		is_new_list = false;
		np_sleep(NP_WAIT_RELAY, keep_workers());
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
	}
}

/* To be called while the library is preloaded. */
void
np_launcher_register(void)
{
	BackgroundWorker worker = {
		.bgw_name = "nats_publish launcher",
		.bgw_type = "nats_publish launcher",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 5,
		.bgw_library_name = "nats_publish",
		.bgw_function_name = "np_launcher_main"
	};

	RegisterBackgroundWorker(&worker);
}
