/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  SQL statements whose plans are kept, and as whom they are executed.
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
	Oid			types[6];
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
	char	   *schema;			/* for which it is */
} NpStatement;

/* Who was the user when statements began. */
typedef struct NpStatementCaller
{
	Oid			user;
	int			context;
} NpStatementCaller;

extern SPIPlanPtr np_statement_prepare(NpStatement *statement, const char *schema);
extern void np_statements_begin(NpStatementCaller *caller, Oid schema, const char *relation);
extern void np_statements_end(const NpStatementCaller *caller);

#endif							/* NP_STATEMENT_H */
