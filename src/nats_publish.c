/*-------------------------------------------------------------------------
 *
 * nats_publish.c
 *	  Publishes to NATS JetStream from SQL and from triggers.
 *
 * Where to find what:
 *	  functions/sql_publish.c	the functions that publish, and those for futures
 *	  functions/sql_admin.c		the functions about the server and its streams
 *	  functions/sql_relay.c		the functions about the outbox and its relay
 *	  functions/sql_wal.c		those that switch the publishing of the WAL on and off
 *	  functions/sql_server.c	the options of foreign servers and user mappings
 *	  change/change_trigger.c	the trigger that publishes the changes of a table
 *	  change/change_table.c		the functions that put it on a table
 *	  commit/transaction.c		what happens at the ends of transactions,
 *	  commit/commit.c			and what becomes of messages then
 *	  relay/relay.c				the worker that publishes the outbox
 *	  wal/wal_relay.c			the worker that publishes what is in the WAL
 *	  publish/publisher.c		sending a message
 *	  publish/await.c			waiting for it
 *	  publish/request.c			what is asked of the server
 *	  publish/replies.c			what the server answers
 *	  publish/delivery.c		what becomes of a message, retries, sending again
 *	  publish/current_session.c	which connection a call uses
 *	  publish/session.c			keeping it connected
 *	  publish/policy.c			what the administrator lets be published
 *	  base/settings.c			the settings
 *	  base/report.c				the errors
 *
 * README.md says what each folder is for, and how a message goes through them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/settings.h"
#include "change/change_position.h"
#include "commit/transaction.h"
#include "message/annotations.h"
#include "outbox/relay_state.h"
#include "outbox/relay_streams.h"
#include "relay/relay_launcher.h"
#include "stats/activity.h"
#include "stats/shared_memory.h"
#include "stats/shared_stats.h"

NP_MODULE_MAGIC;

void		_PG_init(void);

/*
 * Called in the postmaster too, when preloaded: nothing of libnats here.
 */
void
_PG_init(void)
{
	static const NpSharedArea *const areas[] = {&np_relay_area, &np_relay_streams_area, &np_stats_area, &np_activity_area, NULL};

	np_annotations_define();
	np_settings_define();
	np_transaction_init();
	np_change_position_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	np_shared_memory_reserve(areas);
	/* pg_upgrade's servers publish nothing, and want their databases for themselves */
	if (!IsBinaryUpgrade)
		np_launcher_register();
}
