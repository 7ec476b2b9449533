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

#define NP_READABLE		(1 << 0)
#define NP_WRITEABLE	(1 << 1)

extern NpTime np_now(void);
extern NpWaitSet *np_wait_set_create(int fd);
extern void np_wait_set_free(NpWaitSet *set);
extern int	np_wait(NpWaitSet *set, int events, NpTime until);
extern void np_sleep(NpTime until);

#endif							/* NP_WAIT_H */
