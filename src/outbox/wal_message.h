/*-------------------------------------------------------------------------
 *
 * wal_message.h
 *	  Messages of the outbox in the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_MESSAGE_H
#define NP_WAL_MESSAGE_H

#include "base/siphash.h"
#include "message/message.h"

/* Of a message in the WAL, for those who read it. */
#define NP_WAL_PREFIX	"nats_publish"

/* What only the owner of the extension may know. */
typedef struct NpWalSecret
{
	unsigned char key[NP_SIPHASH_KEY];
} NpWalSecret;

extern bool np_wal_secret(Oid schema, NpWalSecret *secret);
extern void np_wal_write(Oid schema, const NpMessage *message);
extern bool np_wal_read(const NpWalSecret *secret, TransactionId xid, const char *data, size_t length, NpMessage *message);

#endif							/* NP_WAL_MESSAGE_H */
