/*-------------------------------------------------------------------------
 *
 * rows_run.h
 *	  How far the rows of a table have been published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROWS_RUN_H
#define NP_ROWS_RUN_H

#include "storage/lock.h"

#include "change/rows_plan.h"

/* What is to be done behind a chunk. */
typedef enum NpRowsWish
{
	NP_ROWS_GO_ON,
	NP_ROWS_STOP,
	NP_ROWS_FORGET				/* the run is not known any more */
} NpRowsWish;

/* A run; what it points to is in the context of np_rows_run_begin. */
typedef struct NpRowsRun
{
	Oid			schema;			/* of the extension */
	Oid			relation;
	char	   *id;				/* begins the ids of its messages */
	const char *order;			/* np_rows_key_order of the key by which it goes */
	ArrayType  *last_key;		/* as np_rows_key_to_text writes it; NULL: nothing is done yet */
	int64		read;			/* rows */
	int64		published;
	int64		left_out;		/* as their subjects had a message */
	int64		before;			/* this call has read so many less */
	int64		expected;		/* to be read; -1: not known */
} NpRowsRun;

extern bool np_rows_run_lock(LOCKTAG *tag, Oid schema, Oid relation);
extern void np_rows_run_unlock(const LOCKTAG *tag);
extern void np_rows_run_begin(NpRowsRun *run, const NpRowsOptions *options, const NpRowsKey *key, bool anew);
extern NpRowsWish np_rows_run_save(const NpRowsRun *run, bool is_finished);
extern void np_rows_run_fail(const NpRowsRun *run, const char *error);

#endif							/* NP_ROWS_RUN_H */
