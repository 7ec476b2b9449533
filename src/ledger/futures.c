/*-------------------------------------------------------------------------
 *
 * futures.c
 *	  What the current transaction has published asynchronously.
 *
 * A future is the token of its message.  What has become of the critical ones
 * is counted by levels of subtransactions (levels.c).
 *
 * What has become of each future is kept for nats_await() and nats_futures()
 * in a log, and where in that it is, once somebody asks for one: memory for an
 * index is taken only by a transaction that awaits what is complete already,
 * and which has these futures in hand anyway.  All is allocated in the
 * transaction's context; nothing that is called at its end throws.
 *
 * What could not be recorded is known to nobody.  So a transaction of which
 * that is so can't commit, though a savepoint may have caught the error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/encoding.h"
#include "ledger/futures.h"
#include "ledger/levels.h"
#include "ledger/log.h"

/* The texts of a record, each with a zero byte behind it. */
enum
{
	TEXT_SUBJECT,
	TEXT_ID,
	TEXT_STREAM,
	TEXT_DOMAIN,
	TEXT_VALUE,
	TEXT_ERROR,
	TEXT_HINT,
	TEXTS
};

/* Before the texts of each complete future in the log. */
typedef struct Record
{
	uint64		token;
	uint64		sequence;		/* when acked */
	int32		fault;			/* when not */
	bool		critical;
	bool		acked;
	bool		duplicate;
	uint32		sizes[TEXTS];	/* of the texts, with the zero byte; 0: absent */
} Record;

/* Of the current transaction; a backend has one. */
static NpLog ledger = {.what = "futures",.file = -1};	/* of complete ones */
static bool closed;				/* the transaction ends: nobody reads it any more */
static bool incomplete;			/* a result could not be recorded */

/* Where the records begin, counted from 1; 0: nowhere.  By tokens, from first_token on. */
static uint64 *positions;		/* NULL: nobody has asked */
static uint64 positions_size;
static uint64 first_token;		/* 0: there is none */
static uint64 indexed;			/* the part of the ledger that it covers */

/* ---- What has become of the critical ones --------------------------------- */

/*
 * Count a future of the current subtransaction, which has a level.  Never throws.
 */
void
np_futures_add(bool critical)
{
	if (first_token == 0)
		first_token = np_levels_top()->first;
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

static NpSpan
span_of(const char *text)
{
	return (NpSpan) {text, text != NULL ? strlen(text) : 0};
}

static size_t
record_size(const Record *record)
{
	size_t		size = sizeof(Record);

	for (int i = 0; i < TEXTS; i++)
		size += record->sizes[i];
	return size;
}

/* The texts stay in UTF-8, but the failure's, which are the database's. */
static void
put_in_ledger(const NpResult *result)
{
	Record		record = {
		.token = result->token,
		.critical = result->critical,
		.acked = result->acked
	};
	NpSpan		texts[TEXTS] = {[TEXT_SUBJECT] = result->subject,[TEXT_ID] = result->id};
	char	   *to;

	if (result->acked)
	{
		record.sequence = result->ack.sequence;
		record.duplicate = result->ack.duplicate;
		texts[TEXT_STREAM] = result->ack.stream;
		texts[TEXT_DOMAIN] = result->ack.domain;
		texts[TEXT_VALUE] = result->ack.value;
	}
	else
	{
		record.fault = result->failure.fault;
		texts[TEXT_ERROR] = span_of(result->failure.text);
		texts[TEXT_HINT] = span_of(result->failure.hint);
	}
	for (int i = 0; i < TEXTS; i++)
		record.sizes[i] = texts[i].data != NULL ? texts[i].length + 1 : 0;
	to = np_log_append(&ledger, record_size(&record));
	memcpy(to, &record, sizeof(record));
	to += sizeof(record);
	for (int i = 0; i < TEXTS; i++)
	{
		if (texts[i].data == NULL)
			continue;
		memcpy(to, texts[i].data, texts[i].length);
		to[texts[i].length] = '\0';
		to += record.sizes[i];
	}
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

/* What a record says; the result points to its texts. */
static void
get_result(const Record *record, const char *texts, NpResult *result)
{
	NpSpan		spans[TEXTS];

	for (int i = 0; i < TEXTS; i++)
	{
		spans[i] = record->sizes[i] > 0 ? (NpSpan) {texts, record->sizes[i] - 1} : (NpSpan) {NULL, 0};
		texts += record->sizes[i];
	}
	memset(result, 0, sizeof(*result));
	result->token = record->token;
	result->critical = record->critical;
	result->acked = record->acked;
	result->subject = spans[TEXT_SUBJECT];
	result->id = spans[TEXT_ID];
	result->ack.sequence = record->sequence;
	result->ack.duplicate = record->duplicate;
	result->ack.stream = spans[TEXT_STREAM];
	result->ack.domain = spans[TEXT_DOMAIN];
	result->ack.value = spans[TEXT_VALUE];
	result->failure.fault = (NpFault) record->fault;
	result->failure.text = spans[TEXT_ERROR].data;
	result->failure.hint = spans[TEXT_HINT].data;
}

/* The fixed part of the record at *position, which becomes the next one's.  False: there is none. */
static bool
next_record(uint64 *position, Record *record)
{
	if (*position >= np_log_length(&ledger))
		return false;
	CHECK_FOR_INTERRUPTS();
	memcpy(record, np_log_read(&ledger, *position, sizeof(*record)), sizeof(*record));
	*position += record_size(record);
	return true;
}

/* The texts of a record that ends at a position. */
static const char *
texts_of(const Record *record, uint64 end)
{
	return np_log_read(&ledger, end - record_size(record), record_size(record)) + sizeof(Record);
}

/* ---- Which future is where --------------------------------------------------- */

static void
grow_index(uint64 needed)
{
	uint64		size = Max(needed, positions_size * 2);

	if (positions == NULL)
		positions = MemoryContextAllocHuge(TopTransactionContext, size * sizeof(uint64));
	else
		positions = repalloc_huge(positions, size * sizeof(uint64));
	memset(positions + positions_size, 0, (size - positions_size) * sizeof(uint64));
	positions_size = size;
}

/* Note where the records are that have come since this was done the last time. */
static void
bring_index_up_to_date(void)
{
	uint64		position = indexed;
	Record		record;

	while (next_record(&position, &record))
	{
		uint64		number = record.token - first_token;

		if (number >= positions_size)
			grow_index(number + 1);
		positions[number] = indexed + 1;
		indexed = position;
	}
}

/*
 * Find a complete future of this transaction.  Its texts are palloc'd.
 */
bool
np_futures_find(uint64 token, NpResult *result)
{
	Record		record;
	uint64		position;
	char	   *texts;
	size_t		length;

	raise_if_incomplete();
	if (!np_levels_contain(token) || token < first_token)
		return false;
	bring_index_up_to_date();
	if (token - first_token >= positions_size || positions[token - first_token] == 0)
		return false;
	position = positions[token - first_token] - 1;
	(void) next_record(&position, &record);
	length = record_size(&record) - sizeof(Record);
	texts = palloc(length);
	memcpy(texts, texts_of(&record, position), length);
	get_result(&record, texts, result);
	return true;
}

/*
 * Call visit for each complete future of this transaction, in the order of
 * their completion.  What a result points to lives for the call.
 */
void
np_futures_each(void (*visit) (const NpResult *result, void *argument), void *argument)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish future",
												  ALLOCSET_SMALL_SIZES);
	uint64		position = 0;
	Record		record;

	raise_if_incomplete();
	while (next_record(&position, &record))
	{
		MemoryContext previous;
		NpResult	result;

		if (!np_levels_contain(record.token))
			continue;
		get_result(&record, texts_of(&record, position), &result);
		previous = MemoryContextSwitchTo(context);
		visit(&result, argument);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
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
	np_log_close(&ledger);
}

/* The transaction has ended; its context takes the memory. */
void
np_futures_reset(void)
{
	closed = incomplete = false;
	np_log_reset(&ledger);
	positions = NULL;
	positions_size = first_token = indexed = 0;
}
