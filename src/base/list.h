/*-------------------------------------------------------------------------
 *
 * list.h
 *	  Comma-separated lists in settings and options.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LIST_H
#define NP_LIST_H

#include "base/types.h"

extern bool np_list_next(const char **rest, NpSpan *item);

#endif							/* NP_LIST_H */
