/*-------------------------------------------------------------------------
 *
 * wal_attempt.h
 *	  Trying what may raise while changes are decoded, and how long others' code
 *	  may take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_ATTEMPT_H
#define NP_WAL_ATTEMPT_H

#include "access/tupdesc.h"
#include "access/xlogdefs.h"

#include "base/wait.h"

/* Others' code is about to be called in the transaction with this commit, which can take long. */
typedef void (*NpWalBeforeOthers) (XLogRecPtr commit);

/* All that is tried in one transaction. */
typedef struct NpWalAttempts
{
	XLogRecPtr	commit;			/* of the transaction */
	bool		is_careful;		/* nothing is done without a subtransaction */
	bool		is_endless;		/* others' code is not called: it could not be canceled ... */
	const char *others_error;	/* ... or decoding ended behind it, so; NULL: neither */
	int			others_sqlstate;
	NpTime		others_time;	/* for which it has worked ... */
	int64		others_calls;	/* ... in so many attempts */
} NpWalAttempts;

/* What is tried for one change, maybe again. */
typedef struct NpWalAttempt
{
	NpWalAttempts *attempts;	/* of its transaction */
	Oid			owner;			/* of the table, as whom it is done ... */
	TupleDesc	columns;		/* ... and what it has */
	bool		needs_others;	/* others' code has a part in it, as far as is known */
	bool		is_of_postgres; /* that is code of PostgreSQL's, of others is what it is called with: its
								 * errors are true */
	bool		may_call_others;	/* that was known before, and so whoever listens has been told */
} NpWalAttempt;

extern void np_wal_attempts_init(NpWalBeforeOthers listener);
extern void np_wal_attempts_begin(NpWalAttempts *attempts, XLogRecPtr commit);
extern ErrorData *np_wal_catch(void (*function) (void *argument), void *argument);
extern ErrorData *np_wal_attempt(NpWalAttempt *attempt, void (*function) (void *argument), void *argument);
extern bool np_wal_attempt_is_without_others(const NpWalAttempt *attempt);
extern void np_wal_attempt_check_others(const NpWalAttempt *attempt);

#endif							/* NP_WAL_ATTEMPT_H */
