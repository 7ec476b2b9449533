/*-------------------------------------------------------------------------
 *
 * packed.c
 *	  A message as bytes, to be put by and taken out again.
 *
 * In the byte order and with the sizes of the machine: such bytes are read by
 * a process of the same server, or by one that has its WAL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "message/packed.h"

/* How many bytes a message takes. */
size_t
np_packed_size(const NpMessage *message)
{
	return sizeof(NpPackedHead) + message->subject.length + message->headers.length + message->payload.length;
}

static char *
put(char *to, NpSpan span)
{
	if (span.length > 0)
		memcpy(to, span.data, span.length);
	return to + span.length;
}

static uint32
offset_in(NpSpan headers, NpSpan part)
{
	return part.data == NULL ? 0 : part.data - headers.data;
}

/* Write them; nothing has to be aligned. */
void
np_packed_write(const NpMessage *message, char *to)
{
	NpPackedHead head = {
		.subject_length = message->subject.length,
		.headers_length = message->headers.length,
		.payload_length = message->payload.length,
		.id_offset = offset_in(message->headers, message->id),
		.id_length = message->id.length,
		.stream_offset = offset_in(message->headers, message->expect_stream),
		.stream_length = message->expect_stream.length,
		.session = message->session,
		.has_headers = message->headers.data != NULL,
		.has_automatic_id = message->has_automatic_id,
		.has_conditions = message->has_conditions,
		.has_power = message->has_power,
		.needs = message->needs
	};

	memcpy(to, &head, sizeof(head));
	to = put(to + sizeof(head), message->subject);
	to = put(to, message->headers);
	put(to, message->payload);
}

/* How many bytes a message takes of which the head is known. */
size_t
np_packed_length(const NpPackedHead *head)
{
	return sizeof(*head) + head->subject_length + head->headers_length + head->payload_length;
}

/* The message that begins there; it points into those bytes. */
void
np_packed_read(NpMessage *message, const char *from)
{
	NpPackedHead head;
	const char *body = from + sizeof(head);

	memcpy(&head, from, sizeof(head));
	memset(message, 0, sizeof(*message));
	message->subject = (NpSpan) {body, head.subject_length};
	body += head.subject_length;
	if (head.has_headers)
		message->headers = (NpSpan) {body, head.headers_length};
	if (head.id_length > 0)
		message->id = (NpSpan) {body + head.id_offset, head.id_length};
	if (head.stream_length > 0)
		message->expect_stream = (NpSpan) {body + head.stream_offset, head.stream_length};
	body += head.headers_length;
	message->payload = (NpSpan) {body, head.payload_length};
	message->session = head.session;
	message->has_automatic_id = head.has_automatic_id;
	message->has_conditions = head.has_conditions;
	message->has_power = head.has_power;
	message->needs = head.needs;
}

static bool
is_inside(uint32 offset, uint32 length, uint32 whole)
{
	return (uint64) offset + length <= whole;
}

/* Are these bytes, of which nothing is known yet, one message and nothing else? */
bool
np_packed_is_valid(const char *from, size_t length)
{
	NpPackedHead head;

	if (length < sizeof(head))
		return false;
	memcpy(&head, from, sizeof(head));
	return np_packed_length(&head) == length && is_inside(head.id_offset, head.id_length, head.headers_length) &&
		is_inside(head.stream_offset, head.stream_length, head.headers_length);
}
