/*-------------------------------------------------------------------------
 *
 * argument.h
 *	  The values of headers that are typed arguments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ARGUMENT_H
#define NP_ARGUMENT_H

#include "datatype/timestamp.h"
#include "utils/numeric.h"

#include "base/types.h"

extern NpSpan np_argument_sequence(const char *argument, int64_t sequence);
extern NpSpan np_argument_ttl(const Interval *ttl);
extern NpSpan np_argument_rollup(NpSpan rollup);
extern NpSpan np_argument_increment(Numeric increment);
extern NpSpan np_argument_schedule(TimestampTz time);

#endif							/* NP_ARGUMENT_H */
