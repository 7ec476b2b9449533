/*-------------------------------------------------------------------------
 *
 * delivery.h
 *	  What becomes of a message once it is in the window.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_DELIVERY_H
#define NP_DELIVERY_H

#include "connection.h"
#include "futures.h"
#include "puback.h"
#include "window.h"

/* Back-off between tries, whether of a message or of a connection. */
#define NP_FIRST_DELAY	NP_MILLISECONDS(50)
#define NP_LAST_DELAY	NP_MILLISECONDS(1000)

/* ADR-22: a 503 is asked again; we do it three times. */
#define NP_NO_RESPONDERS_RETRIES	3
#define NP_NO_RESPONDERS_DELAY		NP_MILLISECONDS(250)

/* The message or request that a call waits for. */
typedef struct NpWatch
{
	uint64		token;
	bool		done;
	NpResult	result;			/* when done; lives until the next watch */
	NpSpan		reply;			/* to a request, when done and acked */
} NpWatch;

/*
 * Told what a member of an atomic batch is answered.  reply NULL: the
 * connection was lost; was_sent: after the member had gone out.
 */
typedef void (*NpBatchListener) (uint64 token, const NpReply *reply, bool was_sent);

/* Told what has become of a message of the relay. */
typedef void (*NpRelayListener) (const NpResult *result);

extern NpConnection *np_delivery_begin(void);
extern NpConnection *np_delivery_connection(void);
extern NpWindow *np_delivery_window(void);
extern uint64 np_delivery_next_token(void);
extern uint64 np_delivery_take_token(void);

extern NpPending *np_delivery_add(const NpPublication *publication, size_t length, NpMode mode);
extern const NpWatch *np_delivery_watch(uint64 token);
extern void np_delivery_fail(NpPending *message, NpFailure failure);
extern void np_delivery_drop(NpPending *message);
extern void np_delivery_listen_to_batch(NpBatchListener listener);
extern void np_delivery_listen_to_relay(NpRelayListener listener);
extern bool np_delivery_has_progressed(void);

extern NpTime np_delivery_send_due(NpTime now);
extern void np_delivery_fail_with_ttl(void);
extern void np_delivery_resend(void);
extern NpTime np_jittered(NpTime delay);
extern NpTime np_delay_after(int attempts);

extern void np_delivery_note_untold(NpSpan subject, const NpFailure *failure);
extern void np_delivery_tell_untold(int elevel);

#endif							/* NP_DELIVERY_H */
