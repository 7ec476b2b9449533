/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  The only place in which a backend waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAIT_H
#define NP_WAIT_H

/* Microseconds of a clock that never steps; only differences mean anything. */
typedef int64 NpTime;

#define NP_MILLISECONDS(n)	((NpTime) (n) * 1000)
#define NP_FOREVER			PG_INT64_MAX

/* What a backend waits for beside its latch: one descriptor, kept registered. */
typedef struct NpWaitSet NpWaitSet;

/* What for, as pg_stat_activity.wait_event says on PostgreSQL 17 and later. */
typedef enum NpWaitEvent
{
	NP_WAIT_CONNECT,			/* a connection, or the time to try again */
	NP_WAIT_ACK,				/* an answer that the call needs */
	NP_WAIT_COMMIT,				/* the acknowledgments that the transaction needs */
	NP_WAIT_WINDOW,				/* room for a message */
	NP_WAIT_RELAY,				/* something to do, in a relay or the launcher */
	NP_WAIT_ROWS				/* the pause after a chunk of rows */
} NpWaitEvent;

#define NP_READABLE		(1 << 0)
#define NP_WRITEABLE	(1 << 1)

extern NpTime np_now(void);
extern NpTime np_processor_time(void);
extern NpWaitSet *np_wait_set_create(int fd);
extern void np_wait_set_free(NpWaitSet *set);
extern int	np_wait(NpWaitSet *set, NpWaitEvent event, int events, NpTime until);
extern void np_sleep(NpWaitEvent event, NpTime until);
extern void np_sleep_briefly(NpTime duration);

#endif							/* NP_WAIT_H */
