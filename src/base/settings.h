/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The settings nats_publish.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SETTINGS_H
#define NP_SETTINGS_H

#include "nodes/pg_list.h"

#include "base/server.h"

/* Whether a call that publishes does so. */
typedef enum NpPublishing
{
	NP_PUBLISHING_ON,
	NP_PUBLISHING_OFF,			/* it is skipped */
	NP_PUBLISHING_DRY_RUN		/* it is checked, then skipped */
} NpPublishing;

typedef enum NpOnFull
{
	NP_ON_FULL_WAIT,
	NP_ON_FULL_ERROR
} NpOnFull;

typedef enum NpCommitBatch
{
	NP_COMMIT_PIPELINED,
	NP_COMMIT_ATOMIC
} NpCommitBatch;

typedef enum NpRelayOrdering
{
	NP_RELAY_STRICT,
	NP_RELAY_RELAXED
} NpRelayOrdering;

#define NP_DEFAULT_INBOX_PREFIX	"_INBOX"

extern char *np_inbox_prefix;
extern char *np_server_setting; /* name of a foreign server; empty: none */
extern bool np_server_required; /* only foreign servers may be published to */
extern uint64 np_server_generation; /* grows when another server may be meant */
extern char *np_allowed_subjects;	/* a list of patterns, perhaps a bad one; empty: all */
extern int	np_publishing;
extern int	np_connect_timeout; /* ms, for each server */
extern int	np_ack_timeout;		/* ms without an ack, in a call */
extern int	np_commit_timeout;	/* ms without an ack, in COMMIT */
extern int	np_max_pending;		/* messages */
extern int	np_max_pending_bytes;	/* kB */
extern int	np_on_full;
extern bool np_auto_msg_id;
extern int	np_commit_batch;
extern char *np_traceparent;	/* empty: none */
extern char *np_relay_databases;	/* a list of identifiers */
extern int	np_relay_batch_size;	/* rows */
extern int	np_relay_poll_interval; /* ms */
extern int	np_relay_ordering;
extern int	np_relay_max_attempts;

extern void np_settings_define(void);
extern List *np_settings_problems(void);
extern void np_settings_server(NpServer *server);

#endif							/* NP_SETTINGS_H */
