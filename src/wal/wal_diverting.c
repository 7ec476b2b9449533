/*-------------------------------------------------------------------------
 *
 * wal_diverting.c
 *	  When messages of the WAL are moved to nats_outbox.
 *
 * All of them are once nothing could be published for too long, or too much
 * WAL is behind them, until NATS is there again.  One that has failed is at any
 * time.  How they are moved is wal_divert.c's.
 *
 * nats_outbox can be locked.  Then what is to be moved waits, and no more is
 * moved; later messages of the subjects that it is known to have follow, though
 * it may not have them any more; and others are published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"

#include "base/settings.h"
#include "outbox/outbox.h"
#include "outbox/relay_state.h"
#include "relay/relay_worker.h"
#include "wal/wal_diverting.h"
#include "wal/wal_position.h"
#include "wal/wal_queue.h"

/* So long too much WAL is kept that does not get less. */
#define NOT_LESS			NP_MILLISECONDS(5000)

/* How long after it has begun to move messages NATS is looked for; longer each time that nothing could be published then. */
#define FIRST_RETURN		NP_MILLISECONDS(5000)
#define LAST_RETURN			NP_MILLISECONDS(60000)

/* When nats_outbox does not take what is to be moved, it is tried again so often. */
#define DIVERT_INTERVAL		NP_MILLISECONDS(1000)

static bool is_diverting;		/* all goes to nats_outbox, for it could not be published for too long */
static bool is_writing;			/* to it, right now */
static bool is_stuck;			/* it does not take what waits to be moved; that was logged */
static NpTime next_write;		/* when that is tried again */
static bool is_looking;			/* what the table still has, right now */
static bool is_hidden;			/* that can't be seen; that was logged */
static NpTime last_progress;	/* when something was published, or there was nothing to be */
static int64 least_behind = PG_INT64_MAX;	/* WAL that is too much, when it was least ... */
static NpTime least_since;		/* ... which it is since then */
static NpTime next_return;		/* when it is looked whether NATS is there, though there is more to be moved
								 * ... */
static NpTime return_pause;		/* ... so long after it has begun; 0: it has been published since */

/* ---- All messages ----------------------------------------------------------------------- */

/* Something was published, or there is nothing to be; to be called when the worker starts, too. */
void
np_diverting_progressed(void)
{
	last_progress = np_now();
	return_pause = 0;
}

/* Is there nothing to be published or moved, but what no table takes? */
bool
np_diverting_is_done(void)
{
	return np_wal_queue_count() <= np_divert_kept();
}

/* Is there something that can come to its end without anybody's help?  What no table takes, or waits for a locked one, can't. */
bool
np_diverting_has_more_to_end(void)
{
	return np_wal_queue_count() > (is_stuck ? np_divert_waiting() : np_divert_kept());
}

/* For so long, until now, nothing could be tried. */
void
np_diverting_excuse(NpTime duration)
{
	last_progress = Min(last_progress + duration, np_now());
	least_since = Min(least_since + duration, np_now());
}

/* How much WAL there is behind a transaction that waits to be published. */
static int64
wal_behind(void)
{
	const NpWalTransaction *oldest = np_position_oldest();

	return oldest == NULL ? 0 : (int64) (GetFlushRecPtr(NULL) - oldest->end_lsn);
}

/*
 * More WAL is kept than may be, and it does not get less: a worker that was not
 * there for a while catches up.  What no table takes would keep it all the same.
 */
static bool
is_too_much(void)
{
	int64		behind = wal_behind();

	if (np_divert_kept() > 0 || behind <= (int64) np_wal_divert_size * 1024 * 1024)
		least_behind = PG_INT64_MAX;
	else if (behind < least_behind)
	{
		least_behind = behind;
		least_since = np_now();
	}
	return least_behind != PG_INT64_MAX && np_now() > least_since + NOT_LESS;
}

/* Are all messages to be moved from now on? */
bool
np_diverting_is_time(bool may_publish)
{
	NpTime		waited = np_now() - last_progress;

	/* nor is more moved while the table takes nothing */
	if (np_diverting_is_done() || is_stuck)
		return false;
	if (np_relay_ordered(np_worker_slot()) == NP_WAL_FINISH)
		return !may_publish || waited > NP_MILLISECONDS(np_ack_timeout);
	return waited > NP_MILLISECONDS(np_wal_divert_after) || is_too_much();
}

void
np_diverting_begin(void)
{
	is_diverting = true;
	return_pause = Min(Max(return_pause * 2, FIRST_RETURN), LAST_RETURN);
	next_return = np_now() + return_pause;
	ereport(LOG,
			(errmsg("nats_publish WAL relay moves messages to nats_outbox"),
			 errdetail("They could not be published in time, and WAL is not kept for them any longer.")));
}

/*
 * Is it to be looked whether NATS is there?  When all is moved; and at times
 * before, for what is written meanwhile can be as much as can be moved.
 */
bool
np_diverting_may_end(bool has_more)
{
	return is_diverting && (is_stuck || (np_divert_waiting() <= np_divert_kept() && !has_more) || np_now() >= next_return);
}

/* NATS is there again.  That it can be published is known when it was. */
void
np_diverting_end(void)
{
	is_diverting = false;
	last_progress = np_now();
	least_behind = PG_INT64_MAX;
	ereport(LOG, (errmsg("nats_publish WAL relay publishes again")));
}

bool
np_diverting_is_on(void)
{
	return is_diverting;
}

/* ---- Into the table ----------------------------------------------------------------------- */

/* Is there something to be moved, and is it time to try? */
bool
np_diverting_may_write(void)
{
	return np_divert_waiting() > 0 && np_now() >= next_write;
}

/* When what waits to be moved is to be tried; NP_FOREVER: nothing does. */
NpTime
np_diverting_next_write(void)
{
	return np_divert_waiting() > 0 ? next_write : NP_FOREVER;
}

/* Move a batch of it, as np_divert_write(), which says what is raised; then np_diverting_failed() is to be called. */
void
np_diverting_write(NpDiverted *diverted)
{
	is_writing = true;
	np_divert_write(diverted);
	is_writing = false;
	if (diverted->moved == 0 || diverted->kept > 0)
		next_write = np_now() + DIVERT_INTERVAL;
	if (is_stuck)
		np_diverting_progressed();
	is_stuck = false;
	np_relay_slot_count(np_worker_slot(), 0, diverted->moved, diverted->dead);
	if (diverted->error != NULL)
		np_relay_slot_set_error(np_worker_slot(), diverted->error);
}

/* Does the table not take what waits to be moved? */
bool
np_diverting_is_stuck(void)
{
	return is_stuck;
}

/* Look what it still has, as np_divert_look(); when that raises, np_diverting_failed() is to be called. */
void
np_diverting_look(void)
{
	is_looking = true;
	np_divert_look();
	is_looking = false;
	is_hidden = false;
}

/* ---- Errors ------------------------------------------------------------------------------- */

/* Nothing leaves a table that takes nothing, and so nothing waits for that. */
static void
fail_to_write(const ErrorData *error)
{
	np_divert_stop_waiting();
	next_write = np_now() + DIVERT_INTERVAL;
	np_worker_show_state(error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? NP_RELAY_BLOCKED : NP_RELAY_WAITING);
	if (!is_stuck)
		ereport(LOG,
				(errmsg("nats_publish WAL relay cannot move messages to nats_outbox: %s", error->message),
				 errdetail("It keeps trying.")));
	is_stuck = true;
}

/* Likewise. */
static void
fail_to_look(const char *error)
{
	np_divert_stop_waiting();
	if (!is_hidden)
		ereport(LOG,
				(errmsg("nats_publish WAL relay cannot look into nats_outbox: %s", error),
				 errdetail("Until it can, later messages of the subjects that had messages there are moved to it, too.")));
	is_hidden = true;
}

/*
 * An error has ended a round: was it one of the table, such as a lock that
 * others hold?  No message is to blame for it then, and those that have nothing
 * to do with the table go on.
 */
bool
np_diverting_failed(const ErrorData *error)
{
	np_outbox_set_diverting(false);
	if (!is_writing && !is_looking)
		return false;
	np_relay_slot_set_error(np_worker_slot(), error->message);
	if (is_writing)
		fail_to_write(error);
	else
		fail_to_look(error->message);
	is_writing = is_looking = false;
	return true;
}
