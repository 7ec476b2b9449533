/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  A backend's connection to NATS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CONNECTION_H
#define NP_CONNECTION_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "base/report.h"
#include "base/server.h"
#include "base/wait.h"
#include "libnats/wire.h"
#include "message/protocol.h"
#include "wire/outbound.h"

typedef struct NpConnection NpConnection;

/* Of the answer to a question, np_connection_ask; no message has it. */
#define NP_QUESTION_TOKEN	0

/* What is reported to the owner of a connection; called from np_connection_receive. */
typedef struct NpConnectionEvents
{
	/* a message to <inbox><token> */
	void		(*reply) (void *owner, uint64 token, const NpOperation *operation);
	/* -ERR, whether the server then closes the connection or not */
	void		(*server_error) (void *owner, NpSpan text);
} NpConnectionEvents;

/* What is known of the connected server, by its own INFO or by server_info.c. */
typedef struct NpServerVersion
{
	bool		is_known;
	int			major;
	int			minor;
} NpServerVersion;

/* A server that was tried in vain. */
typedef struct NpConnectionTry
{
	char		url[300];		/* without credentials */
	NpWireStatus status;		/* NP_WIRE_OK: it was connected to, but then ... */
	char		reason[FLEXIBLE_ARRAY_MEMBER];	/* in the database's encoding */
} NpConnectionTry;

/* What is known of the server without asking it. */
typedef struct NpConnectionIdentity
{
	const char *url;			/* without credentials */
	const char *login;			/* by what the session has logged in, in words */
	const char *server_id;
	const char *server_name;	/* or its id, while no name is known; UTF-8 */
	const char *client_ip;		/* NULL: not known */
	bool		tls;
	uint64		client_id;
	int64		max_payload;
	TimestampTz connected_at;
} NpConnectionIdentity;

extern NpConnection *np_connection_create(MemoryContext context, const NpConnectionEvents *events,
										  void *owner);
extern void np_connection_log_to(int elevel);
extern void np_connection_reset_servers(NpConnection *connection);
extern void np_connection_close(NpConnection *connection);
extern void np_connection_lose(NpConnection *connection, const char *reason);
extern void np_connection_begin_use(NpConnection *connection);
extern bool np_connection_is_open(const NpConnection *connection);
extern NpConnectionIdentity np_connection_identity(const NpConnection *connection);
extern int64 np_connection_max_payload(const NpConnection *connection);
extern void np_connection_set_max_payload(NpConnection *connection, int64 bytes);
extern void np_connection_set_server_name(NpConnection *connection, NpSpan name);
extern NpServerVersion *np_connection_version(NpConnection *connection);
extern NpWire *np_connection_wire(const NpConnection *connection);
extern bool np_connection_begins_with_tls(const NpConnection *connection);
extern bool np_connection_is_hearsay(const NpConnection *connection);

extern NpOutbound *np_connection_outbound(NpConnection *connection);
extern NpSpan np_connection_inbox(const NpConnection *connection);
extern uint64 np_connection_sent_before_loss(const NpConnection *connection);
extern bool np_connection_was_lost_for_size(const NpConnection *connection);
extern bool np_connection_was_lost(const NpConnection *connection);
extern NpTime np_connection_received_at(const NpConnection *connection);
extern char *np_connection_loss(const NpConnection *connection);
extern const List *np_connection_tries(const NpConnection *connection);

extern void np_connection_send(NpConnection *connection);
extern void np_connection_receive(NpConnection *connection);
extern void np_connection_receive_all(NpConnection *connection);
extern void np_connection_wait(NpConnection *connection, NpWaitEvent event, NpTime until);
extern void np_connection_ask(NpConnection *connection, const char *subject);
extern void np_connection_confirm(NpConnection *connection, uint64 position);
extern bool np_connection_drain(NpConnection *connection, NpTime until);
extern bool np_connection_ping(NpConnection *connection, NpWaitEvent event, NpTime until);

extern NpTime np_connection_next_doubt(const NpConnection *connection, NpTime since, NpTime timeout);
extern void np_connection_doubt(NpConnection *connection, NpTime since, NpTime timeout);
extern void np_connection_check(NpConnection *connection, NpTime timeout);

#endif							/* NP_CONNECTION_H */
