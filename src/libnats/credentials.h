/*-------------------------------------------------------------------------
 *
 * credentials.h
 *	  NATS credentials files and nkeys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CREDENTIALS_H
#define NP_CREDENTIALS_H

#include "base/types.h"

#define NP_NKEY_PUBLIC_SIZE		57	/* with its NUL */

extern bool np_credentials_parse(NpSpan text, NpSpan *jwt, NpSpan *seed);
extern bool np_nkey_public(NpSpan seed, char public_key[NP_NKEY_PUBLIC_SIZE]);

#endif							/* NP_CREDENTIALS_H */
