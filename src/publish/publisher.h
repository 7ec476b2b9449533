/*-------------------------------------------------------------------------
 *
 * publisher.h
 *	  Publishing: sending messages, and room for them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PUBLISHER_H
#define NP_PUBLISHER_H

#include "message/message.h"
#include "publish/delivery.h"

extern void np_publish(const NpMessage *message, NpResult *result);
extern uint64 np_publish_async(const NpMessage *message, bool critical);
extern void np_publish_on_commit(const NpMessage *message);
extern void np_publish_on_commit_over(NpSession *session, const NpMessage *message);
extern void np_publish_held(const NpMessage *message);
extern void np_publish_relayed(NpSession *session, const NpMessage *message);

extern bool np_publisher_has_room(NpSession *session, size_t length);
extern bool np_publisher_reach_token(NpSession *session, NpFailure *failure);
extern bool np_publisher_is_part_free(NpSession *session, size_t length);
extern void np_publisher_check_inbox(const NpSession *session, NpSpan subject);
extern void np_publisher_check_length(NpSession *session, size_t length);
extern void np_publisher_check_size(NpSession *session, const NpPublication *publication, size_t control_line);
extern NpSession *np_publisher_connect(void);
extern bool np_publisher_disconnect(void);

#endif							/* NP_PUBLISHER_H */
