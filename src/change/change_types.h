/*-------------------------------------------------------------------------
 *
 * change_types.h
 *	  What the text of a value depends on, by its type.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_TYPES_H
#define NP_CHANGE_TYPES_H

#include "access/tupdesc.h"
#include "nodes/pg_list.h"

/* What else than its value the text of a type depends on; to be or-ed. */
typedef enum NpTextNeeds
{
	NP_NEEDS_TIME_ZONE = 1,
	NP_NEEDS_SEARCH_PATH = 2,	/* it has names of objects */
	NP_NEEDS_CURRENCY = 4,
	NP_NEEDS_SETTINGS = 7,		/* all of these */
	NP_NEEDS_OTHERS_CODE = 8,	/* functions that are not PostgreSQL's own */
	NP_NEEDS_TABLES = 16,		/* functions that are not immutable, and so may look into some */
	NP_NEEDS_CASTS = 32			/* of a type that is not PostgreSQL's own: one to json can come and go */
} NpTextNeeds;

extern int	np_type_needs(Oid type, List **row_types);
extern int	np_row_needs(TupleDesc columns, List **row_types);

#endif							/* NP_CHANGE_TYPES_H */
