/*-------------------------------------------------------------------------
 *
 * wire.h
 *	  libnats: a connection that has been made, and is ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WIRE_H
#define NP_WIRE_H

#include <sys/uio.h>

#include "base/types.h"
#include "libnats/tls.h"

typedef struct NpWire NpWire;	/* an established connection */

/* Of a user name, a password, a token; and of a JWT.  With their NULs. */
#define NP_MAX_SECRET_LENGTH	1024
#define NP_MAX_JWT_LENGTH		16384

/* Whom to connect to, and as whom; all in UTF-8.  Copied by np_connect_attempt_start. */
typedef struct NpWireTarget
{
	char		host[256];
	int			port;
	char		client_name[128];	/* shown by the server's monitoring */
	int			timeout_ms;

	/* one of: user and password, token, seed, JWT and seed; or nothing */
	char		user[NP_MAX_SECRET_LENGTH];
	char		password[NP_MAX_SECRET_LENGTH];
	char		token[NP_MAX_SECRET_LENGTH];
	char		seed[128];
	char		jwt[NP_MAX_JWT_LENGTH];

	bool		tls;			/* else only if the server requires it */
	bool		tls_handshake_first;
	char		tls_name[256];	/* that the server's certificate must have */
	char		tls_ca_file[1024];	/* empty: the system's authorities */
	char		tls_cert_file[1024];	/* empty: no certificate of ours */
	char		tls_key_file[1024];
} NpWireTarget;

typedef enum NpWireStatus
{
	NP_WIRE_OK,
	NP_WIRE_NO_LOGIN,			/* the credentials can't be read */
	NP_WIRE_NO_HOST,			/* its name has no address */
	NP_WIRE_NO_SERVER,			/* nobody there, or no answer in time */
	NP_WIRE_NO_TLS,				/* one side does not want it, or not with the other */
	NP_WIRE_NOT_AUTHORIZED,
	NP_WIRE_NOT_SUPPORTED,		/* by this version of the library */
	NP_WIRE_FAILED				/* not NATS, or not for us */
} NpWireStatus;

extern int	np_wire_socket(const NpWire *wire);
extern NpTls *np_wire_tls(const NpWire *wire);
extern ssize_t np_wire_receive(NpWire *wire, char *buffer, size_t length);
extern ssize_t np_wire_send(NpWire *wire, struct iovec *vectors, int count);
extern size_t np_wire_offered(const NpWire *wire);
extern bool np_wire_has_pending(const NpWire *wire);
extern int	np_wire_discovered(const NpWire *wire, char ***servers);
extern int64_t np_wire_max_payload(const NpWire *wire);
extern const char *np_wire_server_id(const NpWire *wire);
extern const char *np_wire_server_name(const NpWire *wire);
extern const char *np_wire_client_ip(const NpWire *wire);
extern uint64_t np_wire_client_id(const NpWire *wire);
extern void np_wire_close(NpWire *wire);

#endif							/* NP_WIRE_H */
