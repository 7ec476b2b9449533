/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  The only place in which a backend waits.
 *
 * Every wait ends on the latch, on its descriptor, at its time, and with the
 * postmaster, and handles interrupts: a cancel or a termination is an ERROR
 * or FATAL from here.  So callers must be in a state that a longjmp may
 * leave behind.
 *
 * A WaitEventSet is kept for each connection: registering a socket anew for
 * each wait, as WaitLatchOrSocket does, costs more than the rest of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <time.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/wait.h"

struct NpWaitSet
{
	WaitEventSet *events;
	int			position;		/* of the descriptor in events */
	int			registered;		/* NP_READABLE | NP_WRITEABLE */
};

/*
 * PostgreSQL's own timing (INSTR_TIME_*) is for intervals: since 19 its clock
 * can be changed at any time (timing_clock_source), and so would deadlines.
 */
static NpTime
read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (NpTime) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

NpTime
np_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

/* Of the processor that this process has used: what no other one has taken. */
NpTime
np_processor_time(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/*
 * A wait set for the descriptor, of which it never becomes the owner.
 *
 * ERROR when there is no descriptor left for it (53000 and the like, from the
 * backend).
 */
NpWaitSet *
np_wait_set_create(int fd)
{
	NpWaitSet  *set = MemoryContextAlloc(TopMemoryContext, sizeof(*set));

	set->events = NULL;
	PG_TRY();
	{
		set->events = np_compat_create_wait_event_set(3);
		AddWaitEventToSet(set->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(set->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		set->position = AddWaitEventToSet(set->events, WL_SOCKET_READABLE, fd, NULL, NULL);
		set->registered = NP_READABLE;
	}
	PG_CATCH();
	{
		np_wait_set_free(set);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return set;
}

void
np_wait_set_free(NpWaitSet *set)
{
	if (set->events != NULL)
		FreeWaitEventSet(set->events);
	pfree(set);
}

/* Asked for once by each process. */
static uint32
wait_event_info(NpWaitEvent event)
{
	static const char *const names[] = {
		[NP_WAIT_CONNECT] = "NatsConnect",
		[NP_WAIT_ACK] = "NatsAck",
		[NP_WAIT_COMMIT] = "NatsCommit",
		[NP_WAIT_WINDOW] = "NatsWindow",
		[NP_WAIT_RELAY] = "NatsRelay",
		[NP_WAIT_ROWS] = "NatsRows",
	};
	static uint32 known[lengthof(names)];

	if (known[event] == 0)
		known[event] = np_compat_wait_event(names[event]);
	return known[event];
}

/* Milliseconds for the kernel: rounded up, so as not to spin before the time. */
static long
timeout_until(NpTime until)
{
	NpTime		rest = until - np_now();

	if (until == NP_FOREVER)
		return -1;
	if (rest <= 0)
		return 0;
	return (long) Min((rest + 999) / 1000, INT_MAX);
}

/*
 * Wait for any of the events on the set's descriptor, at most until the time.
 *
 * Returns those that happened, 0 for the time or a latch.  ERROR or FATAL on
 * an interrupt.
 */
int
np_wait(NpWaitSet *set, NpWaitEvent event, int events, NpTime until)
{
	WaitEvent	happened[3];
	int			count;
	int			result = 0;

	if (set->registered != events)
	{
		ModifyWaitEvent(set->events, set->position,
						((events & NP_READABLE) ? WL_SOCKET_READABLE : 0) |
						((events & NP_WRITEABLE) ? WL_SOCKET_WRITEABLE : 0), NULL);
		set->registered = events;
	}
	count = WaitEventSetWait(set->events, timeout_until(until), happened, lengthof(happened),
							 wait_event_info(event));
	for (int i = 0; i < count; i++)
	{
		if (happened[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (happened[i].events & WL_SOCKET_READABLE)
			result |= NP_READABLE;
		if (happened[i].events & WL_SOCKET_WRITEABLE)
			result |= NP_WRITEABLE;
	}
	CHECK_FOR_INTERRUPTS();
	return result;
}

/* For what takes less than the kernel's milliseconds, and nobody tells of.  Without a look at anything else. */
void
np_sleep_briefly(NpTime duration)
{
	pg_usleep(duration);
}

/* Wait for the time, or for somebody who sets the latch.  Interrupts as in np_wait. */
void
np_sleep(NpWaitEvent event, NpTime until)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_until(until), wait_event_info(event));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
