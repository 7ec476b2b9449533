/*-------------------------------------------------------------------------
 *
 * siphash.h
 *	  A hash that nobody can foretell who does not know its key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SIPHASH_H
#define NP_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/* Bytes. */
#define NP_SIPHASH_KEY	16

extern uint64_t np_siphash(const unsigned char *key, const char *data, size_t length);

#endif							/* NP_SIPHASH_H */
