/*-------------------------------------------------------------------------
 *
 * nats_publish.c
 *	  Publishes to NATS JetStream from SQL and from triggers.
 *
 * Where to find what:
 *	  sql_publish.c		the functions that publish, and those for futures
 *	  sql_admin.c		the functions about the server and its streams
 *	  change_trigger.c	the trigger that publishes the changes of a table
 *	  change_table.c	the functions that put it on a table
 *	  relay.c			the worker that publishes the outbox
 *	  sql_relay.c		the functions about the outbox and its relay
 *	  sql_server.c		the options of foreign servers and user mappings
 *	  transaction.c		when a transaction's messages are told of its end, and
 *	  commit.c			what becomes of them then
 *	  publisher.c		sending a message, and waiting for it
 *	  delivery.c		acknowledgments, retries, sending again
 *	  sessions.c		which connection a call uses
 *	  session.c			keeping it connected
 *	  policy.c			what the administrator lets be published
 *	  settings.c		the settings
 *	  report.c			the errors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/settings.h"
#include "relay/relay_launcher.h"
#include "stats/shared_memory.h"

NP_MODULE_MAGIC;

void		_PG_init(void);

/*
 * Called in the postmaster too, when preloaded: nothing of libnats here.
 */
void
_PG_init(void)
{
	np_settings_define();
	if (!process_shared_preload_libraries_in_progress)
		return;
	np_shared_memory_reserve();
	/* pg_upgrade's servers publish nothing, and want their databases for themselves */
	if (!IsBinaryUpgrade)
		np_launcher_register();
}
