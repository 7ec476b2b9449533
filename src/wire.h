/*-------------------------------------------------------------------------
 *
 * wire.h
 *	  libnats: connecting to a server, and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WIRE_H
#define NP_WIRE_H

#include "types.h"

typedef struct NpWire NpWire;	/* an established connection */
typedef struct NpWireAttempt NpWireAttempt; /* one that is being made */

/* Whom to connect to, and as whom.  Copied by np_wire_start. */
typedef struct NpWireTarget
{
	char		host[256];
	int			port;
	char		user[1024];		/* empty: no credentials */
	char		password[1024];
	bool		user_is_token;	/* the user is a token; there is no password */
	char		client_name[128];	/* shown by the server's monitoring */
	int			timeout_ms;
} NpWireTarget;

typedef enum NpWireStatus
{
	NP_WIRE_OK,
	NP_WIRE_FAILED,				/* nobody there, not NATS, gave up */
	NP_WIRE_NOT_AUTHORIZED
} NpWireStatus;

extern NpWireAttempt *np_wire_start(const NpWireTarget *target, char *error, size_t error_size);
extern int	np_wire_attempt_fd(const NpWireAttempt *attempt);
extern NpWireStatus np_wire_finish(NpWireAttempt *attempt, NpWire **wire,
								   char *error, size_t error_size);
extern void np_wire_abandon(NpWireAttempt *attempt);

extern int	np_wire_socket(const NpWire *wire);
extern int64_t np_wire_max_payload(const NpWire *wire);
extern const char *np_wire_server_id(const NpWire *wire);
extern const char *np_wire_client_ip(const NpWire *wire);
extern uint64_t np_wire_client_id(const NpWire *wire);
extern void np_wire_close(NpWire *wire);
extern const char *np_wire_library_version(void);

#endif							/* NP_WIRE_H */
