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

#include "base/user.h"

/* A statement that is kept for the session. */
typedef struct NpStatement
{
	const char *text;			/* the schema where it has %s, at most twice, or %1$s */
	int			argument_count;
	Oid			types[8];
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
	char	   *schema;			/* for which it is */
} NpStatement;

extern Oid	np_statement_owner(Oid schema, const char *relation);
extern SPIPlanPtr np_statement_prepare(NpStatement *statement, const char *schema);
extern void np_statements_begin(NpUser *caller, Oid schema, const char *relation);
extern int	np_statement_execute(NpStatement *statement, Oid schema, Datum *values, const char *nulls);
extern uint64 np_statement_read(NpStatement *statement, Oid schema, Datum *values, long limit);
extern int	np_statement_write(NpStatement *statement, Oid schema, Datum *values, const char *nulls);
extern bool np_statement_is_ours(void);
extern void np_statements_end(const NpUser *caller);

#endif							/* NP_STATEMENT_H */
