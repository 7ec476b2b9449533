/*-------------------------------------------------------------------------
 *
 * catch.c
 *	  An expected ERROR becomes a value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/catch.h"

/*
 * Were others in the way: had they locked what was needed, for longer than
 * lock_timeout, or had it to be rolled back for them?  It is over when they are
 * done, and says nothing of what was tried.
 */
bool
np_is_of_others(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_OBJECT_IN_USE ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TRANSACTION_ROLLBACK;
}

/*
 * Is it about the server, so that another one would have failed, too, or this
 * one not at another time?  What others do, a cancel or shutdown (57), a full
 * disk or memory (53, 58).
 */
bool
np_is_of_server(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return np_is_of_others(sqlstate) || category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_SYSTEM_ERROR;
}

/*
 * Call a function that may raise.  NULL: it did not; else the error, palloc'd.
 * One that is not expected goes on; without is_expected, any is.
 *
 * There is no subtransaction: the function takes nothing but memory, or leaves
 * what it has begun as it would without an error.
 */
ErrorData *
np_catch(void (*function) (void *argument), void *argument, NpExpected is_expected)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		function(argument);
	}
	PG_CATCH();
	{
		if (is_expected != NULL && !is_expected(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}
