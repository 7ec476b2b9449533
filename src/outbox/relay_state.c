/*-------------------------------------------------------------------------
 *
 * relay_state.c
 *	  What all backends know of the relays, in shared memory.
 *
 * The launcher gives each database of relay_databases a slot; the worker that
 * has claimed the slot is the only relay of its database, whoever started it.
 * A worker leaves its slot when it exits, and one that crashed takes the
 * shared memory along.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "outbox/relay_state.h"

typedef struct Slot
{
	NpRelayStatus status;
	Latch	   *volatile latch; /* of the worker, of whatever process it is now; NULL: none */
	volatile bool is_deaf;		/* to messages: they can't be published, and are looked for when they can;
								 * the relay of the WAL hears them only while it sleeps */
	pg_atomic_uint32 wakes;		/* only grows */
	volatile bool is_told;		/* somebody has something to tell, in the tables */
	volatile NpWalOrder order;
	pg_atomic_uint64 endless[NP_MAX_ENDLESS];	/* the commits of transactions that ended the relay of the
												 * WAL; 0: of none */
} Slot;

/* Up to where a database's relay has confirmed its replication slot, also when that relay has ended. */
typedef struct Confirmed
{
	Oid			database;		/* InvalidOid: not used */
	XLogRecPtr	position;
} Confirmed;

typedef struct Shared
{
	LWLock	   *lock;			/* of all that is not read without it */
	Latch	   *volatile launcher;	/* its latch; NULL: it has not started */
	Confirmed	confirmed[NP_MAX_RELAYS];
	Slot		slots[NP_MAX_SLOTS];
} Shared;

static Shared *shared;			/* NULL: not preloaded */

static const char *const state_names[] = {
	[NP_RELAY_STARTING] = "starting",
	[NP_RELAY_IDLE] = "idle",
	[NP_RELAY_PUBLISHING] = "publishing",
	[NP_RELAY_WAITING] = "waiting",
	[NP_RELAY_FAILING] = "failing",
	[NP_RELAY_PAUSED] = "paused",
	[NP_RELAY_OFF] = "off",
	[NP_RELAY_NO_EXTENSION] = "no extension",
	[NP_RELAY_NO_TABLE] = "no table",
	[NP_RELAY_NO_DATABASE] = "no database",
	[NP_RELAY_CLOSED] = "database closed",
	[NP_RELAY_NO_RIGHTS] = "no rights",
	[NP_RELAY_BLOCKED] = "blocked",
	[NP_RELAY_DIVERTING] = "diverting",
	[NP_RELAY_STANDBYS] = "waiting for standbys",
	[NP_RELAY_NO_SLOT] = "no slot",
	[NP_RELAY_STOPPED] = "stopped",
};

const char *
np_relay_state_name(NpRelayState state)
{
	return state_names[state];
}

static const char *const order_names[] = {
	[NP_ORDER_RELAXED] = "relaxed",
	[NP_ORDER_BY_SUBJECT] = "by subject",
	[NP_ORDER_PIPELINED] = "pipelined",
	[NP_ORDER_MIXED] = "mixed",
};

const char *
np_relay_order_name(NpRelayOrder order)
{
	return order_names[order];
}

/* ---- The memory ------------------------------------------------------------------ */

static Size
size(void)
{
	return sizeof(Shared);
}

static void
initialize(void *memory)
{
	Shared	   *fresh = memory;

	memset(fresh, 0, sizeof(Shared));
	fresh->lock = &GetNamedLWLockTranche(NP_LOCK_TRANCHE)->lock;
	for (int i = 0; i < NP_MAX_SLOTS; i++)
	{
		pg_atomic_init_u32(&fresh->slots[i].wakes, 0);
		for (int j = 0; j < NP_MAX_ENDLESS; j++)
			pg_atomic_init_u64(&fresh->slots[i].endless[j], InvalidXLogRecPtr);
	}
}

/* Without preloading there are no relays, and nobody asks for it. */
const NpSharedArea np_relay_area = {
	.name = "nats_publish relays",
	.size = size,
	.initialize = initialize,
	.memory = (void **) &shared
};

/* Only if the library was preloaded. */
bool
np_relay_state_is_there(void)
{
	return shared != NULL;
}

/* ---- Everybody --------------------------------------------------------------------- */

/* What is in a slot. */
NpRelayStatus
np_relay_status(int slot)
{
	NpRelayStatus status;

	LWLockAcquire(shared->lock, LW_SHARED);
	status = shared->slots[slot].status;
	LWLockRelease(shared->lock);
	return status;
}

/*
 * The processes for whose locks a relay waits, as an int4[] in which 0 is a
 * prepared transaction, and its state then is that; NULL: it does not.
 */
ArrayType *
np_relay_blocked_by(NpRelayStatus *status)
{
	ArrayType  *blockers;

	if (status->pid == 0)
		return NULL;
	blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(status->pid)));
	if (ArrayGetNItems(ARR_NDIM(blockers), ARR_DIMS(blockers)) == 0)
		return NULL;
	status->state = NP_RELAY_BLOCKED;
	return blockers;
}

/* Called after commit: takes no lock and never throws. */
static void
wake(Slot *slot)
{
	Latch	   *latch = slot->latch;

	if (latch == NULL)
		return;
	(void) pg_atomic_fetch_add_u32(&slot->wakes, 1);
	SetLatch(latch);
}

/*
 * Wake the relays of a database, if it has any.  Called after commit: takes no
 * lock and never throws.  A latch that is another process's by now is a
 * spurious wake-up to that one.
 */
void
np_relay_wake(Oid database, NpRelayWake whom)
{
	if (shared == NULL || whom == NP_WAKE_NOT)
		return;
	for (int i = 0; i < NP_MAX_SLOTS; i++)
	{
		Slot	   *slot = &shared->slots[i];

		if (slot->latch == NULL || slot->status.database != database)
			continue;
		if (whom == NP_WAKE_TO_LOOK)
			slot->is_told = true;
		if (whom == NP_WAKE_TO_LOOK || (!slot->is_deaf && !np_relay_is_of_wal(i)))
			wake(slot);
	}
}

/*
 * There is more WAL of a database: wake its relay, if that sleeps.  Called
 * after commit: takes no lock and never throws.  What sleeps is woken by one
 * of those who commit meanwhile.
 */
void
np_relay_wake_for_wal(Oid database)
{
	if (shared == NULL)
		return;
	for (int i = NP_MAX_RELAYS; i < NP_MAX_SLOTS; i++)
	{
		Slot	   *slot = &shared->slots[i];

		if (slot->latch == NULL || slot->status.database != database)
			continue;
		/* the commit record is there before it is looked whether somebody waits for it */
		pg_memory_barrier();
		if (!slot->is_deaf)
		{
			slot->is_deaf = true;
			wake(slot);
		}
		return;
	}
}

/* The slot of the table's relay of a database; -1: it has none. */
int
np_relay_find(Oid database)
{
	int			found = -1;

	for (int i = 0; shared != NULL && i < NP_MAX_RELAYS && found < 0; i++)
	{
		NpRelayStatus status = np_relay_status(i);

		if (status.name[0] != '\0' && status.database == database)
			found = i;
	}
	return found;
}

/* Tell the relay of the WAL, and the launcher, what is to become of it. */
void
np_relay_order(int slot, NpWalOrder order)
{
	shared->slots[slot].order = order;
	shared->slots[slot].is_told = true;
	wake(&shared->slots[slot]);
	np_launcher_wake();
}

NpWalOrder
np_relay_ordered(int slot)
{
	return shared->slots[slot].order;
}

/* There are other slots of WAL: have the launcher look. */
void
np_launcher_wake(void)
{
	Latch	   *latch = shared == NULL ? NULL : shared->launcher;

	if (latch != NULL)
		SetLatch(latch);
}

/* ---- The launcher ------------------------------------------------------------------- */

/* It is this process. */
void
np_launcher_set(void)
{
	shared->launcher = MyLatch;
}

/* The slot of a database, a new one if need be; -1: all are used. */
int
np_relay_slot_for(const char *name)
{
	int			unused = -1;
	int			found = -1;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < NP_MAX_RELAYS && found < 0; i++)
	{
		if (strcmp(shared->slots[i].status.name, name) == 0)
			found = i;
		else if (shared->slots[i].status.name[0] == '\0' && unused < 0)
			unused = i;
	}
	if (found < 0 && unused >= 0)
	{
		found = unused;
		memset(&shared->slots[found].status, 0, sizeof(NpRelayStatus));
		strlcpy(shared->slots[found].status.name, name, NAMEDATALEN);
	}
	LWLockRelease(shared->lock);
	return found;
}

/* Give up the slot of a database that is not wanted any more and has no worker. */
void
np_relay_slot_free(int slot)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->slots[slot].status.pid == 0)
		memset(&shared->slots[slot].status, 0, sizeof(NpRelayStatus));
	LWLockRelease(shared->lock);
}

/* Have a slot of the WAL's relay be a database's.  False: that of another one has not left it yet. */
bool
np_relay_slot_name(int slot, const char *name)
{
	NpRelayStatus *status = &shared->slots[slot].status;
	bool		is_its;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	is_its = strcmp(status->name, name) == 0;
	if (!is_its && status->pid == 0)
	{
		memset(status, 0, sizeof(*status));
		strlcpy(status->name, name, NAMEDATALEN);
		is_its = true;
	}
	LWLockRelease(shared->lock);
	return is_its;
}

void
np_relay_slot_set(int slot, NpRelayState state)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->slots[slot].status.state = state;
	LWLockRelease(shared->lock);
}

/* ---- The worker ---------------------------------------------------------------------- */

/*
 * Become the relay of a slot's database.  False: there is one, or the slot was
 * another database's by now.
 */
bool
np_relay_slot_claim(int slot, const char *name, Oid database)
{
	NpRelayStatus *status = &shared->slots[slot].status;
	bool		claimed;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	claimed = status->pid == 0 && strcmp(status->name, name) == 0;
	if (claimed)
	{
		status->pid = MyProcPid;
		status->database = database;
		status->published = status->failed = status->dead = 0;
		memset(&status->wal, 0, sizeof(status->wal));
		status->url[0] = '\0';
		shared->slots[slot].latch = MyLatch;
	}
	LWLockRelease(shared->lock);
	/* which slot of WAL the database has is known by its oid */
	np_launcher_wake();
	return claimed;
}

/* The opposite, at exit. */
void
np_relay_slot_leave(int slot)
{
	NpRelayStatus *status = &shared->slots[slot].status;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->slots[slot].latch = NULL;
	status->pid = 0;
	status->url[0] = '\0';
	status->state = NP_RELAY_STOPPED;
	LWLockRelease(shared->lock);
}

/* How often it was woken, for np_relay_slot_was_woken(). */
uint32
np_relay_slot_wakes(int slot)
{
	return pg_atomic_read_u32(&shared->slots[slot].wakes);
}

/*
 * To be called before messages are looked for: what commits before this call
 * is found then, what commits after it wakes.  Returns what
 * np_relay_slot_was_woken() asks for.
 */
uint32
np_relay_slot_listen(int slot)
{
	uint32		wakes = np_relay_slot_wakes(slot);

	shared->slots[slot].is_deaf = false;
	pg_memory_barrier();
	return wakes;
}

/* The opposite, before a relay sleeps in a state in which it publishes nothing: messages do not wake it. */
void
np_relay_slot_ignore_messages(int slot)
{
	shared->slots[slot].is_deaf = true;
}

/* Has anybody woken it since np_relay_slot_listen()? */
bool
np_relay_slot_was_woken(int slot, uint32 wakes)
{
	return pg_atomic_read_u32(&shared->slots[slot].wakes) != wakes;
}

/* Is it to look into the tables, since this was asked? */
bool
np_relay_slot_is_told(int slot)
{
	/* else what is told between the two would be lost */
	if (!shared->slots[slot].is_told)
		return false;
	shared->slots[slot].is_told = false;
	/* what is looked at from here on is not from before */
	pg_memory_barrier();
	return true;
}

/* Where it is connected to, without credentials; "": nowhere. */
void
np_relay_slot_set_url(int slot, const char *url)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	strlcpy(shared->slots[slot].status.url, url, sizeof(shared->slots[slot].status.url));
	LWLockRelease(shared->lock);
}

/* How it keeps the order, and which stream others write to; "": none. */
void
np_relay_slot_set_order(int slot, NpRelayOrder order, const char *shared_stream)
{
	NpRelayStatus *status = &shared->slots[slot].status;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	status->order = order;
	np_utf8_copy(status->shared_stream, sizeof(status->shared_stream), (NpSpan) {shared_stream, strlen(shared_stream)});
	LWLockRelease(shared->lock);
}

/* Add what a batch has come to. */
void
np_relay_slot_count(int slot, int64 published, int64 failed, int64 dead)
{
	NpRelayStatus *status = &shared->slots[slot].status;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	status->published += published;
	status->failed += failed;
	status->dead += dead;
	if (published > 0)
		status->last_success = GetCurrentTimestamp();
	LWLockRelease(shared->lock);
}

void
np_relay_slot_set_error(int slot, const char *error)
{
	NpRelayStatus *status = &shared->slots[slot].status;
	char		text[sizeof(status->last_error)];
	char	   *utf8 = np_to_utf8_somehow(error);

	np_utf8_copy(text, sizeof(text), (NpSpan) {utf8, strlen(utf8)});
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	memcpy(status->last_error, text, sizeof(text));
	status->last_error_at = GetCurrentTimestamp();
	LWLockRelease(shared->lock);
}

/* How far the relay of the WAL is. */
void
np_relay_slot_set_progress(int slot, const NpWalProgress *progress)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->slots[slot].status.wal = *progress;
	LWLockRelease(shared->lock);
}

/*
 * In a transaction with this commit is what can only be ended with the process,
 * for the next one to know.  It takes the place of the first of them.  Signal-safe.
 */
void
np_relay_slot_add_endless(int slot, XLogRecPtr commit)
{
	pg_atomic_uint64 *first = shared->slots[slot].endless;

	for (int i = 1; i < NP_MAX_ENDLESS; i++)
		if (pg_atomic_read_u64(&shared->slots[slot].endless[i]) < pg_atomic_read_u64(first))
			first = &shared->slots[slot].endless[i];
	pg_atomic_write_u64(first, commit);
}

/* Is it one of those? */
bool
np_relay_slot_is_endless(int slot, XLogRecPtr commit)
{
	for (int i = 0; i < NP_MAX_ENDLESS; i++)
		if (pg_atomic_read_u64(&shared->slots[slot].endless[i]) == commit)
			return true;
	return false;
}

/* How many of them are behind a position? */
int
np_relay_slot_count_endless(int slot, XLogRecPtr position)
{
	int			count = 0;

	for (int i = 0; i < NP_MAX_ENDLESS; i++)
		count += pg_atomic_read_u64(&shared->slots[slot].endless[i]) >= position;
	return count;
}

/* ---- The position of the WAL's slot ---------------------------------------------------------- */

/* A database's, or one that is not used; NULL: there is neither. */
static Confirmed *
confirmed_of(Oid database)
{
	Confirmed  *unused = NULL;

	for (int i = 0; i < NP_MAX_RELAYS; i++)
	{
		if (shared->confirmed[i].database == database)
			return &shared->confirmed[i];
		if (shared->confirmed[i].database == InvalidOid && unused == NULL)
			unused = &shared->confirmed[i];
	}
	return unused;
}

/* The slot is about to be confirmed up to here, or begins here; 0: it is about to be another one. */
void
np_relay_set_confirmed(Oid database, XLogRecPtr position)
{
	Confirmed  *confirmed;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	confirmed = confirmed_of(database);
	if (confirmed != NULL)
	{
		confirmed->database = position == InvalidXLogRecPtr ? InvalidOid : database;
		confirmed->position = position;
	}
	LWLockRelease(shared->lock);
}

/* Up to where it was; 0: that is not known, as after a restart of the server. */
XLogRecPtr
np_relay_confirmed(Oid database)
{
	const Confirmed *confirmed;
	XLogRecPtr	position = InvalidXLogRecPtr;

	LWLockAcquire(shared->lock, LW_SHARED);
	confirmed = confirmed_of(database);
	if (confirmed != NULL && confirmed->database == database)
		position = confirmed->position;
	LWLockRelease(shared->lock);
	return position;
}
