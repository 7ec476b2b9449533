/*-------------------------------------------------------------------------
 *
 * rows_key.h
 *	  The key in the order of which a table is read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROWS_KEY_H
#define NP_ROWS_KEY_H

#include "access/stratnum.h"
#include "utils/array.h"
#include "utils/rel.h"

typedef struct NpRowsKeyColumn
{
	const char *name;
	int			index;			/* in a row of the table */
	Oid			type;
	int32		typmod;
	Oid			collation;
	bool		is_by_value;
	int16		length;
	Oid			compared_type;	/* as which the index compares its values ... */
	const char *cast;			/* ... and how a statement makes it that: "" if it is that, or takes all such
								 * types */
	const char *operators[BTMaxStrategyNumber + 1]; /* by strategy, as OPERATOR() takes them */
} NpRowsKeyColumn;

typedef struct NpRowsKey
{
	int			count;
	NpRowsKeyColumn *columns;
} NpRowsKey;

extern NpRowsKey *np_rows_key_find(Relation relation);
extern char *np_rows_key_template(const NpRowsKey *key);
extern char *np_rows_key_order(const NpRowsKey *key);
extern ArrayType *np_rows_key_to_text(const NpRowsKey *key, const Datum *values);
extern Datum *np_rows_key_from_text(const NpRowsKey *key, ArrayType *texts);

#endif							/* NP_ROWS_KEY_H */
