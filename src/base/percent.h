/*-------------------------------------------------------------------------
 *
 * percent.h
 *	  Values as parts of subjects, ids and headers: bytes as %XX.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_PERCENT_H
#define NP_PERCENT_H

#include "base/types.h"

/* The most that an encoded value of this length needs, in bytes. */
#define NP_ENCODED_SIZE(length)	(3 * (length) + 3)

/* Writes an encoded value to out, which has room for it; returns the length. */
typedef size_t (*NpEncoder) (NpSpan value, char *out);

extern size_t np_encode_token(NpSpan value, char *out);
extern size_t np_encode_header(NpSpan value, char *out);

#endif							/* NP_PERCENT_H */
