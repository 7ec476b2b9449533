/*-------------------------------------------------------------------------
 *
 * shared_stats.c
 *	  What all backends have done, counted by database and mode.
 *
 * An array of databases, of which each backend finds its own once.  Counters
 * have a spinlock for each database and mode, held for some hundred additions;
 * it is taken at the ends of transactions, and by who reads them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/spin.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "stats/shared_stats.h"

typedef struct CountedMode
{
	slock_t		mutex;
	NpCounted	counted;
} CountedMode;

typedef struct Database
{
	Oid			id;				/* InvalidOid: not used */
	CountedMode modes[NP_STATS_MODES];
} Database;

typedef struct Shared
{
	slock_t		mutex;			/* of the databases' ids, and of reset_at */
	TimestampTz reset_at;
	Database	databases[NP_MAX_STATS_DATABASES];
} Shared;

static Shared *shared;			/* NULL: there is none */
static Database *own;			/* NULL: not looked for yet, or there is no room */

static Size
size(void)
{
	return sizeof(Shared);
}

static void
initialize(void *memory)
{
	Shared	   *new = memory;

	memset(new, 0, sizeof(Shared));
	SpinLockInit(&new->mutex);
	new->reset_at = GetCurrentTimestamp();
	for (int i = 0; i < NP_MAX_STATS_DATABASES; i++)
		for (int mode = 0; mode < NP_STATS_MODES; mode++)
			SpinLockInit(&new->databases[i].modes[mode].mutex);
}

const NpSharedArea np_stats_area = {
	.name = "nats_publish statistics",
	.size = size,
	.initialize = initialize,
	.memory = (void **) &shared
};

/* ---- Databases ------------------------------------------------------------------ */

static void
clear(CountedMode *mode)
{
	SpinLockAcquire(&mode->mutex);
	memset(&mode->counted, 0, sizeof(NpCounted));
	SpinLockRelease(&mode->mutex);
}

/* The place of a database, a new one if need be; NULL: all are used. */
static Database *
find_or_make(Oid id)
{
	Database   *unused = NULL;
	Database   *found = NULL;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < NP_MAX_STATS_DATABASES && found == NULL; i++)
	{
		if (shared->databases[i].id == id)
			found = &shared->databases[i];
		else if (shared->databases[i].id == InvalidOid && unused == NULL)
			unused = &shared->databases[i];
	}
	if (found == NULL && unused != NULL)
	{
		found = unused;
		found->id = id;
	}
	SpinLockRelease(&shared->mutex);
	return found;
}

/* Give up the places of databases that were dropped, where no backend can be. */
static void
release_dropped(void)
{
	for (int i = 0; i < NP_MAX_STATS_DATABASES; i++)
	{
		Database   *database = &shared->databases[i];
		Oid			id = database->id;

		if (!OidIsValid(id) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(id)))
			continue;
		for (int mode = 0; mode < NP_STATS_MODES; mode++)
			clear(&database->modes[mode]);
		SpinLockAcquire(&shared->mutex);
		if (database->id == id)
			database->id = InvalidOid;
		SpinLockRelease(&shared->mutex);
	}
}

/*
 * Have the shared memory, and this database's place in it.  False: there is no
 * shared memory.  Only in a transaction, for it reads the catalogs; may raise
 * what np_shared_area_attach raises.
 */
bool
np_shared_stats_attach(void)
{
	if (!np_shared_area_attach(&np_stats_area))
		return false;
	if (own == NULL)
		own = find_or_make(MyDatabaseId);
	if (own == NULL)
	{
		release_dropped();
		own = find_or_make(MyDatabaseId);
	}
	return true;
}

/* ---- Counters -------------------------------------------------------------------- */

/* Add what a backend of this database has counted; nothing without its place. */
static void
add(NpStatsMode mode, const NpCounted *counted)
{
	NpCounted  *sum;

	if (own == NULL)
		return;
	sum = &own->modes[mode].counted;
	SpinLockAcquire(&own->modes[mode].mutex);
	np_stats_add(&sum->stats, &counted->stats);
	sum->longest_commit_wait = Max(sum->longest_commit_wait, counted->longest_commit_wait);
	if (counted->error.text[0] != '\0')
		sum->error = counted->error;
	SpinLockRelease(&own->modes[mode].mutex);
}

/*
 * Add what is new to what all backends have counted, if that is there.  Takes
 * spinlocks only, and never throws.
 */
void
np_shared_stats_flush(void)
{
	NpCounted	counted;

	for (int mode = 0; mode < NP_STATS_MODES; mode++)
		if (np_stats_take_new(mode, &counted))
			add(mode, &counted);
}

/* What is counted at a place of the array, and for which database.  InvalidOid: it is not used. */
Oid
np_shared_stats_read(int number, NpStatsMode mode, NpCounted *result)
{
	Database   *database = &shared->databases[number];
	Oid			id;

	SpinLockAcquire(&shared->mutex);
	id = database->id;
	SpinLockRelease(&shared->mutex);
	SpinLockAcquire(&database->modes[mode].mutex);
	*result = database->modes[mode].counted;
	SpinLockRelease(&database->modes[mode].mutex);
	return id;
}

/* Since when it is counted. */
TimestampTz
np_shared_stats_reset_at(void)
{
	TimestampTz result;

	SpinLockAcquire(&shared->mutex);
	result = shared->reset_at;
	SpinLockRelease(&shared->mutex);
	return result;
}

/* Begin at zero again, in all databases. */
void
np_shared_stats_reset(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < NP_MAX_STATS_DATABASES; i++)
		for (int mode = 0; mode < NP_STATS_MODES; mode++)
			clear(&shared->databases[i].modes[mode]);
	SpinLockAcquire(&shared->mutex);
	shared->reset_at = now;
	SpinLockRelease(&shared->mutex);
}
