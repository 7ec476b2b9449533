/*-------------------------------------------------------------------------
 *
 * server_pool.h
 *	  The servers that a connection can be made to, and their order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SERVER_POOL_H
#define NP_SERVER_POOL_H

#include "nodes/pg_list.h"

#include "base/server.h"
#include "base/server_url.h"
#include "libnats/wire.h"

/* One of them; the spans live as long as the NpServer and until the next INFO. */
typedef struct NpPoolServer
{
	NpServerUrl url;
	NpSpan		tls_name;		/* that its certificate must have */
} NpPoolServer;

typedef struct NpServerPool
{
	MemoryContext context;
	List	   *discovered;		/* servers that another one has announced */
	int			configured;		/* URLs in the list; the discovered ones are counted on from there */
	int			connected;		/* the one that was connected to last; -1: none */
	int			origin;			/* the last configured one of these: it announced the discovered */

	/* of the present round of tries */
	const NpServer *server;
	int		   *order;			/* NULL: the next round makes one */
	int			count;			/* in it */
	int			next;			/* place in it */
	int			tried;
	int			current;		/* the one that was returned last */
} NpServerPool;

extern void np_server_pool_init(NpServerPool *pool, MemoryContext context);
extern void np_server_pool_reset(NpServerPool *pool);
extern void np_server_pool_begin(NpServerPool *pool, const NpServer *server);
extern bool np_server_pool_next(NpServerPool *pool, NpPoolServer *picked);
extern void np_server_pool_accept(NpServerPool *pool);
extern void np_server_pool_discover(NpServerPool *pool, NpWire *wire, bool in_tls);
extern void np_server_pool_rediscover(NpServerPool *pool, NpSpan info, bool in_tls);
extern void np_pool_server_name(const NpPoolServer *picked, char *name, size_t size);

#endif							/* NP_SERVER_POOL_H */
