/*-------------------------------------------------------------------------
 *
 * nats_publish.c
 *	  Publishes to NATS JetStream from SQL and from triggers.
 *
 * Where to find what:
 *	  sql_publish.c		the functions that publish, and those for futures
 *	  sql_admin.c		the functions about the server and its streams
 *	  transaction.c		what happens at COMMIT, ROLLBACK and exit
 *	  publisher.c		sending, acknowledgments, retries, reconnecting
 *	  settings.c		the settings
 *	  report.c			the errors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "compat.h"
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
}
