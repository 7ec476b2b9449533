/*-------------------------------------------------------------------------
 *
 * delivery.h
 *	  What becomes of a message once it is in the window.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_DELIVERY_H
#define NP_DELIVERY_H

#include "base/server.h"
#include "ledger/futures.h"
#include "message/feature.h"
#include "message/puback.h"
#include "publish/window.h"
#include "wire/connection.h"

/* Back-off between tries, whether of a message or of a connection. */
#define NP_FIRST_DELAY	NP_MILLISECONDS(50)
#define NP_LAST_DELAY	NP_MILLISECONDS(1000)

/* ADR-22: a 503 is asked again; we do it three times. */
#define NP_NO_RESPONDERS_RETRIES	3
#define NP_NO_RESPONDERS_DELAY		NP_MILLISECONDS(250)

/*
 * Who hears what becomes of messages that are neither futures nor a call's.
 * There is one of each kind, for what settles a batch of the relay can publish
 * an atomic batch of its own on the same session.  Who listens takes its
 * messages out of the window before it stops, also when it is left by an
 * error; owner is its argument.
 */
typedef struct NpMemberListener
{
	/* reply NULL: the connection was lost; was_sent: after the member of an atomic batch had gone out */
	void		(*answered) (void *owner, uint64 token, const NpReply *reply, bool was_sent);
	void	   *owner;
} NpMemberListener;

typedef struct NpRelayListener
{
	/* false: it is not at its end, for it is to be published again, and counted then */
	bool		(*completed) (void *owner, const NpResult *result);
	void	   *owner;
} NpRelayListener;

typedef struct NpProbeListener
{
	/* a reply to a probe, which stays in the window */
	void		(*answered) (void *owner, const NpOperation *operation);
	void	   *owner;
} NpProbeListener;

/* What is known of JetStream when nobody takes a message. */
typedef enum NpAbsence
{
	NP_ABSENT_NOT_KNOWN,		/* or it is there */
	NP_ABSENT_OFF,				/* it is not switched on at the server ... */
	NP_ABSENT_HERE,				/* ... which is connected with others, that may have it */
	NP_ABSENT_FOR_ACCOUNT,		/* the account has none */
	NP_ABSENT_STOPPED			/* it was there when the server started */
} NpAbsence;

/* How long what was found out holds, and the longest that it may take. */
#define NP_LOOK_TIME	NP_MILLISECONDS(1000)

/* How far it is found out (jetstream.c). */
typedef enum NpLook
{
	NP_LOOK_NONE,
	NP_LOOK_WANTED,				/* nobody has taken a message */
	NP_LOOK_ASKED,
	NP_LOOK_NOBODY				/* is there to answer */
} NpLook;

/*
 * A connection and what is in flight on it.  A backend has one for the
 * settings, and one for each foreign server and role that it publishes with.
 */
typedef struct NpSession
{
	Oid			server_id;		/* InvalidOid: the settings */
	Oid			role;			/* InvalidOid: any, for the settings */
	int			number;			/* its place among all */
	NpServer	server;			/* where to connect to */
	bool		is_retired;		/* nothing new goes there: its server is another one now */

	NpConnection *connection;	/* never NULL */
	NpWindow	window;

	/* delivery.c */
	bool		progressed;		/* a message came to its end since this was asked */
	NpTime		next_retry;		/* the earliest retry_at in the window */

	/* jetstream.c */
	NpLook		look;
	NpTime		looked_at;		/* when that was asked; 0: not on this connection */
	NpAbsence	absence;		/* what was found out, on this connection */

	/* all zero: nobody listens */
	NpMemberListener members;	/* batch.c */
	NpRelayListener relay;		/* flight.c */
	NpProbeListener probe;		/* check_probe.c */

	/* session.c */
	NpTime		next_connect;	/* not earlier ... */
	NpTime		connect_delay;	/* ... and so long after a failure */
	NpTime		uncritical_pause_until;
	char		strange_denial[256];	/* the server's last error about a subject that nobody has published
										 * to ... */
	uint64		strange_until;	/* ... and the first token behind it; 0: there was none */
	char		connect_failure[512];	/* what the last attempt said; empty: it has succeeded */

	/* publisher.c */
	NpTime		last_sent;		/* when bytes were last handed to the socket */
} NpSession;

/* The question whether JetStream is there, which is no message. */
#define NP_QUESTION_SUBJECT		"$JS.API.INFO"

/* Where its commands are appended. */
#define np_session_outbound(session)	np_connection_outbound((session)->connection)

/* The message or request that a call waits for. */
typedef struct NpWatch
{
	uint64		token;
	bool		done;
	NpResult	result;			/* when done; lives until the next watch */
	NpSpan		reply;			/* to a request, when done and acked */
} NpWatch;

extern void np_delivery_begin(NpSession *session, const NpConnectionEvents *events);
extern uint64 np_delivery_next_token(void);
extern uint64 np_delivery_use_token(void);

extern NpPending *np_delivery_add(NpSession *session, const NpPublication *publication,
								  size_t length, NpMode mode);
extern NpWatch *np_delivery_watch(uint64 token);
extern uint64 np_delivery_watched(void);
extern void np_delivery_keep_reply(const NpPending *request, NpSpan reply);
extern void np_delivery_answer_member(NpSession *session, NpPending *message, const NpReply *reply, bool was_sent);
extern void np_delivery_complete(NpSession *session, NpPending *message, const NpPubAck *ack, const NpFailure *failure);
extern void np_delivery_retry_after(NpSession *session, NpPending *message, NpTime delay, const NpFailure *cause);
extern void np_delivery_fail(NpSession *session, NpPending *message, NpFailure failure);
extern void np_delivery_drop(NpSession *session, NpPending *message);
extern void np_delivery_retract(NpSession *session, NpPending *message);
extern bool np_delivery_has_progressed(NpSession *session);
extern NpFailure np_delivery_untaken(const NpSession *session);
extern NpFailure np_delivery_unanswered(const NpSession *session);

extern void np_delivery_send_due(NpSession *session, NpTime now);
extern void np_delivery_fail_newer(NpSession *session, NpFeature known);
extern int	np_delivery_resend_time(void);
extern void np_delivery_resend(NpSession *session);
extern NpTime np_jittered(NpTime delay);
extern NpTime np_delay_after(int attempts);

extern void np_delivery_record_failure(NpSpan subject, const NpFailure *failure);
extern void np_delivery_report_failures(int elevel);

#endif							/* NP_DELIVERY_H */
