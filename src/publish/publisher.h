/*-------------------------------------------------------------------------
 *
 * publisher.h
 *	  Sending messages, and seeing them acknowledged.
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
extern bool np_try_request(NpSession *session, const char *subject, NpSpan payload, NpTime limit,
						   NpSpan *reply, NpFailure *failure);
extern NpSpan np_request(const char *subject, NpSpan payload);

extern void np_publisher_await(uint64 future, NpTime limit, NpResult *result);
extern int64 np_publisher_flush(NpTime limit);
extern void np_publisher_settle(void);
extern void np_publisher_report_failures(void);
extern bool np_publisher_has_room(NpSession *session, size_t length);
extern bool np_publisher_reach_token(NpSession *session, NpFailure *failure);
extern bool np_publisher_is_part_free(NpSession *session, size_t length);
extern void np_publisher_check_inbox(const NpSession *session, NpSpan subject);
extern void np_publisher_check_length(NpSession *session, size_t length);
extern void np_publisher_each_pending(void (*visit) (const NpResult *result, void *argument),
									  void *argument);
extern NpSession *np_publisher_connect(void);
extern NpTime np_publisher_round_trip(NpSession *session);
extern bool np_publisher_disconnect(void);

#endif							/* NP_PUBLISHER_H */
