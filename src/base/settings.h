/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The settings nats_publish.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SETTINGS_H
#define NP_SETTINGS_H

#include "base/guards.h"
#include "base/server.h"

typedef enum NpOnFull
{
	NP_ON_FULL_WAIT,
	NP_ON_FULL_ERROR
} NpOnFull;

typedef enum NpRelayOrdering
{
	NP_RELAY_STRICT,
	NP_RELAY_PIPELINED,			/* the same, with any server pipelined */
	NP_RELAY_RELAXED
} NpRelayOrdering;

typedef enum NpWalOrigin
{
	NP_WAL_ORIGIN_ANY,
	NP_WAL_ORIGIN_NONE			/* what was replicated from elsewhere is not published */
} NpWalOrigin;

typedef enum NpOutboxStorage
{
	NP_STORAGE_TABLE,
	NP_STORAGE_WAL
} NpOutboxStorage;

extern char *np_server_setting; /* name of a foreign server; empty: none */
extern int	np_connect_timeout; /* ms, for each server */
extern int	np_ack_timeout;		/* ms without an ack, in a call */
extern int	np_commit_timeout;	/* ms without an ack, in COMMIT */
extern int	np_max_pending;		/* messages */
extern int	np_max_pending_bytes;	/* kB */
extern int	np_on_full;
extern bool np_auto_msg_id;
extern char *np_traceparent;	/* empty: none */
extern char *np_schedule_prefix;
extern char *np_relay_databases;	/* a list of identifiers */
extern int	np_relay_batch_size;	/* rows */
extern int	np_relay_poll_interval; /* ms */
extern int	np_relay_ordering;
extern int	np_wal_origin;
extern int	np_relay_max_attempts;
extern int	np_outbox_storage;
extern int	np_wal_divert_after;	/* ms */
extern int	np_wal_divert_size; /* MB */

extern List *np_misspelt_names; /* that somebody has set, and that are no settings */

extern void np_settings_define(void);
extern void np_settings_server(NpServer *server);

#endif							/* NP_SETTINGS_H */
