/*-------------------------------------------------------------------------
 *
 * wal_attempt.c
 *	  Trying what may raise while changes are decoded, and how long others' code
 *	  may take.
 *
 * What makes messages is PostgreSQL's own code and ours, which leave nothing
 * behind but memory; so the error is caught without a subtransaction, which
 * would be dear.  With one is done what somebody else's code has a part in (a
 * type's output, a cast to json, a WHEN that can take long), and all in a
 * transaction in which an error was met, or was too severe to be caught: that
 * stops decoding, which begins again and then comes here knowing better
 * (wal_trouble.c).  All is done as the table's owner in a restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/catch.h"
#include "base/compat.h"
#include "base/patience.h"
#include "base/subtransaction.h"
#include "base/user.h"
#include "wal/wal_attempt.h"
#include "wal/wal_trouble.h"

/* For so long others' code may work at one change, and at the error that cancels it then, ms. */
#define MAX_CHANGE_TIME	10000
#define MAX_CANCEL_TIME	3000

/* And for so long at all changes of a transaction, of which there can be many, with as much for each change: nothing is confirmed meanwhile. */
#define MAX_TRANSACTION_TIME	30000
#define MORE_FOR_EACH_CHANGE	10

/* And for so long that of one owner in all, but for as much for each change: others' transactions wait for these, one after the other. */
#define MAX_OWNER_TIME	120000

/* An owner of tables whose code has taken longer than that for a change. */
typedef struct Owner
{
	Oid			id;				/* the key */
	NpPatience	patience;
} Owner;

/* What is being tried. */
typedef struct OwnersWork
{
	void		(*function) (void *argument);
	void	   *argument;
	Oid			owner;
	XLogRecPtr	commit;
} OwnersWork;

static NpWalBeforeOthers before_others;
static HTAB *owners;			/* NULL: there are none yet */

/* To be called before decoding. */
void
np_wal_attempts_init(NpWalBeforeOthers listener)
{
	before_others = listener;
}

/* To be called before the first attempt in a transaction: what was met in it before is known. */
void
np_wal_attempts_begin(NpWalAttempts *attempts, XLogRecPtr commit)
{
	*attempts = (NpWalAttempts) {.commit = commit};
	attempts->is_careful = np_wal_trouble_was_severe(commit);
	attempts->is_endless = np_wal_trouble_was_endless(commit);
	attempts->others_error = np_wal_trouble_error(commit, &attempts->others_sqlstate);
}

/* ---- Attempts ------------------------------------------------------------------------------ */

/* Without a subtransaction: internal errors can come from anywhere. */
static bool
is_catchable(int sqlstate)
{
	return !np_is_of_server(sqlstate) && ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_INTERNAL_ERROR;
}

/* Do something that leaves nothing behind but memory.  NULL: it did not raise; else the error, if that can be caught without a subtransaction. */
ErrorData *
np_wal_catch(void (*function) (void *argument), void *argument)
{
	return np_catch(function, argument, is_catchable);
}

static void
do_as_owner(void *argument)
{
	const OwnersWork *work = argument;
	NpUser		worker;

	np_user_become_owner(&worker, work->owner);

	/*
	 * who writes needs a transaction id, with which decoding can't end well; this ends with the
	 * subtransaction
	 */
	XactReadOnly = true;
	/* a background worker has no statement, and so nothing else that limits it */
	enable_timeout_after(STATEMENT_TIMEOUT, MAX_CHANGE_TIME);
	np_wal_trouble_limit(work->commit, MAX_CHANGE_TIME, MAX_CANCEL_TIME);
	PushActiveSnapshot(GetTransactionSnapshot());
	work->function(work->argument);
	PopActiveSnapshot();
	np_user_return(&worker);
}

static void
count_of_owner(Oid owner, NpTime duration)
{
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(Owner),.hcxt = TopMemoryContext};
	Owner	   *entry;
	bool		found;

	if (owners == NULL)
		owners = hash_create("nats_publish slow owners", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	entry = hash_search(owners, &owner, HASH_ENTER, &found);
	if (!found)
		entry->patience = (NpPatience) {0};
	np_patience_use(&entry->patience, np_now(), duration);
}

static void
count_others(const NpWalAttempt *attempt, NpTime took)
{
	if (!attempt->may_call_others)
		return;
	attempt->attempts->others_time += took;
	attempt->attempts->others_calls++;
	if (took > NP_MILLISECONDS(MORE_FOR_EACH_CHANGE))
		count_of_owner(attempt->owner, took - NP_MILLISECONDS(MORE_FOR_EACH_CHANGE));
}

/* With one, PostgreSQL ends decoding behind the transaction, each time; a subtransaction does not give it back. */
static void
check_transaction_id(void)
{
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("a cast to json in this transaction has taken a transaction id, which it must not")));
}

/* The type of a column can be that of the rows of a table, which is locked when they are shown, or have one in it. */
static bool
has_others_types(TupleDesc columns)
{
	for (int i = 0; i < columns->natts; i++)
		if (TupleDescAttr(columns, i)->atttypid >= FirstNormalObjectId)
			return true;
	return false;
}

/* Can others have met such an error, or have caused it, whenever they like? */
static bool
is_by_others(const NpWalAttempt *attempt, int sqlstate)
{
	return (attempt->may_call_others && !attempt->is_of_postgres) || (np_is_of_others(sqlstate) && has_others_types(attempt->columns));
}

static ErrorData *
attempt_in_subtransaction(const NpWalAttempt *attempt, void (*function) (void *argument), void *argument)
{
	XLogRecPtr	commit = attempt->attempts->commit;
	OwnersWork	work = {function, argument, attempt->owner, commit};
	NpTime		took;
	ErrorData  *error;

	if (attempt->may_call_others)
		before_others(commit);
	took = np_now();
	error = np_try_subtransaction(do_as_owner, &work);
	disable_timeout(STATEMENT_TIMEOUT, false);
	np_wal_trouble_no_limit();
	took = np_now() - took;
	count_others(attempt, took);
	check_transaction_id();
	if (error == NULL || (error->sqlerrcode == ERRCODE_QUERY_CANCELED && took >= NP_MILLISECONDS(MAX_CHANGE_TIME)))
		return error;
	if (np_is_of_server(error->sqlerrcode) &&
		!np_wal_trouble_ends(commit, error->sqlerrcode, took, is_by_others(attempt, error->sqlerrcode)))
		ReThrowError(error);
	return error;
}

/* Without a subtransaction: the error, if it could be caught so; another aborts the transaction, and with that it is itself again. */
static ErrorData *
attempt_alone(const NpWalAttempt *attempt, void (*function) (void *argument), void *argument)
{
	NpUser		worker;
	ErrorData  *error;

	/* never the superuser that this process is, whatever is thought of what has a part in it */
	np_user_become_owner(&worker, attempt->owner);
	np_wal_trouble_expect(attempt->attempts->commit);
	error = np_wal_catch(function, argument);
	np_wal_trouble_expect(InvalidXLogRecPtr);
	np_user_return(&worker);
	return error;
}

/*
 * Do something that may raise, as the owner of the table.  NULL: it did not; else
 * the error, palloc'd.  The function may find out that it needs others' code,
 * and sets that in the attempt; it may call it when that was known before.
 */
ErrorData *
np_wal_attempt(NpWalAttempt *attempt, void (*function) (void *argument), void *argument)
{
	NpWalAttempts *attempts = attempt->attempts;
	ErrorData  *error;

	attempt->may_call_others = attempt->needs_others;
	error = attempts->is_careful || attempt->needs_others ? attempt_in_subtransaction(attempt, function, argument) :
		attempt_alone(attempt, function, argument);
	attempts->is_careful |= error != NULL;
	return error;
}

/* ---- Others' code --------------------------------------------------------------------------- */

/* Has others' code had its time in this transaction? */
static bool
is_late(const NpWalAttempts *attempts)
{
	return attempts->others_time > NP_MILLISECONDS(MAX_TRANSACTION_TIME + MORE_FOR_EACH_CHANGE * attempts->others_calls);
}

/* Has that of an owner, over all transactions? */
static bool
is_owner_late(Oid owner)
{
	const Owner *entry = owners == NULL ? NULL : hash_search(owners, &owner, HASH_FIND, NULL);

	return entry != NULL && np_patience_used(&entry->patience, np_now()) > NP_MILLISECONDS(MAX_OWNER_TIME);
}

/* Does it need others' code, which is not called? */
bool
np_wal_attempt_is_without_others(const NpWalAttempt *attempt)
{
	const NpWalAttempts *attempts = attempt->attempts;

	return attempt->needs_others &&
		(attempts->is_endless || attempts->others_error != NULL || is_late(attempts) || is_owner_late(attempt->owner));
}

NP_NORETURN static void
raise_endless(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("a cast to json or a condition in this transaction did not come to an end, and did not let itself be canceled")));
}

NP_NORETURN static void
raise_late(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("casts to json and conditions took too long in this transaction: more than %d s, and %d ms for each change",
					MAX_TRANSACTION_TIME / 1000, MORE_FOR_EACH_CHANGE)));
}

NP_NORETURN static void
raise_owner_late(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("casts to json and conditions of the table's owner took too long lately: more than %d s, and %d ms for each change",
					MAX_OWNER_TIME / 1000, MORE_FOR_EACH_CHANGE)));
}

/* Raises why, 54000 or what decoding ended with, when it needs others' code, and that is not called. */
void
np_wal_attempt_check_others(const NpWalAttempt *attempt)
{
	const NpWalAttempts *attempts = attempt->attempts;

	if (!np_wal_attempt_is_without_others(attempt))
		return;
	if (attempts->others_error != NULL)
		ereport(ERROR, (errcode(attempts->others_sqlstate), errmsg_internal("%s", attempts->others_error)));
	if (attempts->is_endless)
		raise_endless();
	if (is_late(attempts))
		raise_late();
	raise_owner_late();
}
