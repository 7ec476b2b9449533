/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  Where a message waits in its stream until it is delivered.
 *
 * JetStream delivers a message later (ADR-51) if it is stored under another
 * subject of the same stream, with headers that say when and to which one.  A
 * subject holds one such message; a new one takes its place.  So each has a
 * subject of its own,
 *
 *	<schedule_prefix>.<the subject that it is for>.<its id>
 *
 * that is known to whoever knows the id, is apart from those that consumers
 * of "orders.>" take, and is in a stream that has "schedule.orders.>", too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/encoding.h"
#include "base/percent.h"
#include "base/settings.h"
#include "message/schedule.h"

/* Of a message for a subject, both in UTF-8; palloc'd.  It can be too long. */
NpSpan
np_schedule_subject(NpSpan target, NpSpan id)
{
	char	   *token = palloc(NP_ENCODED_SIZE(id.length));
	size_t		length = np_encode_token(id, token);
	NpSpan		prefix = np_to_utf8(np_schedule_prefix, strlen(np_schedule_prefix));
	char	   *text = psprintf("%.*s.%.*s.%.*s", (int) prefix.length, prefix.data, (int) target.length, target.data, (int) length, token);

	return (NpSpan) {text, strlen(text)};
}
