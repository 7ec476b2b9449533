/*-------------------------------------------------------------------------
 *
 * packed.h
 *	  A message as bytes, to be put by and taken out again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PACKED_H
#define NP_PACKED_H

#include "message/message.h"

/* Before the bytes of a message: subject, headers, payload. */
typedef struct NpPackedHead
{
	uint32		subject_length;
	uint32		headers_length;
	uint32		payload_length;
	uint32		id_offset;		/* in the headers */
	uint32		id_length;		/* 0: none */
	uint32		stream_offset;	/* likewise, the expected stream */
	uint32		stream_length;
	uint8		session;
	bool		has_headers;
	bool		has_automatic_id;
	bool		has_conditions;
	bool		has_power;
	uint8		needs;			/* NpFeature */
} NpPackedHead;

extern size_t np_packed_size(const NpMessage *message);
extern void np_packed_write(const NpMessage *message, char *to);
extern size_t np_packed_length(const NpPackedHead *head);
extern void np_packed_read(NpMessage *message, const char *from);
extern bool np_packed_is_valid(const char *from, size_t length);

#endif							/* NP_PACKED_H */
