/*-------------------------------------------------------------------------
 *
 * server.c
 *	  Which NATS servers to connect to, and as whom.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/server.h"

bool
np_server_equal(const NpServer *a, const NpServer *b)
{
	for (int i = 0; i < NP_SERVER_FIELDS; i++)
	{
		if ((a->values[i] == NULL) != (b->values[i] == NULL) ||
			(a->values[i] != NULL && strcmp(a->values[i], b->values[i]) != 0))
			return false;
	}
	return true;
}

/* *to has nothing, or is wiped first.  ERROR when out of memory. */
void
np_server_copy(NpServer *to, const NpServer *from, MemoryContext context)
{
	np_server_wipe(to);
	for (int i = 0; i < NP_SERVER_FIELDS; i++)
		if (from->values[i] != NULL)
			to->values[i] = MemoryContextStrdup(context, from->values[i]);
}

/* Free what np_server_copy has made, and leave no secret in memory. */
void
np_server_wipe(NpServer *server)
{
	for (int i = 0; i < NP_SERVER_FIELDS; i++)
	{
		if (server->values[i] == NULL)
			continue;
		explicit_bzero(server->values[i], strlen(server->values[i]));
		pfree(server->values[i]);
		server->values[i] = NULL;
	}
}

bool
np_server_is_on(const NpServer *server, NpServerField field)
{
	return server->values[field] != NULL && strcmp(server->values[field], "on") == 0;
}
