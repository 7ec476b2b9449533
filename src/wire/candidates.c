/*-------------------------------------------------------------------------
 *
 * candidates.c
 *	  The servers that a connection can be made to, and their order.
 *
 * The URLs of the list come first, in their order or a random one, and then
 * the other members of the cluster, of which a connected server tells in its
 * INFO.  After a loss the order begins behind the server that was lost.
 *
 * A discovered server gets the credentials of the URL that led to it, and TLS
 * if that had it; if it is told by its address, its certificate must have the
 * name in that URL, as with other NATS clients.  What a server tells is not
 * believed any further: it can add places to try, no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "base/list.h"
#include "message/protocol.h"
#include "wire/candidates.h"

/* More of them than any cluster has are not listened to. */
#define MAX_DISCOVERED	64

void
np_candidates_init(NpCandidates *candidates, MemoryContext context)
{
	memset(candidates, 0, sizeof(*candidates));
	candidates->context = context;
	candidates->connected = -1;
}

static void
forget_discovered(NpCandidates *candidates)
{
	list_free_deep(candidates->discovered);
	candidates->discovered = NIL;
}

/* The list of URLs is another one. */
void
np_candidates_forget(NpCandidates *candidates)
{
	forget_discovered(candidates);
	candidates->connected = -1;
	candidates->origin = 0;
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

/* Begin to try servers; *server must live until that ends. */
void
np_candidates_begin(NpCandidates *candidates, const NpServer *server)
{
	candidates->server = server;
	candidates->configured = count_configured(server);
	candidates->count = candidates->configured + list_length(candidates->discovered);
	candidates->tried = 0;
	if (candidates->order != NULL)
		pfree(candidates->order);	/* an interrupt has ended the last round */
	candidates->order = MemoryContextAlloc(candidates->context, sizeof(int) * candidates->count);
	for (int i = 0; i < candidates->count; i++)
		candidates->order[i] = (candidates->connected + 1 + i) % candidates->count;
	if (np_server_is_on(server, NP_SERVER_RANDOMIZE))
		shuffle(candidates->order, candidates->count);
}

static void
end_round(NpCandidates *candidates)
{
	pfree(candidates->order);
	candidates->order = NULL;
}

/* False: its URL is not one, or it is known no more. */
static bool
describe(const NpCandidates *candidates, int index, NpCandidate *candidate)
{
	const char *discovered;
	NpServerUrl origin;

	if (index < candidates->configured)
	{
		if (np_url_parse(configured_at(candidates->server, index), &candidate->url) != NULL)
			return false;
		candidate->tls_name = candidate->url.host;
		return true;
	}
	if (index - candidates->configured >= list_length(candidates->discovered))
		return false;
	discovered = list_nth(candidates->discovered, index - candidates->configured);
	if (np_url_parse((NpSpan) {discovered, strlen(discovered)}, &candidate->url) != NULL ||
		np_url_parse(configured_at(candidates->server, candidates->origin), &origin) != NULL)
		return false;
	candidate->url.tls = origin.tls;
	candidate->url.user = origin.user;
	candidate->url.password = origin.password;
	candidate->tls_name = np_url_is_address(candidate->url.host) ? origin.host : candidate->url.host;
	return true;
}

/* The next one to try; false: that was all, and the round has ended. */
bool
np_candidates_next(NpCandidates *candidates, NpCandidate *candidate)
{
	while (candidates->tried < candidates->count)
	{
		if (describe(candidates, candidates->order[candidates->tried++], candidate))
			return true;
	}
	end_round(candidates);
	return false;
}

/* The last one that was returned is connected to, which ends the round. */
void
np_candidates_accept(NpCandidates *candidates)
{
	candidates->connected = candidates->order[candidates->tried - 1];
	if (candidates->connected < candidates->configured)
		candidates->origin = candidates->connected;
	end_round(candidates);
}

/* ---- Discovered ones ---------------------------------------------------------------- */

static bool
same_place(NpSpan url, const NpServerUrl *place)
{
	NpServerUrl other;

	return np_url_parse(url, &other) == NULL && other.port == place->port &&
		np_span_equals(other.host, place->host);
}

/* Add a server that another one has told of, if it is new. */
static void
add(NpCandidates *candidates, NpSpan text)
{
	MemoryContext previous;
	NpServerUrl place;
	ListCell   *cell;

	if (list_length(candidates->discovered) >= MAX_DISCOVERED || np_url_parse(text, &place) != NULL ||
		place.user.data != NULL)
		return;
	for (int i = 0; i < candidates->configured; i++)
		if (same_place(configured_at(candidates->server, i), &place))
			return;
	foreach(cell, candidates->discovered)
	{
		if (same_place((NpSpan) {lfirst(cell), strlen(lfirst(cell))}, &place))
			return;
	}
	previous = MemoryContextSwitchTo(candidates->context);
	candidates->discovered = lappend(candidates->discovered, pnstrdup(text.data, text.length));
	MemoryContextSwitchTo(previous);
}

/* What the server has told when the connection was made. */
void
np_candidates_discover(NpCandidates *candidates, NpWire *wire)
{
	char	  **servers;
	int			count = np_wire_discovered(wire, &servers);

	for (int i = 0; i < count; i++)
		add(candidates, (NpSpan) {servers[i], strlen(servers[i])});
	np_wire_free_discovered(servers, count);
}

/* What a connected server tells when its cluster has changed; INFO's JSON. */
void
np_candidates_rediscover(NpCandidates *candidates, NpSpan info)
{
	NpSpan		rest;
	NpSpan		url;

	if (!np_info_connect_urls(info, &rest))
		return;
	forget_discovered(candidates);
	while (np_info_next_url(&rest, &url))
		add(candidates, url);
}

/* ---- Names ---------------------------------------------------------------------------- */

/* How it is shown: a URL without credentials. */
void
np_candidate_name(const NpCandidate *candidate, char *name, size_t size)
{
	bool		brackets = memchr(candidate->url.host.data, ':', candidate->url.host.length) != NULL;

	snprintf(name, size, "%s://%s%.*s%s:%d", candidate->url.tls ? "tls" : "nats", brackets ? "[" : "",
			 (int) candidate->url.host.length, candidate->url.host.data, brackets ? "]" : "", candidate->url.port);
}
