/*-------------------------------------------------------------------------
 *
 * server_pool.c
 *	  The servers that a connection can be made to, and their order.
 *
 * The URLs of the list come first, in their order or a random one, and then
 * the other members of the cluster, which a connected server announces in its
 * INFO.  After a loss the order begins behind the server that was lost.  A
 * round has the time of its caller, however many servers there are; the next
 * one goes on behind the last one tried.
 *
 * A discovered server gets the credentials of the URL that led to it, and TLS
 * if that had it.  Its certificate must have the name in that URL if it is
 * announced by its address, as with other NATS clients, or before TLS, where
 * anybody in the network can announce a server with a name and a certificate of his own.
 * What a server announces is not believed any further: it can add places to
 * try, no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "base/list.h"
#include "message/protocol.h"
#include "wire/server_pool.h"

/* More of them than any cluster has are not listened to, or even looked at. */
#define MAX_DISCOVERED	64
#define MAX_ANNOUNCED	256

/* A server that another one has announced. */
typedef struct Member
{
	bool		in_tls;			/* announced there: else it is hearsay */
	char		place[FLEXIBLE_ARRAY_MEMBER];	/* host:port */
} Member;

void
np_server_pool_init(NpServerPool *pool, MemoryContext context)
{
	memset(pool, 0, sizeof(*pool));
	pool->context = context;
	pool->connected = -1;
}

static void
free_members(NpServerPool *pool)
{
	list_free_deep(pool->discovered);
	pool->discovered = NIL;
}

static void
free_order(NpServerPool *pool)
{
	if (pool->order != NULL)
		pfree(pool->order);
	pool->order = NULL;
}

static void
free_hearsay(NpServerPool *pool)
{
	ListCell   *cell;

	foreach(cell, pool->discovered)
	{
		Member	   *member = lfirst(cell);

		if (member->in_tls)
			continue;
		pool->discovered = foreach_delete_current(pool->discovered, cell);
		pfree(member);
	}
}

/* The list of URLs is another one. */
void
np_server_pool_reset(NpServerPool *pool)
{
	free_members(pool);
	free_order(pool);
	pool->connected = -1;
	pool->origin = 0;
}

/* ---- A round of tries --------------------------------------------------------- */

static NpSpan
configured_at(const NpServer *server, int index)
{
	const char *rest = server->values[NP_SERVER_URL];
	NpSpan		item = {NULL, 0};

	for (int i = 0; i <= index; i++)
		(void) np_list_next(&rest, &item);
	return item;
}

static int
count_configured(const NpServer *server)
{
	const char *rest = server->values[NP_SERVER_URL];
	NpSpan		item;
	int			count = 0;

	while (np_list_next(&rest, &item))
		count++;
	return count;
}

static void
shuffle(int *order, int count)
{
	for (int i = count - 1; i > 0; i--)
	{
		int			j = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, i);
		int			swapped = order[i];

		order[i] = order[j];
		order[j] = swapped;
	}
}

static void
make_order(NpServerPool *pool)
{
	pool->count = pool->configured + list_length(pool->discovered);
	pool->order = MemoryContextAlloc(pool->context, sizeof(int) * pool->count);
	for (int i = 0; i < pool->count; i++)
		pool->order[i] = (pool->connected + 1 + i) % pool->count;
	if (np_server_is_on(pool->server, NP_SERVER_RANDOMIZE))
		shuffle(pool->order, pool->count);
	pool->next = 0;
}

/*
 * Begin to try servers; *server must live until that ends.  A round that ended
 * early, for lack of time or by an interrupt, has left its order.
 */
void
np_server_pool_begin(NpServerPool *pool, const NpServer *server)
{
	pool->server = server;
	pool->configured = count_configured(server);
	if (pool->order == NULL || pool->count != pool->configured + list_length(pool->discovered))
	{
		free_order(pool);
		make_order(pool);
	}
	pool->tried = 0;
}

/* False: its URL is not one, or it is known no more. */
static bool
describe(const NpServerPool *pool, int index, NpPoolServer *picked)
{
	const Member *member;
	NpServerUrl origin;

	if (index < pool->configured)
	{
		if (np_url_parse(configured_at(pool->server, index), &picked->url) != NULL)
			return false;
		picked->tls_name = picked->url.host;
		return true;
	}
	if (index - pool->configured >= list_length(pool->discovered))
		return false;
	member = list_nth(pool->discovered, index - pool->configured);
	if (np_url_parse((NpSpan) {member->place, strlen(member->place)}, &picked->url) != NULL ||
		np_url_parse(configured_at(pool->server, pool->origin), &origin) != NULL)
		return false;
	picked->url.tls = origin.tls;
	picked->url.user = origin.user;
	picked->url.password = origin.password;
	/* what comes before TLS is hearsay */
	picked->tls_name = np_url_is_address(picked->url.host) || (origin.tls && !member->in_tls) ? origin.host :
		picked->url.host;
	return true;
}

/* The next one to try; false: that was all, and the round has ended. */
bool
np_server_pool_next(NpServerPool *pool, NpPoolServer *picked)
{
	while (pool->tried < pool->count)
	{
		pool->current = pool->order[pool->next];
		pool->next = (pool->next + 1) % pool->count;
		pool->tried++;
		if (describe(pool, pool->current, picked))
			return true;
	}
	free_order(pool);
	return false;
}

/* The last one that was returned is connected to, which ends the round. */
void
np_server_pool_accept(NpServerPool *pool)
{
	pool->connected = pool->current;
	if (pool->connected < pool->configured)
		pool->origin = pool->connected;
	free_order(pool);
}

/* ---- Discovered ones ---------------------------------------------------------------- */

static bool
same_place(NpSpan url, const NpServerUrl *place)
{
	NpServerUrl other;

	return np_url_parse(url, &other) == NULL && other.port == place->port &&
		np_span_equals(other.host, place->host);
}

/* Add a server that another one has announced, if it is new. */
static void
add(NpServerPool *pool, NpSpan text, bool in_tls)
{
	Member	   *member;
	MemoryContext previous;
	NpServerUrl place;
	ListCell   *cell;

	if (list_length(pool->discovered) >= MAX_DISCOVERED || np_url_parse(text, &place) != NULL ||
		place.user.data != NULL)
		return;
	for (int i = 0; i < pool->configured; i++)
		if (same_place(configured_at(pool->server, i), &place))
			return;
	foreach(cell, pool->discovered)
	{
		member = lfirst(cell);
		if (same_place((NpSpan) {member->place, strlen(member->place)}, &place))
			return;
	}
	previous = MemoryContextSwitchTo(pool->context);
	member = palloc(offsetof(Member, place) + text.length + 1);
	member->in_tls = in_tls;
	memcpy(member->place, text.data, text.length);
	member->place[text.length] = '\0';
	pool->discovered = lappend(pool->discovered, member);
	MemoryContextSwitchTo(previous);
}

/* What the server has announced when the connection was made: in TLS, if that came first. */
void
np_server_pool_discover(NpServerPool *pool, NpWire *wire, bool in_tls)
{
	char	  **servers;
	int			count = np_wire_discovered(wire, &servers);

	if (count > 0)
		free_hearsay(pool);
	for (int i = 0; i < Min(count, MAX_ANNOUNCED); i++)
		add(pool, (NpSpan) {servers[i], strlen(servers[i])}, in_tls);
}

/*
 * What a connected server announces by itself, as it does when its cluster has
 * changed, and since 2.12 once to each client; INFO's JSON.
 */
void
np_server_pool_rediscover(NpServerPool *pool, NpSpan info, bool in_tls)
{
	NpSpan		rest;
	NpSpan		url;

	if (!np_info_connect_urls(info, &rest))
		return;
	free_members(pool);
	for (int i = 0; i < MAX_ANNOUNCED && np_info_next_url(&rest, &url); i++)
		add(pool, url, in_tls);
}

/* ---- Names ---------------------------------------------------------------------------- */

/* How it is shown: a URL without credentials. */
void
np_pool_server_name(const NpPoolServer *picked, char *name, size_t size)
{
	bool		brackets = memchr(picked->url.host.data, ':', picked->url.host.length) != NULL;

	snprintf(name, size, "%s://%s%.*s%s:%d", picked->url.tls ? "tls" : "nats", brackets ? "[" : "",
			 (int) picked->url.host.length, picked->url.host.data, brackets ? "]" : "", picked->url.port);
}
