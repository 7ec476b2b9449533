/*-------------------------------------------------------------------------
 *
 * relay_process.c
 *	  What the launcher and its workers have in common as processes.
 *
 * They are ended as a matter of course: by a shutdown, by DROP DATABASE WITH
 * (FORCE), by another list of databases.  SIGTERM ends them as it ends a
 * backend, wherever they are, which for a backend is a FATAL error; as with
 * PostgreSQL's logical replication launcher, it is no line in the log here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"

#include "relay/relay_process.h"

static emit_log_hook_type next_hook;
static bool is_connected;

/* The launcher has a look at a database before, and tells what it finds; it can be dropped or closed in between. */
static bool
is_expected(int sqlstate)
{
	if (!is_connected && (sqlstate == ERRCODE_UNDEFINED_DATABASE || sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE))
		return true;
	return sqlstate == ERRCODE_ADMIN_SHUTDOWN;
}

static void
on_log(ErrorData *error)
{
	if (error->elevel == FATAL && is_expected(error->sqlerrcode))
		error->output_to_server = false;
	if (next_hook != NULL)
		next_hook(error);
}

/* Become a process that hears signals, connected to the database, or with NULL to the shared catalogs only. */
void
np_relay_process_start(const char *database)
{
	next_hook = emit_log_hook;
	emit_log_hook = on_log;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(database, NULL, 0);
	is_connected = true;
}
