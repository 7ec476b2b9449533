/*-------------------------------------------------------------------------
 *
 * guards.h
 *	  The settings that restrict or protect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_GUARDS_H
#define NP_GUARDS_H

#include "nodes/pg_list.h"

/* Whether a call that publishes does so. */
typedef enum NpPublishing
{
	NP_PUBLISHING_ON,
	NP_PUBLISHING_OFF,			/* it is skipped */
	NP_PUBLISHING_DRY_RUN		/* it is checked, then skipped */
} NpPublishing;

typedef enum NpCommitBatch
{
	NP_COMMIT_PIPELINED,
	NP_COMMIT_ATOMIC
} NpCommitBatch;

#define NP_DEFAULT_INBOX_PREFIX	"_INBOX"

extern char *np_url_setting;	/* a list of URLs */
extern char *np_inbox_prefix;
extern bool np_tls_handshake_first;
extern bool np_server_required; /* only foreign servers may be published to */
extern char *np_allowed_subjects;	/* a list of patterns, perhaps a bad one; empty: all */
extern int	np_publishing;
extern int	np_commit_batch;

extern uint64 np_server_generation; /* grows when another server may be meant */

extern void np_guards_define(void);
extern void np_guards_keep_servers(void);
extern void np_guards_uncover_servers(void);
extern void np_guards_require_server(void);
extern List *np_guards_problems(void);
extern void np_assign_server_text(const char *newval, void *extra);

#endif							/* NP_GUARDS_H */
