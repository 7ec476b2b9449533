/*-------------------------------------------------------------------------
 *
 * change_filter.h
 *	  WHEN of a trigger whose changes are read from the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_FILTER_H
#define NP_CHANGE_FILTER_H

#include "access/tupdesc.h"
#include "executor/tuptable.h"

typedef struct NpChangeFilter NpChangeFilter;

extern NpChangeFilter *np_change_filter_make(const char *condition, TupleDesc columns, const char **problem);
extern bool np_change_filter_knows(const NpChangeFilter *filter, const bool *in_old);
extern bool np_change_filter_can_take_long(const NpChangeFilter *filter);
extern bool np_change_filter_needs(const NpChangeFilter *filter, int place);
extern bool np_change_filter_admits(NpChangeFilter *filter, TupleTableSlot *old, TupleTableSlot *new);

#endif							/* NP_CHANGE_FILTER_H */
