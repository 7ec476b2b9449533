/*-------------------------------------------------------------------------
 *
 * activity.h
 *	  What each backend is doing with NATS, for all others to see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ACTIVITY_H
#define NP_ACTIVITY_H

#include "datatype/timestamp.h"

#include "stats/shared_memory.h"

typedef enum NpActivityState
{
	NP_ACTIVITY_DISCONNECTED,
	NP_ACTIVITY_CONNECTING,
	NP_ACTIVITY_CONNECTED,
	NP_ACTIVITY_WAITING			/* until something is acknowledged */
} NpActivityState;

/* What is not acknowledged. */
typedef struct NpBacklog
{
	int			count;
	int64		bytes;
	TimestampTz oldest;			/* 0: none */
} NpBacklog;

/* One backend.  Texts are UTF-8. */
typedef struct NpActivity
{
	int			st_changecount; /* odd: it is being written; backend_status.h */
	int			pid;			/* 0: none */
	Oid			database;
	Oid			role;
	NpActivityState state;
	NpBacklog	backlog;
	char		url[256];		/* of the connection used last, without credentials */
	char		server_name[64];
	char		last_error[400];
} NpActivity;

extern const NpSharedArea np_activity_area;

extern bool np_activity_attach(void);
extern void np_activity_set_state(NpActivityState state);
extern void np_activity_set_server(const char *url, const char *server_name);
extern void np_activity_set_backlog(NpActivityState state, const NpBacklog *backlog);
extern void np_activity_set_error(const char *error);
extern const char *np_activity_state_name(NpActivityState state);
extern bool np_activity_read(int number, NpActivity *result);

#endif							/* NP_ACTIVITY_H */
