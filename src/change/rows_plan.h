/*-------------------------------------------------------------------------
 *
 * rows_plan.h
 *	  How rows that are there already are published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROWS_PLAN_H
#define NP_ROWS_PLAN_H

#include "executor/executor.h"

#include "change/change_message.h"
#include "change/rows_key.h"

/* What the caller wants; strings outlive the transactions. */
typedef struct NpRowsOptions
{
	Oid			schema;			/* of the extension */
	Oid			relation;
	const char *condition;		/* SQL, or NULL: all rows */
	const char *subject;		/* another one than the table's, or NULL */
	const char *trigger;		/* which one, or NULL: there is one */
	bool		only_missing;
} NpRowsOptions;

/* In the context in which it was made; for one transaction. */
typedef struct NpRowsPlan
{
	Oid			schema;
	NpRowsKey  *key;
	NpChangePlan *plan;
	HeapTupleData tuple;
	TupleTableSlot *slot;		/* for it, a row of the table */
	Oid			owner;			/* of the table */
	EState	   *estate;
	ExprState  *when;			/* the trigger's condition, or NULL */
} NpRowsPlan;

extern NpRowsPlan *np_rows_plan_make(Relation relation, const NpRowsOptions *options, const char *run);
extern bool np_rows_plan_takes(NpRowsPlan *rows, Datum row);
extern void np_rows_plan_free(NpRowsPlan *rows);

#endif							/* NP_ROWS_PLAN_H */
