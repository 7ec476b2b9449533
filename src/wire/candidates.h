/*-------------------------------------------------------------------------
 *
 * candidates.h
 *	  The servers that a connection can be made to, and their order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CANDIDATES_H
#define NP_CANDIDATES_H

#include "nodes/pg_list.h"

#include "base/server.h"
#include "base/server_url.h"
#include "libnats/wire.h"

/* One of them; the spans live as long as the NpServer and until the next INFO. */
typedef struct NpCandidate
{
	NpServerUrl url;
	NpSpan		tls_name;		/* that its certificate must have */
} NpCandidate;

typedef struct NpCandidates
{
	MemoryContext context;
	List	   *discovered;		/* host:port (char *) that a server has told of */
	int			configured;		/* URLs in the list; the discovered ones are counted on from there */
	int			connected;		/* the one that was connected to last; -1: none */
	int			origin;			/* the last configured one of these: it told of the discovered */

	/* of the present round of tries */
	const NpServer *server;
	int		   *order;
	int			count;
	int			tried;
} NpCandidates;

extern void np_candidates_init(NpCandidates *candidates, MemoryContext context);
extern void np_candidates_forget(NpCandidates *candidates);
extern void np_candidates_begin(NpCandidates *candidates, const NpServer *server);
extern bool np_candidates_next(NpCandidates *candidates, NpCandidate *candidate);
extern void np_candidates_accept(NpCandidates *candidates);
extern void np_candidates_discover(NpCandidates *candidates, NpWire *wire);
extern void np_candidates_rediscover(NpCandidates *candidates, NpSpan info);
extern void np_candidate_name(const NpCandidate *candidate, char *name, size_t size);

#endif							/* NP_CANDIDATES_H */
