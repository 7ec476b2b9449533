/*-------------------------------------------------------------------------
 *
 * rows_source.h
 *	  The rows of a table, in the order of its key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROWS_SOURCE_H
#define NP_ROWS_SOURCE_H

#include "change/rows_plan.h"

/* Rows whose keys are greater than one and at most another. */
typedef struct NpRowsRange
{
	const Datum *after;			/* NULL: from the first one on */
	const Datum *last;			/* NULL: to the last one */
} NpRowsRange;

/* Takes a row: a composite value, and its xmin; false: no more are wanted. */
typedef bool (*NpRowTaker) (void *argument, Datum row, TransactionId version);

extern void np_rows_check_condition(const char *condition);
extern Datum *np_rows_find_last(Relation relation, const NpRowsKey *key, const Datum *after, int most, int64 *count);
extern void np_rows_read(Relation relation, const NpRowsOptions *options, const NpRowsKey *key, const NpRowsRange *range,
						 bool locked, NpRowTaker take, void *argument);
extern int64 np_rows_count(Relation relation, const NpRowsOptions *options);

#endif							/* NP_ROWS_SOURCE_H */
