/*-------------------------------------------------------------------------
 *
 * wal_trouble.c
 *	  Transactions in which an error was met because of which they are decoded
 *	  again.
 *
 * An error that is about the server ends decoding, which begins again behind
 * the last transaction that was published.  What was met in each is known until
 * then, so that several of them, and several changes of one, come to an end.
 *
 * Others' code can also leave something behind with which decoding ends later,
 * by an error that nothing here has a part in.  When that has come often, or
 * others' code has had its time, it is not called any more in that transaction.
 *
 * Others' code that catches what cancels it only ends with the process, and
 * the next one is to know of which transaction it was: that is in shared
 * memory, of as many as there can be before the first of them is confirmed
 * (wal_reader.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "base/catch.h"
#include "base/patience.h"
#include "outbox/relay_state.h"
#include "relay/relay_worker.h"
#include "wal/wal_trouble.h"

/* So often a transaction is decoded in which changes meet errors of the server in others' code, which can raise any each time. */
#define MAX_TRIES		3

/* For so long such errors may hold up the relay, in all: they can come in each transaction. */
#define MAX_HELD_UP		NP_MILLISECONDS(600000)

/* And memory and the like may be short for ours. */
#define MAX_SHORT		NP_MILLISECONDS(60000)

typedef struct Trouble
{
	XLogRecPtr	commit;			/* of the transaction, the key */
	bool		is_severe;
	int			tries;			/* that met errors of the server in others' code */
	int			ends;			/* by errors outside of it, after it was called */
	int			sqlstate;		/* of the last one of these */
	char		error[200];
	NpTime		begun;
} Trouble;

static HTAB *troubles;			/* NULL: none yet */
static TimeoutId limit = MAX_TIMEOUTS;	/* MAX_TIMEOUTS: it is not there yet */
static volatile XLogRecPtr limited; /* what it is set for ... */
static volatile sig_atomic_t is_canceled;	/* ... and whether that had the time to end */
static NpPatience patience;		/* with errors in others' code ... */
static XLogRecPtr held_up_by;	/* ... of which the last one was in this transaction */
static XLogRecPtr expected;		/* in which a severe error is met, if one ends decoding now; 0: none */

/* What was before the transaction that is decoded first from now on is not decoded again. */
static void
forget_before(XLogRecPtr first)
{
	HASH_SEQ_STATUS scan;
	Trouble    *trouble;

	hash_seq_init(&scan, troubles);
	while ((trouble = hash_seq_search(&scan)) != NULL)
		if (trouble->commit < first)
			(void) hash_search(troubles, &trouble->commit, HASH_REMOVE, NULL);
}

static Trouble *
trouble_of(XLogRecPtr commit)
{
	HASHCTL		control = {.keysize = sizeof(XLogRecPtr),.entrysize = sizeof(Trouble),.hcxt = TopMemoryContext};
	Trouble    *trouble;
	bool		found;

	if (troubles == NULL)
		troubles = hash_create("nats_publish decoded again", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	forget_before(MyReplicationSlot->data.confirmed_flush);
	trouble = hash_search(troubles, &commit, HASH_ENTER, &found);
	if (!found)
		*trouble = (Trouble) {.commit = commit,.begun = np_now()};
	return trouble;
}

/* An error that nothing catches from now on is a severe one of this transaction; 0: of none. */
void
np_wal_trouble_expect(XLogRecPtr commit)
{
	expected = commit;
}

/* Has a transaction met one before?  To be asked when it begins. */
bool
np_wal_trouble_was_severe(XLogRecPtr commit)
{
	const Trouble *trouble;

	if (expected != InvalidXLogRecPtr)
		trouble_of(expected)->is_severe = true;
	expected = InvalidXLogRecPtr;
	trouble = troubles == NULL ? NULL : hash_search(troubles, &commit, HASH_FIND, NULL);
	return trouble != NULL && trouble->is_severe;
}

static bool
is_held_up_too_long(XLogRecPtr commit)
{
	bool		is_still_held_up = commit == held_up_by;

	held_up_by = commit;
	return np_patience_ends(&patience, np_now(), MAX_HELD_UP, is_still_held_up);
}

/* Has somebody really locked something?  Else it came sooner. */
static bool
is_lock(int sqlstate, NpTime took)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE && took >= NP_MILLISECONDS(LockTimeout);
}

/*
 * A change of a transaction has met an error of the server after some time: is
 * it to be given up?  Such errors are temporary, and decoding begins again; but
 * others' code (in which the change may have been) can raise any, each time,
 * and for each row, and they can lock what their types are made of.  A catalog
 * that is locked, which plans and policies are read from, is waited for as long
 * as it takes, and a cancel is no affair of the change; but memory may never be
 * enough for it.
 */
bool
np_wal_trouble_ends(XLogRecPtr commit, int sqlstate, NpTime took, bool is_by_others)
{
	Trouble    *trouble = trouble_of(commit);

	if (!is_by_others)
		return np_now() - trouble->begun > MAX_SHORT && !np_is_of_others(sqlstate) && sqlstate != ERRCODE_QUERY_CANCELED;
	if (is_held_up_too_long(commit))
		return true;
	if (is_lock(sqlstate, took))
		return false;
	/* in the last one, all that fail so are given up */
	if (trouble->tries >= MAX_TRIES - 1)
		return true;
	trouble->tries++;
	return false;
}

/*
 * Decoding was ended by an error in a transaction, outside of others' code, of
 * which that may be the reason, as it was called.  False: it has ended so too
 * often, although others' code was not called any more the last time.
 */
bool
np_wal_trouble_ended(XLogRecPtr commit, const ErrorData *error)
{
	Trouble    *trouble = trouble_of(commit);

	if (trouble->ends >= MAX_TRIES)
		return false;
	trouble->ends++;
	trouble->sqlstate = error->sqlerrcode;
	strlcpy(trouble->error, error->message, pg_mbcliplen(error->message, strlen(error->message), sizeof(trouble->error) - 1) + 1);
	return true;
}

/* By which error decoding ends when others' code is called in it, which is not any more; NULL: it does not, as far as is known. */
const char *
np_wal_trouble_error(XLogRecPtr commit, int *sqlstate)
{
	const Trouble *trouble = troubles == NULL ? NULL : hash_search(troubles, &commit, HASH_FIND, NULL);

	if (trouble == NULL || trouble->ends < MAX_TRIES)
		return NULL;
	*sqlstate = trouble->sqlstate;
	return trouble->error;
}

/* ---- What does not end --------------------------------------------------------------------- */

/* A signal's handler.  The first time is that of the cancel, of which nothing can know before the process runs. */
static void
end_process(void)
{
	if (!is_canceled)
	{
		is_canceled = true;
		return;
	}
	np_relay_slot_add_endless(np_worker_slot(), limited);
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * The process ends, and a transaction is endless, if np_wal_trouble_no_limit()
 * is not called in time: so long after it is canceled.  Milliseconds.
 */
void
np_wal_trouble_limit(XLogRecPtr commit, int canceled_after, int patience)
{
	if (limit == MAX_TIMEOUTS)
		limit = RegisterTimeout(USER_TIMEOUT, end_process);
	limited = commit;
	is_canceled = false;
	enable_timeout_every(limit, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), canceled_after), patience);
}

void
np_wal_trouble_no_limit(void)
{
	if (limit != MAX_TIMEOUTS)
		disable_timeout(limit, false);
}

/* Was the process ended in it, this one or the one before? */
bool
np_wal_trouble_was_endless(XLogRecPtr commit)
{
	return np_relay_slot_is_endless(np_worker_slot(), commit);
}

/* Could another one, behind those that are not confirmed, not be known beside them? */
bool
np_wal_trouble_has_no_room(XLogRecPtr confirmed)
{
	return np_relay_slot_count_endless(np_worker_slot(), confirmed) >= NP_MAX_ENDLESS;
}
