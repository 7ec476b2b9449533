/*-------------------------------------------------------------------------
 *
 * protocol.h
 *	  The NATS client protocol: commands that we write, operations that the
 *	  server sends, and JetStream's PubAck.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PROTOCOL_H
#define NP_PROTOCOL_H

#include "base/types.h"

/* nats-server opts.go: max_payload can be at most 64 MB. */
#define NP_MAX_PAYLOAD_LENGTH	(64 * 1024 * 1024)

/* The most digits that np_token_encode writes. */
#define NP_TOKEN_LENGTH			13

/* A message as it goes out. */
typedef struct NpPublication
{
	NpSpan		subject;
	NpSpan		reply_prefix;	/* the inbox with its dot; absent: no reply wanted */
	uint64_t	token;			/* last token of the reply subject, base 32 */
	NpSpan		headers;		/* the block from NATS/1.0 to the empty line, or absent */
	NpSpan		payload;
} NpPublication;

/* What the server sent; all spans point into the buffer that was parsed. */
typedef enum NpOperationKind
{
	NP_OP_MESSAGE,
	NP_OP_INFO,
	NP_OP_PING,
	NP_OP_PONG,
	NP_OP_OK,
	NP_OP_ERROR
} NpOperationKind;

typedef struct NpOperation
{
	NpOperationKind kind;
	NpSpan		subject;		/* of a message */
	NpSpan		headers;		/* of a message: the block, or absent */
	NpSpan		payload;		/* of a message */
	int			status;			/* of a message: 503 and the like in its header line, or 0 */
	NpSpan		text;			/* INFO's JSON; the error's text without its quotes */
} NpOperation;

typedef enum NpParseResult
{
	NP_PARSED,
	NP_PARSE_INCOMPLETE,		/* more bytes are needed */
	NP_PARSE_TLS,				/* a TLS record where NATS should be */
	NP_PARSE_INVALID			/* not the NATS protocol: give up the connection */
} NpParseResult;

/* JetStream's answer to a stored message. */
typedef struct NpPubAck
{
	NpSpan		stream;
	NpSpan		domain;			/* absent: none */
	uint64_t	sequence;
	bool		duplicate;
	NpSpan		value;			/* of a counter, its digits; absent: none */
} NpPubAck;

extern size_t np_token_encode(uint64_t token, char *text);
extern bool np_token_decode(NpSpan text, uint64_t *token);

extern size_t np_publication_size(const NpPublication *publication, size_t *control_line);
extern void np_publication_encode(const NpPublication *publication, char *buffer);

extern NpParseResult np_operation_parse(const char *buffer, size_t length,
										NpOperation *operation, size_t *consumed,
										size_t *needed);
extern bool np_header_next(NpSpan *rest, NpSpan *name, NpSpan *value);
extern bool np_info_max_payload(NpSpan json, int64_t *bytes);
extern bool np_info_version(NpSpan json, int *major, int *minor);
extern NpSpan np_info_server_name(NpSpan json);
extern bool np_info_connect_urls(NpSpan json, NpSpan *rest);
extern bool np_info_next_url(NpSpan *rest, NpSpan *url);
extern bool np_puback_parse(NpSpan json, NpPubAck *ack);

#endif							/* NP_PROTOCOL_H */
