/*-------------------------------------------------------------------------
 *
 * puback.h
 *	  What JetStream answers to a message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PUBACK_H
#define NP_PUBACK_H

#include "base/report.h"
#include "message/protocol.h"

/* Of JetStream: the message names another stream. */
#define NP_ERROR_OTHER_STREAM	10060

/* How long others may take to answer, once one has. */
#define NP_OTHERS_TIME			NP_MILLISECONDS(500)

typedef enum NpReplyKind
{
	NP_REPLY_ACK,				/* stored: see ack */
	NP_REPLY_STAGED,			/* a member of an atomic batch has arrived */
	NP_REPLY_NO_RESPONDERS,		/* 503: no stream takes the subject; not stored */
	NP_REPLY_RETRY,				/* not stored or not yet; may be after a while: see failure */
	NP_REPLY_FAILURE			/* refused for good: see failure */
} NpReplyKind;

typedef struct NpReply
{
	NpReplyKind kind;
	NpPubAck	ack;
	NpSpan		batch;			/* id of the atomic batch that the ack is for, or absent */
	uint64		batch_count;	/* of its members */
	NpFailure	failure;
	int			error_code;		/* JetStream's, of a failure; 0: none */
	NpSpan		stream;			/* that refused, or absent */
} NpReply;

extern void np_reply_parse(const NpOperation *operation, NpReply *reply);
extern bool np_api_error_parse(NpSpan json, NpFailure *failure);

#endif							/* NP_PUBACK_H */
