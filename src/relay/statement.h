/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  SQL statements whose plans are kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_STATEMENT_H
#define NP_STATEMENT_H

#include "executor/spi.h"

/* A statement that is kept for the session. */
typedef struct NpStatement
{
	const char *text;			/* the schema where it has %s, at most twice, or %1$s */
	int			argument_count;
	Oid			types[5];
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
	char	   *schema;			/* for which it is */
} NpStatement;

extern SPIPlanPtr np_statement_prepare(NpStatement *statement, const char *schema);

#endif							/* NP_STATEMENT_H */
