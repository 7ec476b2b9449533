/*-------------------------------------------------------------------------
 *
 * foreign_server.h
 *	  NATS servers and users as foreign servers and user mappings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_FOREIGN_SERVER_H
#define NP_FOREIGN_SERVER_H

#include "nodes/pg_list.h"

#include "base/server.h"

extern void np_foreign_server_check_options(List *options, Oid catalog);
extern bool np_foreign_server_exists(Oid server_id);
extern Oid	np_foreign_server_find(const char *name, Oid role, NpServer *server);

#endif							/* NP_FOREIGN_SERVER_H */
