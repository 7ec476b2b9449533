/*-------------------------------------------------------------------------
 *
 * relay_streams.c
 *	  To which streams the relays of this server write.
 *
 * A relay that is the only writer of a stream notices others by what comes
 * between its own messages, and not who they are.  Often it is one of its own
 * kind, of the WAL beside that of the table, or of another database, and that
 * one tells here.
 *
 * A stream is known by its name and domain.  One of the same name on another
 * server is taken for it, which makes a relay only look a little more often.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lwlock.h"

#include "outbox/relay_streams.h"

/* That are remembered; the one that was told first gives way. */
#define MAX_WRITERS		256

typedef struct Writer
{
	uint64		stream;			/* hash */
	int			pid;			/* 0: not used */
	NpTime		told_at;
} Writer;

typedef struct Shared
{
	LWLock	   *lock;
	Writer		writers[MAX_WRITERS];
} Shared;

static Shared *shared;

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
}

/* There are relays only where the library was preloaded. */
const NpSharedArea np_relay_streams_area = {
	.name = "nats_publish streams of relays",
	.size = size,
	.initialize = initialize,
	.memory = (void **) &shared
};

static uint64
hash(const char *stream, const char *domain)
{
	return hash_bytes_extended((const unsigned char *) stream, strlen(stream),
							   hash_bytes_extended((const unsigned char *) domain, strlen(domain), 0));
}

/* Where this process has told of a stream, or else what was told first. */
static Writer *
place_for(uint64 stream)
{
	Writer	   *place = &shared->writers[0];

	for (int i = 0; i < MAX_WRITERS; i++)
	{
		Writer	   *writer = &shared->writers[i];

		if (writer->stream == stream && writer->pid == MyProcPid)
			return writer;
		if (writer->told_at < place->told_at)
			place = writer;
	}
	return place;
}

/* This relay has written to a stream: to be told several times a second while it does. */
void
np_relay_streams_tell(const char *stream, const char *domain)
{
	uint64		key = hash(stream, domain);

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	*place_for(key) = (Writer) {.stream = key,.pid = MyProcPid,.told_at = np_now()};
	LWLockRelease(shared->lock);
}

/* Has another relay told of a stream within that time? */
bool
np_relay_streams_others(const char *stream, const char *domain, NpTime within)
{
	uint64		key = hash(stream, domain);
	NpTime		since = np_now() - within;
	bool		found = false;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_WRITERS && !found; i++)
	{
		const Writer *writer = &shared->writers[i];

		found = writer->stream == key && writer->pid != 0 && writer->pid != MyProcPid && writer->told_at > since;
	}
	LWLockRelease(shared->lock);
	return found;
}
