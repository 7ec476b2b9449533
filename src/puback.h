/*-------------------------------------------------------------------------
 *
 * puback.h
 *	  What JetStream answers to a message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PUBACK_H
#define NP_PUBACK_H

#include "protocol.h"
#include "report.h"

typedef enum NpReplyKind
{
	NP_REPLY_ACK,				/* stored: see ack */
	NP_REPLY_NO_RESPONDERS,		/* 503: no stream takes the subject; not stored */
	NP_REPLY_RETRY,				/* not stored or not yet; may be after a while: see failure */
	NP_REPLY_FAILURE			/* refused for good: see failure */
} NpReplyKind;

typedef struct NpReply
{
	NpReplyKind kind;
	NpPubAck	ack;
	NpFailure	failure;
} NpReply;

extern void np_reply_parse(const NpOperation *operation, NpReply *reply);
extern bool np_api_error_parse(NpSpan json, NpFailure *failure);

#endif							/* NP_PUBACK_H */
