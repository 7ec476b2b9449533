/*-------------------------------------------------------------------------
 *
 * message.h
 *	  A message as the user gave it, checked and ready to be sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_MESSAGE_H
#define NP_MESSAGE_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "base/types.h"
#include "message/feature.h"

/* nats-server keeps the length of a header block in 16 bits (10097) */
#define NP_MAX_HEADERS_LENGTH	65535

/* What a header can do. */
typedef enum NpHeaderPower
{
	NP_HEADER_OF_MESSAGE,		/* it is about the message, or means nothing to the server */
	NP_HEADER_READS_SUBJECT,	/* it names a subject */
	NP_HEADER_READS_SUBJECTS,	/* it names a subject, or a pattern of some */
	NP_HEADER_WRITES_SUBJECT,	/* it names a subject that is published to, or purged */
	NP_HEADER_REMOVES			/* "sub": what else its subject has; "all": what the stream has */
} NpHeaderPower;

/* The options of the publish functions, in UTF-8; NULL or absent where SQL has NULL. */
typedef struct NpMessageOptions
{
	Jsonb	   *headers;
	NpSpan		lines;			/* more headers, as lines of which nothing has to be checked */
	const char *id_header;		/* one more header that has the id, percent-encoded; or NULL */
	NpSpan		msg_id;
	NpSpan		expect_stream;
	bool		has_expect_last_seq;
	int64		expect_last_seq;
	bool		has_expect_last_subject_seq;
	int64		expect_last_subject_seq;
	Interval   *ttl;
	NpSpan		rollup;
	Numeric		increment;
	bool		has_deliver_at;
	TimestampTz deliver_at;
	NpSpan		expect_subject; /* whose last sequence is expected, or a pattern */
	bool		is_annotated;	/* it has the annotations of the transaction, too */
	Jsonb	   *annotations;	/* it has these; NULL: none */
} NpMessageOptions;

/*
 * All in UTF-8 and valid as long as the memory context in which it was built,
 * but not beyond the next np_message_build.
 */
typedef struct NpMessage
{
	NpSpan		subject;
	NpSpan		headers;		/* the block, or absent */
	NpSpan		payload;
	NpSpan		id;				/* inside headers, or absent */
	NpSpan		expect_stream;	/* inside headers, or absent */
	bool		has_automatic_id;	/* nobody else has ever used it */
	NpFeature	needs;			/* the newest of what its headers need */
	bool		has_conditions; /* it has headers of the server's but its id and TTL */
	bool		is_again;		/* it was published before, and counted then */
	bool		may_be_refused; /* that its expectation does not hold is as good as an ack */
	bool		has_power;		/* a header of it can do more than NP_HEADER_OF_MESSAGE */
	int			session;		/* of a held one: the number of that which it goes out on */
} NpMessage;

/* What a header takes that names the message before, by an id of this length, and a little more. */
#define NP_EXPECTATION_SIZE(id_length)	(32 + (id_length))

extern void np_message_build(NpMessage *message, NpSpan subject, NpSpan payload,
							 const NpMessageOptions *options);
extern void np_message_expect(NpMessage *result, const NpMessage *message, NpSpan last_id);
extern void np_message_check_subject(NpSpan subject);
extern void np_message_check_reserved(NpSpan subject, const char *inbox_prefix);
extern NpHeaderPower np_message_header_power(NpSpan name);

#endif							/* NP_MESSAGE_H */
