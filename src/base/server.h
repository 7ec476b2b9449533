/*-------------------------------------------------------------------------
 *
 * server.h
 *	  Which NATS servers to connect to, and as whom.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SERVER_H
#define NP_SERVER_H

#include "base/types.h"

/* Each comes from a setting, or from an option of a foreign server or user mapping. */
typedef enum NpServerField
{
	NP_SERVER_URL,
	NP_SERVER_INBOX_PREFIX,
	NP_SERVER_RANDOMIZE,
	NP_SERVER_TLS_CA_FILE,
	NP_SERVER_TLS_HANDSHAKE_FIRST,
	NP_SERVER_TLS_CERT_FILE,
	NP_SERVER_TLS_KEY_FILE,
	NP_SERVER_USER,
	NP_SERVER_PASSWORD,
	NP_SERVER_PASSWORD_FILE,
	NP_SERVER_TOKEN,
	NP_SERVER_TOKEN_FILE,
	NP_SERVER_NKEY_SEED,
	NP_SERVER_NKEY_SEED_FILE,
	NP_SERVER_CREDS,
	NP_SERVER_CREDS_FILE,
	NP_SERVER_FIELDS
} NpServerField;

/* NULL: not given.  What is a switch is "on", "off" or NULL. */
typedef struct NpServer
{
	char	   *values[NP_SERVER_FIELDS];
} NpServer;

extern bool np_server_equal(const NpServer *a, const NpServer *b);
extern void np_server_copy(NpServer *to, const NpServer *from, MemoryContext context);
extern void np_server_wipe(NpServer *server);
extern bool np_server_is_on(const NpServer *server, NpServerField field);

#endif							/* NP_SERVER_H */
