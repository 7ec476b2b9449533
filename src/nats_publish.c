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
 *	  transaction.c		what happens at COMMIT, ROLLBACK and exit
 *	  publisher.c		sending, acknowledgments, retries, reconnecting
 *	  settings.c		the settings
 *	  report.c			the errors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "compat.h"
#include "relay_launcher.h"
#include "relay_state.h"
#include "settings.h"

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
	np_relay_state_reserve();
	np_launcher_register();
}
