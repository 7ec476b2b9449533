/*-------------------------------------------------------------------------
 *
 * futures.h
 *	  What the current transaction has published asynchronously.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_FUTURES_H
#define NP_FUTURES_H

#include "base/report.h"
#include "message/protocol.h"

/* What has become of a message.  Spans are in UTF-8, as on the wire. */
typedef struct NpResult
{
	uint64		token;
	bool		critical;
	NpSpan		subject;
	NpSpan		id;				/* absent: none */
	bool		acked;
	NpPubAck	ack;			/* when acked */
	NpFailure	failure;		/* when not */
} NpResult;

extern void np_futures_add(bool critical);
extern void np_futures_complete(const NpResult *result);
extern bool np_futures_are_critical(void);
extern int64 np_futures_awaited(void);
extern bool np_futures_find(uint64 token, NpResult *result);
extern void np_futures_each(void (*visit) (const NpResult *result, void *argument), void *argument);
extern int64 np_futures_failed(void);
extern char *np_futures_describe(int64 more_failed, int64 unsent);
extern void np_futures_raise_failures(int64 unsent);
extern void np_futures_close(void);
extern void np_futures_reset(void);

#endif							/* NP_FUTURES_H */
