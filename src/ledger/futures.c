/*-------------------------------------------------------------------------
 *
 * futures.c
 *	  What the current transaction has published asynchronously.
 *
 * A future is the token of its message.  Tokens grow with every call, so the
 * futures of a subtransaction are the ones from its first on, until it ends:
 * a level needs to remember no more of them than the first, and a rollback
 * takes a range of them away.  As in async.c, levels are merged into their
 * parent at subcommit and dropped at subabort.
 *
 * What has become of each future is kept for nats_await() and nats_futures()
 * in a tuplestore, which spills to disk beyond work_mem.  All is allocated in
 * the transaction's context; nothing that is called at its end throws.
 *
 * A tuplestore that has thrown can't even be closed, and what was not noted is
 * known to nobody.  So a transaction of which a result could not be noted
 * can't commit, though a savepoint may have caught the error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/encoding.h"
#include "ledger/futures.h"
#include "ledger/level.h"

/* How many failed messages of a level are kept for the report. */
#define MAX_LISTED	5

typedef struct Level
{
	struct Level *upper;
	int			nest_level;
	uint64		first;			/* the first future of this level */
	int64		awaited;		/* critical and not complete */
	int64		acked;			/* critical and stored */
	int64		failed;			/* critical and not */
	int			listed;
	NpFailedMessage list[MAX_LISTED];	/* the first failed ones in call order */
} Level;

typedef struct Range
{
	uint64		from;
	uint64		to;				/* not included */
} Range;

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

static Level *top;				/* NULL: nothing published asynchronously */
static int	depth;				/* of levels */
static int64 awaited;			/* in all levels */

static Tuplestorestate *ledger; /* of complete futures; NULL: none yet, or closed */
static bool closed;				/* the transaction ends: nobody reads it any more */
static bool incomplete;			/* a result could not be noted */
static TupleDesc ledger_columns;

/* Futures of rolled-back subtransactions, in order, with room for all levels. */
static Range *dead;
static int	dead_count;
static int	dead_room;

/* ---- Levels -------------------------------------------------------------- */

/* So that a rollback needs no memory. */
static void
make_dead_room(void)
{
	int			room = Max(8, dead_room * 2);

	if (dead_room >= dead_count + depth + 1)
		return;
	if (dead == NULL)
		dead = MemoryContextAlloc(TopTransactionContext, room * sizeof(Range));
	else
		dead = repalloc_huge(dead, room * sizeof(Range));
	dead_room = room;
}

/*
 * Have a level for a future of the current subtransaction, before its message
 * can be sent: if there is no room for it, nobody must know of the future.
 */
void
np_futures_enter_level(uint64 token)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	Level	   *level;

	if (top != NULL && top->nest_level >= nest_level)
		return;
	make_dead_room();
	level = MemoryContextAllocZero(TopTransactionContext, sizeof(Level));
	level->upper = top;
	level->nest_level = nest_level;
	level->first = token;
	top = level;
	depth++;
}

/*
 * Note a future of the current subtransaction, which has a level.  Never throws.
 */
void
np_futures_add(bool critical)
{
	if (critical)
	{
		top->awaited++;
		awaited++;
	}
}

/* Does the commit of this transaction depend on any message? */
bool
np_futures_are_critical(void)
{
	for (Level *level = top; level != NULL; level = level->upper)
		if (level->awaited + level->acked + level->failed > 0)
			return true;
	return false;
}

/* How many messages the transaction still waits for. */
int64
np_futures_awaited(void)
{
	return awaited;
}

static Level *
level_of(uint64 token)
{
	Level	   *level = top;

	while (level != NULL && token < level->first)
		level = level->upper;
	return level;
}

/* Is it a future of this transaction that was not rolled back? */
bool
np_futures_contain(uint64 token)
{
	int			low = 0;
	int			high = dead_count;

	if (level_of(token) == NULL)
		return false;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (token < dead[middle].from)
			high = middle;
		else if (token >= dead[middle].to)
			low = middle + 1;
		else
			return false;
	}
	return true;
}

/* Insert into a level's list of its first failures, if it is one of them. */
static void
list_failure(Level *level, const NpFailedMessage *message)
{
	int			place = Min(level->listed, MAX_LISTED - 1);

	if (level->listed == MAX_LISTED && level->list[place].token < message->token)
		return;
	while (place > 0 && level->list[place - 1].token > message->token)
	{
		level->list[place] = level->list[place - 1];
		place--;
	}
	level->list[place] = *message;
	level->listed = Min(level->listed + 1, MAX_LISTED);
}

static void
note_failure(Level *level, const NpResult *result)
{
	MemoryContext previous = MemoryContextSwitchTo(TopTransactionContext);
	NpFailedMessage message;

	level->failed++;
	if (level->listed < MAX_LISTED || result->token < level->list[MAX_LISTED - 1].token)
	{
		message.token = result->token;
		message.subject = np_from_utf8(result->subject);
		message.failure = np_failure_copy(&result->failure, TopTransactionContext);
		list_failure(level, &message);
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
note(const NpResult *result)
{
	Level	   *level = level_of(result->token);

	if (result->critical)
	{
		level->awaited--;
		awaited--;
		if (result->acked)
			level->acked++;
		else
			note_failure(level, result);
	}
	if (!closed)
		put_in_ledger(result);
}

/*
 * Note what has become of a message.  Allocates in the current context.
 *
 * Messages of other transactions (with critical => false) are none of ours.
 * ERROR when out of memory or of disk.
 */
void
np_futures_complete(const NpResult *result)
{
	if (incomplete || !np_futures_contain(result->token))
		return;
	incomplete = true;			/* should it throw */
	note(result);
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
	if (ledger == NULL || !np_futures_contain(token))
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

		if (!np_futures_contain((uint64) get_future(slot)))
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

/* Add what became of a level's messages to another level. */
static void
merge_results(Level *into, const Level *from)
{
	into->awaited += from->awaited;
	into->acked += from->acked;
	into->failed += from->failed;
	for (int i = 0; i < from->listed; i++)
		list_failure(into, &from->list[i]);
}

/* How many critical messages of the transaction have failed. */
int64
np_futures_failed(void)
{
	int64		failed = 0;

	for (Level *level = top; level != NULL; level = level->upper)
		failed += level->failed;
	return failed;
}

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
	for (Level *level = top; level != NULL; level = level->upper)
	{
		report.acked += level->acked;
		report.failed += level->awaited + level->failed;
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
	Level		all = {0};
	NpTransactionReport report = {.unsent = unsent};

	raise_if_incomplete();
	for (Level *level = top; level != NULL; level = level->upper)
		merge_results(&all, level);
	if (all.failed == 0)
		return;
	report.list = all.list;
	report.listed = all.listed;
	report.failed = all.failed;
	report.acked = all.acked;
	np_raise_transaction(&report);
}

/* The subtransaction's futures become its parent's. */
void
np_futures_subcommit(int nest_level)
{
	Level	   *level = top;

	if (level == NULL ||
		!np_level_must_merge(&level->nest_level, level->upper ? level->upper->nest_level : 0, nest_level))
		return;
	merge_results(level->upper, level);
	top = level->upper;
	depth--;
	pfree(level);
}

/* Room was made when the level was. */
static void
bury(uint64 from, uint64 to)
{
	while (dead_count > 0 && dead[dead_count - 1].from >= from)
		dead_count--;
	if (dead_count > 0 && dead[dead_count - 1].to == from)
		dead[dead_count - 1].to = to;
	else
		dead[dead_count++] = (Range) {from, to};
}

/*
 * The subtransaction's futures no longer count.
 *
 * Returns the first of them (all up to next_token are gone), or 0: it had
 * none.  Can be called more than once for a level (async.c AtSubAbort_Notify).
 */
uint64
np_futures_subabort(int nest_level, uint64 next_token)
{
	uint64		first = 0;

	while (top != NULL && top->nest_level >= nest_level)
	{
		Level	   *level = top;

		first = level->first;
		awaited -= level->awaited;
		top = level->upper;
		depth--;
		pfree(level);
	}
	if (first != 0)
		bury(first, next_token);
	return first;
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
np_futures_forget(void)
{
	top = NULL;
	depth = 0;
	awaited = 0;
	closed = incomplete = false;
	ledger = NULL;
	dead = NULL;
	dead_count = dead_room = 0;
}
