/*-------------------------------------------------------------------------
 *
 * sql_server.c
 *	  The SQL function about foreign servers and user mappings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "fmgr.h"

#include "wire/foreign_server.h"

PG_FUNCTION_INFO_V1(nats_fdw_validator);

/* nats_fdw_validator(options, catalog): called by CREATE and ALTER SERVER, USER MAPPING, ... */
Datum
nats_fdw_validator(PG_FUNCTION_ARGS)
{
	np_foreign_server_check_options(untransformRelOptions(PG_GETARG_DATUM(0)), PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
