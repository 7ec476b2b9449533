/*-------------------------------------------------------------------------
 *
 * activity.c
 *	  What each backend is doing with NATS, for all others to see.
 *
 * Each has a place of its own, which it alone writes, as in pg_stat_activity
 * (backend_status.h): no lock, and a reader that finds it being written reads
 * it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/backend_status.h"

#include "base/compat.h"
#include "stats/activity.h"

static NpActivity *shared;		/* MaxBackends of them; NULL: there is none */
static NpActivity *own;			/* NULL: this backend has no place */

static const char *const state_names[] = {
	[NP_ACTIVITY_DISCONNECTED] = "disconnected",
	[NP_ACTIVITY_CONNECTING] = "connecting",
	[NP_ACTIVITY_CONNECTED] = "connected",
	[NP_ACTIVITY_WAITING] = "waiting",
};

static Size
size(void)
{
	return (Size) MaxBackends * sizeof(NpActivity);
}

static void
initialize(void *memory)
{
	memset(memory, 0, size());
}

const NpSharedArea np_activity_area = {
	.name = "nats_publish activity",
	.size = size,
	.initialize = initialize,
	.memory = (void **) &shared
};

const char *
np_activity_state_name(NpActivityState state)
{
	return state_names[state];
}

/* ---- This backend --------------------------------------------------------------- */

static void
leave(int code, Datum argument)
{
	PGSTAT_BEGIN_WRITE_ACTIVITY(own);
	own->pid = 0;
	PGSTAT_END_WRITE_ACTIVITY(own);
	own = NULL;
}

/*
 * Have a place, until the backend ends.  False: there is no shared memory.
 * May raise what np_shared_area_attach raises.
 */
bool
np_activity_attach(void)
{
	NpActivity *place;

	if (!np_shared_area_attach(&np_activity_area))
		return false;
	if (own != NULL)
		return true;
	place = &shared[np_compat_my_number()];
	before_shmem_exit(leave, (Datum) 0);
	PGSTAT_BEGIN_WRITE_ACTIVITY(place);
	place->pid = 0;				/* it may never connect */
	place->database = MyDatabaseId;
	place->role = GetSessionUserId();
	place->state = NP_ACTIVITY_DISCONNECTED;
	memset(&place->backlog, 0, sizeof(NpBacklog));
	place->url[0] = place->server_name[0] = place->last_error[0] = '\0';
	PGSTAT_END_WRITE_ACTIVITY(place);
	own = place;
	return true;
}

/* The first connection makes it one of those that are shown. */
void
np_activity_set_state(NpActivityState state)
{
	if (own == NULL)
		return;
	PGSTAT_BEGIN_WRITE_ACTIVITY(own);
	own->state = state;
	if (state == NP_ACTIVITY_CONNECTING)
		own->pid = MyProcPid;
	PGSTAT_END_WRITE_ACTIVITY(own);
}

/* It is connected to this. */
void
np_activity_set_server(const char *url, const char *server_name)
{
	if (own == NULL)
		return;
	PGSTAT_BEGIN_WRITE_ACTIVITY(own);
	own->state = NP_ACTIVITY_CONNECTED;
	strlcpy(own->url, url, sizeof(own->url));
	strlcpy(own->server_name, server_name, sizeof(own->server_name));
	PGSTAT_END_WRITE_ACTIVITY(own);
}

void
np_activity_set_backlog(NpActivityState state, const NpBacklog *backlog)
{
	if (own == NULL)
		return;
	PGSTAT_BEGIN_WRITE_ACTIVITY(own);
	own->state = state;
	own->backlog = *backlog;
	PGSTAT_END_WRITE_ACTIVITY(own);
}

/* In UTF-8. */
void
np_activity_set_error(const char *error)
{
	if (own == NULL)
		return;
	PGSTAT_BEGIN_WRITE_ACTIVITY(own);
	strlcpy(own->last_error, error, sizeof(own->last_error));
	PGSTAT_END_WRITE_ACTIVITY(own);
}

/* ---- Everybody ------------------------------------------------------------------- */

/* What is at a place below MaxBackends.  False: no backend. */
bool
np_activity_read(int number, NpActivity *result)
{
	volatile NpActivity *place = &shared[number];
	int			before;
	int			after;

	do
	{
		pgstat_begin_read_activity(place, before);
		memcpy(result, unvolatize(NpActivity *, place), sizeof(NpActivity));
		pgstat_end_read_activity(place, after);
		CHECK_FOR_INTERRUPTS();
	} while (!pgstat_read_activity_complete(before, after));
	return result->pid != 0;
}
