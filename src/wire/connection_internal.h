/*-------------------------------------------------------------------------
 *
 * connection_internal.h
 *	  The inside of a connection, for connection.c and connect.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CONNECTION_INTERNAL_H
#define NP_CONNECTION_INTERNAL_H

#include "wire/connection.h"
#include "wire/server_pool.h"

#define NP_SECRET_LENGTH	12

/* Why a connection is lost on which the server says nothing. */
#define NP_NO_ANSWER		"the server does not answer"

struct NpConnection
{
	MemoryContext context;
	const NpConnectionEvents *events;
	void	   *owner;			/* their argument */

	NpWire	   *wire;			/* NULL: not open */
	NpWaitSet  *wait_set;		/* on the wire's socket */
	bool		established;	/* subscribed: the owner's messages can go out */
	bool		in_use;			/* they are appended: its end tells what of them has left */
	bool		owns_external_fd;	/* counted by fd.c */
	NpOutbound	outbound;

	char	   *input;
	size_t		input_size;
	size_t		input_start;	/* of what is not parsed yet */
	size_t		input_end;
	size_t		input_needed;	/* bytes that the operation at input_start has at least */
	bool		receiving;		/* or a handler has thrown then, and the rest of input is not handled */

	NpServerPool pool;			/* where to connect to */
	List	   *tries;			/* NpConnectionTry, of the last np_connection_open if that failed */
	char		url[300];		/* without credentials */
	const char *login;			/* as what it was logged in */
	char		server_name[64];	/* or its id */
	char		inbox[64];		/* with its last dot */
	char		secret[NP_SECRET_LENGTH + 1];	/* so that nobody guesses the inbox */
	int64		max_payload;
	NpServerVersion version;
	bool		begins_with_tls;	/* before the server's first line */
	bool		is_hearsay;		/* what is known of the server: it came before TLS, and nothing since */
	TimestampTz connected_at;
	int			pongs_awaited;
	NpTime		asked_at;		/* whether it is alive; liveness.c */
	uint64		asked_position; /* the end of that in the outgoing stream */
	uint64		delivered;		/* up to where the stream had come when it was asked, or last looked at */
	NpTime		received_at;	/* when the last bytes were read */
	NpTime		answered_at;	/* ... of those that show that the server reads what we send */
	uint64		last_pong;		/* the end of ours in the outgoing stream */

	uint64		confirmed;		/* the server has read the stream up to here */
	uint64		sent_before_loss;	/* outbound.sent when the last one in use went */
	bool		was_lost;		/* while it was in use, and not made again yet */
	bool		lost_for_size;	/* the server has ended it for a message over max_payload */
	char		server_error[256];	/* the last -ERR */
	char		send_error[128];	/* the socket takes no more; empty: it does */
	char		loss[384];		/* why the last connection ended */
};

extern int	np_connection_log_level;

extern void np_connection_append(NpConnection *connection, const char *command);
extern void np_connection_limit_silence(NpConnection *connection);

#endif							/* NP_CONNECTION_INTERNAL_H */
