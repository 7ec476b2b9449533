/*-------------------------------------------------------------------------
 *
 * shared_memory.c
 *	  The shared memory of all backends.
 *
 * A preloaded library has it from the start.  Since PostgreSQL 17 one that is
 * not can ask for it by name when it is first needed.  The name has the size
 * in it, so that sessions with another version of the library, while the server
 * runs on, get memory of their own.  Before 17 there is none then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "stats/shared_memory.h"

static const NpSharedArea *const *areas;	/* of a preloaded library, the last one is NULL */

static shmem_request_hook_type previous_request_hook;
static shmem_startup_hook_type previous_startup_hook;

static void
request_memory(void)
{
	if (previous_request_hook != NULL)
		previous_request_hook();
	for (int i = 0; areas[i] != NULL; i++)
		RequestAddinShmemSpace(areas[i]->size());
	RequestNamedLWLockTranche(NP_LOCK_TRANCHE, 1);
}

static void
attach_memory(void)
{
	if (previous_startup_hook != NULL)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; areas[i] != NULL; i++)
	{
		bool		found;

		*areas[i]->memory = ShmemInitStruct(areas[i]->name, areas[i]->size(), &found);
		if (!found)
			areas[i]->initialize(*areas[i]->memory);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* To be called while the library is preloaded, with all areas that it has; the last one is NULL. */
void
np_shared_memory_reserve(const NpSharedArea *const *all_areas)
{
	areas = all_areas;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_memory;
}

/*
 * Have an area that does without preloading where PostgreSQL does.  False:
 * there is none.  May raise that there is no more shared memory.
 */
bool
np_shared_area_attach(const NpSharedArea *area)
{
	bool		found;

	if (*area->memory == NULL)
		*area->memory = np_compat_named_memory(psprintf("%s %zu", area->name, area->size()), area->size(),
											   area->initialize, &found);
	return *area->memory != NULL;
}
