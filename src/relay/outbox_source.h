/*-------------------------------------------------------------------------
 *
 * outbox_source.h
 *	  The outbox as a source of messages: what is new, and what is due again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_SOURCE_H
#define NP_OUTBOX_SOURCE_H

#include "base/wait.h"
#include "publish/delivery.h"
#include "relay/relay_row.h"

/* What the relay finds when it looks. */
typedef enum NpOutboxState
{
	NP_OUTBOX_THERE,
	NP_OUTBOX_PAUSED,
	NP_OUTBOX_ABSENT			/* there is no extension */
} NpOutboxState;

/* One look into it. */
typedef struct NpOutboxLook
{
	int			room;			/* take so many rows at most ... */
	size_t		largest;		/* ... and leave payloads that are larger */
	bool		ordered;

	NpOutboxState state;
	NpSession  *session;		/* on which they go out */
	bool		has_more;		/* that could be read at once */
	NpTime		next_due;		/* when the next row is to be tried again; NP_FOREVER: none */
} NpOutboxLook;

extern void np_source_read(NpOutboxLook *look);
extern void np_source_go_back(int64 id);
extern void np_source_look_again(void);
extern void np_source_failed(void);
extern NpTime np_source_next_back(void);

#endif							/* NP_OUTBOX_SOURCE_H */
