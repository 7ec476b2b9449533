/*-------------------------------------------------------------------------
 *
 * change_values.h
 *	  Values as Debezium encodes them in JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_VALUES_H
#define NP_CHANGE_VALUES_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

/* How a column's values are written. */
typedef struct NpValueCoder
{
	const char *name;			/* with quotes */
	Oid			base_type;
	int32		typmod;
	FmgrInfo	output;
	TupleDesc	alone;			/* blessed: for row_to_json */
} NpValueCoder;

extern NpValueCoder *np_value_coders_make(TupleDesc columns);
extern void np_value_coder_append_json(StringInfo json, const NpValueCoder *coder, Datum value, bool isnull);
extern void np_value_coder_append(StringInfo json, NpValueCoder *coder, Datum value, bool isnull);

#endif							/* NP_CHANGE_VALUES_H */
