/*-------------------------------------------------------------------------
 *
 * futures.c
 *	  What the current transaction has published asynchronously.
 *
 * A future is the token of its message.  What has become of the critical ones
 * is counted by levels of subtransactions (levels.c).
 *
 * What has become of each future is kept for nats_await() and nats_futures()
 * in a tuplestore, which spills to disk beyond work_mem.  All is allocated in
 * the transaction's context; nothing that is called at its end throws.
 *
 * A tuplestore that has thrown can't even be closed, and what was not recorded is
 * known to nobody.  So a transaction of which a result could not be recorded
 * can't commit, though a savepoint may have caught the error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "ledger/futures.h"
#include "ledger/levels.h"

/* The columns of the ledger. */
enum
{
	LEDGER_FUTURE,
	LEDGER_CRITICAL,
	LEDGER_SUBJECT,
	LEDGER_ID,
	LEDGER_STREAM,
	LEDGER_DOMAIN,
	LEDGER_SEQUENCE,
	LEDGER_DUPLICATE,
	LEDGER_FAULT,
	LEDGER_TEXT,
	LEDGER_HINT,
	LEDGER_COLUMNS
};

/* Of the current transaction; a backend has one. */
static Tuplestorestate *ledger; /* of complete futures; NULL: none yet, or closed */
static bool closed;				/* the transaction ends: nobody reads it any more */
static bool incomplete;			/* a result could not be recorded */
static TupleDesc ledger_columns;

/* ---- What has become of the critical ones --------------------------------- */

/*
 * Count a future of the current subtransaction, which has a level.  Never throws.
 */
void
np_futures_add(bool critical)
{
	if (critical)
		np_levels_top()->outcome.awaited++;
}

/* Does the commit of this transaction depend on any message? */
bool
np_futures_are_critical(void)
{
	for (NpLevel *level = np_levels_top(); level != NULL; level = level->upper)
		if (level->outcome.awaited + level->outcome.acked + level->outcome.failed > 0)
			return true;
	return false;
}

/* How many messages the transaction still waits for. */
int64
np_futures_awaited(void)
{
	int64		awaited = 0;

	for (NpLevel *level = np_levels_top(); level != NULL; level = level->upper)
		awaited += level->outcome.awaited;
	return awaited;
}

/* How many critical messages of the transaction have failed. */
int64
np_futures_failed(void)
{
	int64		failed = 0;

	for (NpLevel *level = np_levels_top(); level != NULL; level = level->upper)
		failed += level->outcome.failed;
	return failed;
}

static void
record_failure(NpOutcome *outcome, const NpResult *result)
{
	MemoryContext previous = MemoryContextSwitchTo(TopTransactionContext);
	NpFailedMessage message;

	outcome->failed++;
	if (outcome->listed < NP_MAX_LISTED || result->token < outcome->list[NP_MAX_LISTED - 1].token)
	{
		message.token = result->token;
		message.subject = np_from_utf8(result->subject);
		message.failure = np_failure_copy(&result->failure, TopTransactionContext);
		np_outcome_list(outcome, &message);
	}
	MemoryContextSwitchTo(previous);
}

/* ---- The ledger ---------------------------------------------------------- */

static void
define_ledger(void)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[LEDGER_COLUMNS] = {
		[LEDGER_FUTURE] = {"future", INT8OID},
		[LEDGER_CRITICAL] = {"critical", BOOLOID},
		[LEDGER_SUBJECT] = {"subject", TEXTOID},
		[LEDGER_ID] = {"msg_id", TEXTOID},
		[LEDGER_STREAM] = {"stream", TEXTOID},
		[LEDGER_DOMAIN] = {"domain", TEXTOID},
		[LEDGER_SEQUENCE] = {"seq", INT8OID},
		[LEDGER_DUPLICATE] = {"duplicate", BOOLOID},
		[LEDGER_FAULT] = {"fault", INT4OID},
		[LEDGER_TEXT] = {"error", TEXTOID},
		[LEDGER_HINT] = {"hint", TEXTOID},
	};
	MemoryContext previous;

	if (ledger_columns != NULL)
		return;
	previous = MemoryContextSwitchTo(TopMemoryContext);
	ledger_columns = CreateTemplateTupleDesc(LEDGER_COLUMNS);
	for (int i = 0; i < LEDGER_COLUMNS; i++)
		TupleDescInitBuiltinEntry(ledger_columns, i + 1, columns[i].name, columns[i].type, -1, 0);
	np_compat_finalize(ledger_columns);
	MemoryContextSwitchTo(previous);
}

/* It belongs to the transaction, in whatever subtransaction it is first used. */
static void
open_ledger(void)
{
	MemoryContext previous_context;
	ResourceOwner previous_owner;

	define_ledger();
	previous_context = MemoryContextSwitchTo(TopTransactionContext);
	previous_owner = CurrentResourceOwner;
	CurrentResourceOwner = TopTransactionResourceOwner;
	ledger = tuplestore_begin_heap(true, false, work_mem);
	CurrentResourceOwner = previous_owner;
	MemoryContextSwitchTo(previous_context);
}

static void
set_text(Datum *value, bool *isnull, NpSpan text)
{
	if (text.data != NULL)
		*value = PointerGetDatum(cstring_to_text_with_len(text.data, text.length));
	else
		*isnull = true;
}

static NpSpan
span_of(const char *text)
{
	return (NpSpan) {text, text != NULL ? strlen(text) : 0};
}

/* Everything stays in UTF-8, but the failure's texts, which are the database's. */
static void
put_in_ledger(const NpResult *result)
{
	Datum		values[LEDGER_COLUMNS] = {0};
	bool		nulls[LEDGER_COLUMNS] = {false};

	if (ledger == NULL)
		open_ledger();
	values[LEDGER_FUTURE] = Int64GetDatum((int64) result->token);
	values[LEDGER_CRITICAL] = BoolGetDatum(result->critical);
	set_text(&values[LEDGER_SUBJECT], &nulls[LEDGER_SUBJECT], result->subject);
	set_text(&values[LEDGER_ID], &nulls[LEDGER_ID], result->id);
	if (result->acked)
	{
		set_text(&values[LEDGER_STREAM], &nulls[LEDGER_STREAM], result->ack.stream);
		set_text(&values[LEDGER_DOMAIN], &nulls[LEDGER_DOMAIN], result->ack.domain);
		values[LEDGER_SEQUENCE] = Int64GetDatum((int64) result->ack.sequence);
		values[LEDGER_DUPLICATE] = BoolGetDatum(result->ack.duplicate);
		nulls[LEDGER_FAULT] = nulls[LEDGER_TEXT] = nulls[LEDGER_HINT] = true;
	}
	else
	{
		nulls[LEDGER_STREAM] = nulls[LEDGER_DOMAIN] = true;
		nulls[LEDGER_SEQUENCE] = nulls[LEDGER_DUPLICATE] = true;
		values[LEDGER_FAULT] = Int32GetDatum(result->failure.fault);
		set_text(&values[LEDGER_TEXT], &nulls[LEDGER_TEXT], span_of(result->failure.text));
		set_text(&values[LEDGER_HINT], &nulls[LEDGER_HINT], span_of(result->failure.hint));
	}
	tuplestore_putvalues(ledger, ledger_columns, values, nulls);
}

static void
record(const NpResult *result)
{
	NpOutcome  *outcome = &np_levels_find(result->token)->outcome;

	if (result->critical)
	{
		outcome->awaited--;
		if (result->acked)
			outcome->acked++;
		else
			record_failure(outcome, result);
	}
	if (!closed)
		put_in_ledger(result);
}

/*
 * Record what has become of a message.  Allocates in the current context.
 *
 * Messages of other transactions (with critical => false) are none of ours.
 * ERROR when out of memory or of disk.
 */
void
np_futures_complete(const NpResult *result)
{
	if (incomplete || !np_levels_contain(result->token))
		return;
	incomplete = true;			/* should it throw */
	record(result);
	incomplete = false;
}

static void
raise_if_incomplete(void)
{
	if (incomplete)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("what became of the transaction's messages is not known any more"),
				 errdetail("There was no room to note it, in memory or on disk.")));
}

static NpSpan
get_text(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column + 1, &isnull);
	text	   *copy;

	if (isnull)
		return (NpSpan) {NULL, 0};
	copy = DatumGetTextPCopy(value);
	return (NpSpan) {VARDATA(copy), VARSIZE(copy) - VARHDRSZ};
}

static const char *
get_string(TupleTableSlot *slot, int column)
{
	NpSpan		text = get_text(slot, column);

	return text.data == NULL ? NULL : pnstrdup(text.data, text.length);
}

static int64
get_future(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, LEDGER_FUTURE + 1, &isnull));
}

static void
get_result(TupleTableSlot *slot, NpResult *result)
{
	bool		isnull;
	Datum		value;

	memset(result, 0, sizeof(*result));
	result->token = (uint64) get_future(slot);
	result->critical = DatumGetBool(slot_getattr(slot, LEDGER_CRITICAL + 1, &isnull));
	result->subject = get_text(slot, LEDGER_SUBJECT);
	result->id = get_text(slot, LEDGER_ID);
	value = slot_getattr(slot, LEDGER_SEQUENCE + 1, &isnull);
	result->acked = !isnull;
	if (result->acked)
	{
		result->ack.sequence = (uint64) DatumGetInt64(value);
		result->ack.stream = get_text(slot, LEDGER_STREAM);
		result->ack.domain = get_text(slot, LEDGER_DOMAIN);
		result->ack.duplicate = DatumGetBool(slot_getattr(slot, LEDGER_DUPLICATE + 1, &isnull));
		return;
	}
	result->failure.fault = (NpFault) DatumGetInt32(slot_getattr(slot, LEDGER_FAULT + 1, &isnull));
	result->failure.text = get_string(slot, LEDGER_TEXT);
	result->failure.hint = get_string(slot, LEDGER_HINT);
}

/*
 * Find a complete future of this transaction.  Its texts are palloc'd.
 */
bool
np_futures_find(uint64 token, NpResult *result)
{
	TupleTableSlot *slot;
	bool		found = false;

	raise_if_incomplete();
	if (ledger == NULL || !np_levels_contain(token))
		return false;
	slot = MakeSingleTupleTableSlot(ledger_columns, &TTSOpsMinimalTuple);
	tuplestore_rescan(ledger);
	while (!found && tuplestore_gettupleslot(ledger, true, false, slot))
	{
		found = get_future(slot) == (int64) token;
		if (found)
			get_result(slot, result);
	}
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/*
 * Call visit for each complete future of this transaction, in the order of
 * their completion.  What a result points to lives for the call.
 */
void
np_futures_each(void (*visit) (const NpResult *result, void *argument), void *argument)
{
	MemoryContext context;
	MemoryContext previous;
	TupleTableSlot *slot;

	raise_if_incomplete();
	if (ledger == NULL)
		return;
	slot = MakeSingleTupleTableSlot(ledger_columns, &TTSOpsMinimalTuple);
	context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish future",
									ALLOCSET_SMALL_SIZES);
	tuplestore_rescan(ledger);
	while (tuplestore_gettupleslot(ledger, true, false, slot))
	{
		NpResult	result;

		if (!np_levels_contain((uint64) get_future(slot)))
			continue;
		previous = MemoryContextSwitchTo(context);
		get_result(slot, &result);
		visit(&result, argument);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	ExecDropSingleTupleTableSlot(slot);
}

/* ---- Ends ---------------------------------------------------------------- */

/*
 * What has become of the messages, for an ERROR that is not about one of them.
 * What is awaited may be stored; more_failed and unsent are not among them.
 * palloc'd; NULL: none was sent.
 */
char *
np_futures_describe(int64 more_failed, int64 unsent)
{
	NpTransactionReport report = {.failed = more_failed,.unsent = unsent};

	if (!np_futures_are_critical())
		return NULL;
	for (NpLevel *level = np_levels_top(); level != NULL; level = level->upper)
	{
		report.acked += level->outcome.acked;
		report.failed += level->outcome.awaited + level->outcome.failed;
	}
	return np_describe_transaction(&report);
}

/*
 * Raise the ERROR of the critical messages that failed, if there are any.
 * unsent is how many the transaction holds that were not sent because of it.
 */
void
np_futures_raise_failures(int64 unsent)
{
	NpOutcome	all = {0};
	NpTransactionReport report = {.unsent = unsent};

	raise_if_incomplete();
	for (NpLevel *level = np_levels_top(); level != NULL; level = level->upper)
		np_outcome_merge(&all, &level->outcome);
	if (all.failed == 0)
		return;
	report.list = all.list;
	report.listed = all.listed;
	report.failed = all.failed;
	report.acked = all.acked;
	np_raise_transaction(&report);
}

/*
 * The transaction begins to end: free what a successful one must not leave to
 * its resource owner.  ERROR when it can't be successful.
 */
void
np_futures_close(void)
{
	raise_if_incomplete();
	closed = true;
	if (ledger != NULL)
		tuplestore_end(ledger);
	ledger = NULL;
}

/* The transaction has ended; its context takes the memory. */
void
np_futures_reset(void)
{
	closed = incomplete = false;
	ledger = NULL;
}
