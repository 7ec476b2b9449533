/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  nats_publish_rows(): the rows of a table that are there already.
 *
 * In chunks of the key's order, a transaction each.  No older state of a row
 * follows a newer one in the stream, for a row is read under a lock that
 * whoever changes it must wait for, and his message goes out after the chunk
 * has committed, when all of it is acknowledged, or has its place in the
 * outbox.  Whoever was first is waited for by us, and the row is read as he has
 * left it.  This is so in each delivery in which a change's message goes out,
 * or gets its place, while the change still has its row lock; and if changes
 * are read from the WAL, where they are in the order in which transactions
 * have committed: what is read is written there as a part of the chunk's.
 *
 * It is so with only_missing, too: that a subject has no message says nothing
 * of a row whose key was changed, for that is told to the new key's subject.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subtransaction.h"
#include "base/user.h"
#include "base/wait.h"
#include "change/change_publish.h"
#include "change/rows_run.h"
#include "change/rows_source.h"
#include "commit/transaction.h"
#include "ledger/futures.h"
#include "message/header_json.h"
#include "publish/await.h"
#include "publish/policy.h"
#include "publish/publisher.h"

PG_FUNCTION_INFO_V1(nats_publish_rows);

/* How often the client is told how far it is. */
#define TELL_INTERVAL		NP_MILLISECONDS(5000)

/* A dry run shows so many messages, and of each so many bytes. */
#define SHOWN_MESSAGES		3
#define SHOWN_BYTES			1000

#define MAX_BATCH			1000000

/* At a chunk. */
#define MAX_ATTEMPTS		20

/* The arguments of nats_publish_rows(). */
enum
{
	ARG_RELATION,
	ARG_CONDITION,
	ARG_SUBJECT,
	ARG_BATCH,
	ARG_PAUSE,
	ARG_ONLY_MISSING,
	ARG_TRIGGER,
	ARG_RESTART,
	ARG_DRY_RUN
};

typedef struct Call
{
	NpRowsOptions options;
	int			batch;			/* rows of a chunk */
	NpTime		pause;			/* after each */
	bool		anew;
	MemoryContext context;		/* of the call */
	const char *table;			/* its name */
	NpRowsRun	run;
	NpTime		began;
	NpTime		told;			/* the client, last */
} Call;

/* The rows of a chunk, or of a dry run. */
typedef struct Passage
{
	NpRowsPlan *plan;
	MemoryContext context;		/* of one row */
	int64		count;			/* of those that are to be published */
	bool		is_counted;		/* a dry run has another way to count them */
} Passage;

/* ---- Arguments ------------------------------------------------------------------ */

static char *
get_string(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

static bool
get_flag(FunctionCallInfo fcinfo, int argument)
{
	return !PG_ARGISNULL(argument) && PG_GETARG_BOOL(argument);
}

static NpTime
get_pause(FunctionCallInfo fcinfo)
{
	const Interval *span = PG_ARGISNULL(ARG_PAUSE) ? NULL : PG_GETARG_INTERVAL_P(ARG_PAUSE);

	double		days = span == NULL ? 0 : span->month * (double) DAYS_PER_MONTH + span->day + span->time / (double) USECS_PER_DAY;

	if (days < 0 || days >= 2)
		np_raise_input("pause must not be negative, and must be less than two days");
	return (NpTime) rint(days * USECS_PER_DAY);
}

static void
read_call(Call *call, FunctionCallInfo fcinfo)
{
	NpFailure	failure;

	if (PG_ARGISNULL(ARG_RELATION))
	{
		failure = np_failure(NP_FAULT_NULL, "relation must not be null");
		np_raise(&failure);
	}
	call->options = (NpRowsOptions)
	{
		.schema = get_func_namespace(fcinfo->flinfo->fn_oid),
			.relation = PG_GETARG_OID(ARG_RELATION),
			.condition = get_string(fcinfo, ARG_CONDITION),
			.subject = get_string(fcinfo, ARG_SUBJECT),
			.trigger = PG_ARGISNULL(ARG_TRIGGER) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(ARG_TRIGGER))),
			.only_missing = get_flag(fcinfo, ARG_ONLY_MISSING)
	};
	if (call->options.condition != NULL)
		np_rows_check_condition(call->options.condition);
	call->table = get_rel_name(call->options.relation);
	if (call->table == NULL)
	{
		failure = np_failure(NP_FAULT_RELATION, "there is no table with OID %u", call->options.relation);
		np_raise(&failure);
	}
	call->batch = PG_ARGISNULL(ARG_BATCH) ? 0 : PG_GETARG_INT32(ARG_BATCH);
	if (call->batch < 1 || call->batch > MAX_BATCH)
		np_raise_input("batch must be from 1 to %d", MAX_BATCH);
	call->pause = get_pause(fcinfo);
	call->anew = get_flag(fcinfo, ARG_RESTART);
	call->context = CurrentMemoryContext;
}

/* As the statements will ask, but before anything is written down. */
static void
require_privileges(const NpRowsOptions *options)
{
	AclMode		mode = ACL_SELECT | ACL_UPDATE;

	if (pg_class_aclmask(options->relation, GetUserId(), mode, ACLMASK_ALL) != mode)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(options->relation));
}

/* Its lock is that of who reads and locks rows. */
static Relation
open_table(const Call *call)
{
	Relation	relation = try_relation_open(call->options.relation, RowShareLock);
	NpFailure	failure;

	if (relation == NULL)
		failure = np_failure(NP_FAULT_RELATION, "table \"%s\" is not there any more", call->table);
	else if (relation->rd_rel->relkind != RELKIND_RELATION && relation->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		failure = np_failure(NP_FAULT_RELATION, "\"%s\" is not a table whose rows can be locked", call->table);
	else
		return relation;
	np_raise(&failure);
}

static void
begin_passage(Passage *passage, Relation relation, const NpRowsOptions *options, const char *run)
{
	*passage = (Passage)
	{
		.plan = np_rows_plan_make(relation, options, run),
			.context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish row", ALLOCSET_DEFAULT_SIZES)
	};
}

/* What is said of the row that the plan has taken. */
static NpChange
read_change(const Passage *passage, TransactionId version)
{
	return (NpChange)
	{
		.op = NP_READ,
			.transaction = np_change_transaction(),
			.new = passage->plan->slot,
			.version = version,
			.maker = passage->plan->owner
	};
}

/* ---- A dry run ----------------------------------------------------------------------- */

static char *
shorten(NpSpan utf8)
{
	NpSpan		start = {utf8.data, Min(utf8.length, SHOWN_BYTES)};

	return psprintf("%s%s", np_from_utf8(np_utf8_mend(start)), utf8.length > SHOWN_BYTES ? " ..." : "");
}

static void
show(const Passage *passage, const NpChange *change)
{
	NpMessage	message;

	np_change_message_build(&message, passage->plan->plan, change);
	np_policy_check_message(&message);
	ereport(NOTICE,
			(errmsg("message %lld would go to \"%s\"", (long long) passage->count, np_from_utf8(message.subject)),
			 errdetail("%s\n%s", np_message_headers_to_json(message.headers),
					   message.payload.data == NULL ? "" : shorten(message.payload))));
}

/* Shows the first ones; goes on if they must be looked at to be counted. */
static bool
show_row(void *argument, Datum row, TransactionId version)
{
	Passage    *passage = argument;
	MemoryContext previous = MemoryContextSwitchTo(passage->context);

	if (np_rows_plan_takes(passage->plan, row) && ++passage->count <= SHOWN_MESSAGES)
	{
		NpChange	change = read_change(passage, version);

		change.lsn = GetXLogInsertRecPtr();
		if (passage->plan->plan->has_position)
			change.position = (NpChangePosition) {passage->count, passage->count, ""};
		show(passage, &change);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(passage->context);
	return !passage->is_counted || passage->count < SHOWN_MESSAGES;
}

static void
show_rows(const Call *call)
{
	NpRowsRange all = {NULL, NULL};
	Relation	relation = relation_open(call->options.relation, AccessShareLock);
	Passage		passage;

	SPI_connect();
	begin_passage(&passage, relation, &call->options, "run");
	passage.is_counted = passage.plan->when == NULL;
	np_rows_read(relation, &call->options, passage.plan->key, &all, false, show_row, &passage);
	if (passage.is_counted)
		passage.count = np_rows_count(relation, &call->options);
	ereport(NOTICE,
			(errmsg_plural("%lld row of table \"%s\" would be published", "%lld rows of table \"%s\" would be published",
						   (unsigned long) passage.count, (long long) passage.count, call->table)));
	np_rows_plan_free(passage.plan);
	SPI_finish();
	relation_close(relation, NoLock);
}

/* ---- A chunk --------------------------------------------------------------------------- */

static bool
publish_row(void *argument, Datum row, TransactionId version)
{
	Passage    *passage = argument;
	MemoryContext previous = MemoryContextSwitchTo(passage->context);

	if (np_rows_plan_takes(passage->plan, row))
	{
		NpChange	change = read_change(passage, version);

		np_change_publish(passage->plan->schema, passage->plan->plan, &change);
		passage->count++;
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(passage->context);
	/* else COMMIT will say what has */
	return np_futures_failed() == 0;
}

/* What is behind a key is behind it in this order only. */
static void
require_same_order(const Call *call, const NpRowsKey *key)
{
	NpFailure	failure;

	if (strcmp(np_rows_key_order(key), call->run.order) == 0)
		return;
	failure = np_failure(NP_FAULT_RUN, "the key of table \"%s\" has become another one while its rows were published", call->table);
	failure.hint = "Use restart => true to start over.";
	np_raise(&failure);
}

/* A message that may be refused has been when it is acknowledged as a duplicate. */
static void
count_refused(const NpResult *result, void *count)
{
	if (result->critical && result->acked && result->ack.duplicate)
		++* (int64 *) count;
}

/* Of the messages that may be refused, which wait for nothing else. */
static int64
await_refused(void)
{
	int64		count = 0;

	np_await_as_commit();
	np_futures_each(count_refused, &count);
	return count;
}

static void
count_published(Call *call, const Passage *passage)
{
	int64		left_out = call->options.only_missing ? await_refused() : 0;

	call->run.left_out += left_out;
	call->run.published += passage->count - left_out;
}

/* The key up to which all rows are done; what is needed to write it is gone with the chunk. */
static void
keep_key(Call *call, const NpRowsKey *key, const Datum *values)
{
	ArrayType  *text = np_rows_key_to_text(key, values);
	MemoryContext previous = MemoryContextSwitchTo(call->context);

	call->run.last_key = DatumGetArrayTypePCopy(PointerGetDatum(text));
	MemoryContextSwitchTo(previous);
}

/* Behind which rows follow, or NULL: a domain of the owner's has checks. */
static Datum *
read_key(const Call *call, const NpRowsPlan *plan)
{
	NpUser		caller;
	Datum	   *values;

	if (call->run.last_key == NULL)
		return NULL;
	np_user_become_owner(&caller, plan->owner);
	values = np_rows_key_from_text(plan->key, call->run.last_key);
	np_user_return(&caller);
	return values;
}

/* Publish the next rows; false: there are no more. */
static bool
publish_chunk(Call *call, Relation relation)
{
	NpRowsRange range;
	Passage		passage;
	int64		count;

	begin_passage(&passage, relation, &call->options, call->run.id);
	require_same_order(call, passage.plan->key);
	range.after = read_key(call, passage.plan);
	range.last = np_rows_find_last(relation, passage.plan->key, range.after, call->batch, &count);
	if (range.last != NULL)
	{
		/* rather than that each message finds out that it can't be sent */
		if (!np_delivery_is_relayed(passage.plan->plan->delivery))
			(void) np_publisher_connect();
		np_rows_read(relation, &call->options, passage.plan->key, &range, true, publish_row, &passage);
		keep_key(call, passage.plan->key, range.last);
	}
	call->run.read += count;
	count_published(call, &passage);
	np_rows_plan_free(passage.plan);
	return count == call->batch;
}

static void
require_publishing(void)
{
	if (np_publishing != NP_PUBLISHING_ON)
		np_raise_fault(NP_FAULT_NOT_PERMITTED, "Switch it on again and repeat the call: it goes on from there.",
					   "nats_publish.publishing is no longer on");
}

/* A chunk, and how it has ended. */
typedef struct Chunk
{
	Call	   *call;
	bool		is_last;
	NpRowsWish	wish;
} Chunk;

static void
work_on_chunk(void *argument)
{
	Chunk	   *chunk = argument;
	Call	   *call = chunk->call;
	Relation	relation;

	require_publishing();
	np_transaction_join();
	SPI_connect();
	relation = open_table(call);
	chunk->is_last = !publish_chunk(call, relation);
	chunk->wish = np_rows_run_save(&call->run, chunk->is_last);
	relation_close(relation, NoLock);
	SPI_finish();
}

/* ---- Transactions --------------------------------------------------------------------------- */

/* The error that is being handled, kept in the call's context. */
static ErrorData *
take_error(const Call *call)
{
	ErrorData  *error;

	MemoryContextSwitchTo(call->context);
	error = CopyErrorData();
	FlushErrorState();
	return error;
}

/* In a subtransaction, as SPI can't end a transaction in the middle of a statement that has failed. */
static ErrorData *
try_chunk(Chunk *chunk)
{
	Call	   *call = chunk->call;
	NpRowsRun	before = call->run;
	ErrorData  *error;

	MemoryContextSwitchTo(call->context);
	error = np_try_subtransaction(work_on_chunk, chunk);
	if (error != NULL)
		call->run = before;
	else if (before.last_key != NULL && before.last_key != call->run.last_key)
		pfree(before.last_key);
	return error;
}

/*
 * The same, again and again for who is in the way of others: was chosen to end
 * a deadlock, or has met a row that was moved to another partition.
 */
static ErrorData *
try_chunk_again(Chunk *chunk)
{
	ErrorData  *error = try_chunk(chunk);

	for (int i = 1; i < MAX_ATTEMPTS && error != NULL && (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
														  error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE); i++)
	{
		FreeErrorData(error);
		error = try_chunk(chunk);
	}
	return error;
}

/* Where the messages of most deliveries are waited for.  A new transaction has begun in any case. */
static ErrorData *
try_commit(const Call *call)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		SPI_commit();
	}
	PG_CATCH();
	{
		error = take_error(call);
	}
	PG_END_TRY();
	return error;
}

/*
 * Of a new transaction: it sees what was committed, also what it has waited
 * for; and a chunk is nothing that has to be stored as one, which would be
 * refused when it has been before.
 */
static void
prepare_transaction(void)
{
	if (XactIsoLevel != XACT_READ_COMMITTED)
		SetConfigOption("transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	if (np_commit_batch != NP_COMMIT_PIPELINED)
		(void) set_config_option("nats_publish.commit_batch", "pipelined", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	EnsurePortalSnapshotExists();
}

/*
 * No chunk waits for its WAL to be on disk, but the last one, which then waits
 * for that of all: what a crash takes back was published, and is read again,
 * under the same ids.  What is stored has nothing of that WAL to wait for.
 */
static void
commit_sooner(void)
{
	if (synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Publish and commit a chunk, or raise what was wrong, when that is written down; that somebody has cancelled it is not. */
static void
commit_chunk(Chunk *chunk)
{
	Call	   *call = chunk->call;
	ErrorData  *error;

	prepare_transaction();
	error = try_chunk_again(chunk);
	if (error == NULL)
	{
		if (!chunk->is_last && chunk->wish == NP_ROWS_GO_ON)
			commit_sooner();
		error = try_commit(call);
	}
	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_QUERY_CANCELED)
	{
		EnsurePortalSnapshotExists();
		np_rows_run_fail(&call->run, psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message));
		SPI_commit();
	}
	ReThrowError(error);
}

/* ---- A run ------------------------------------------------------------------------------------ */

/* ", about 00:01:30 to go", or nothing */
static const char *
estimate(const NpRowsRun *run, double rate)
{
	Interval	left = {0};

	if (run->expected <= run->read || rate <= 0)
		return "";
	left.time = (int64) ((run->expected - run->read) / rate) * USECS_PER_SEC;
	return psprintf(", about %s to go", DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&left))));
}

static void
tell(Call *call)
{
	const NpRowsRun *run = &call->run;
	NpTime		now = np_now();
	double		rate = (run->read - run->before) * 1e6 / Max(now - call->began, 1);

	if (now - call->told < TELL_INTERVAL)
		return;
	call->told = now;
	ereport(NOTICE,
			(errmsg("%lld rows of table \"%s\" have been read%s, %.0f a second%s", (long long) run->read, call->table,
					run->expected > run->read ? psprintf(" of about %lld", (long long) run->expected) : "", rate,
					estimate(run, rate))));
}

static void
wait_for_next(const Call *call)
{
	NpTime		end = np_now() + call->pause;

	CHECK_FOR_INTERRUPTS();
	while (np_now() < end)
		np_sleep(NP_WAIT_ROWS, end);
}

static void
begin_run(Call *call)
{
	Relation	relation;

	prepare_transaction();
	require_privileges(&call->options);
	relation = open_table(call);
	np_rows_run_begin(&call->run, &call->options, np_rows_plan_make(relation, &call->options, "run")->key, call->anew);
	relation_close(relation, NoLock);
	SPI_commit();
	call->began = call->told = np_now();
}

/* Somebody wants no more. */
NP_NORETURN static void
raise_stopped(const Call *call, NpRowsWish wish)
{
	NpFailure	failure = np_failure(NP_FAULT_STOPPED, "publishing the rows of table \"%s\" was stopped", call->table);

	if (wish == NP_ROWS_FORGET)
		failure.hint = "The same call begins with the first row again.";
	np_raise(&failure);
}

static void
tell_end(const Call *call)
{
	const NpRowsRun *run = &call->run;

	ereport(NOTICE,
			(errmsg("rows of table \"%s\": %lld published%s, of %lld read", call->table, (long long) run->published,
					call->options.only_missing ? psprintf(", %lld left out", (long long) run->left_out) : "",
					(long long) run->read)));
}

static void
publish_rows(Call *call)
{
	Chunk		chunk = {.call = call};

	begin_run(call);
	while (!chunk.is_last)
	{
		commit_chunk(&chunk);
		if (chunk.wish != NP_ROWS_GO_ON && !chunk.is_last)
			raise_stopped(call, chunk.wish);
		tell(call);
		if (!chunk.is_last)
			wait_for_next(call);
	}
	tell_end(call);
}

static void
publish_rows_alone(Call *call)
{
	LOCKTAG		lock;
	NpFailure	failure;

	if (!np_rows_run_lock(&lock, call->options.schema, call->options.relation))
	{
		failure = np_failure(NP_FAULT_RUN, "another session publishes the rows of table \"%s\"", call->table);
		failure.hint = "See nats_publish_rows_progress, or end it with nats_publish_rows_stop().";
		np_raise(&failure);
	}
	PG_TRY();
	{
		publish_rows(call);
	}
	PG_FINALLY();
	{
		np_rows_run_unlock(&lock);
	}
	PG_END_TRY();
}

static void
start_run(FunctionCallInfo fcinfo, Call *call)
{
	if (!IsA(fcinfo->context, CallContext) || ((CallContext *) fcinfo->context)->atomic)
		np_raise_fault(NP_FAULT_IN_TRANSACTION, NULL, "nats_publish_rows() commits, and cannot be called inside a transaction");
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	publish_rows_alone(call);
	SPI_finish();
}

/*
 * nats_publish_rows(relation, condition, ...): publishes the rows that are there
 *
 * Raises 25001 where it can't commit, 55006 for a run of the table that another
 * session has or that has other arguments, 22023 for a table without a key or
 * one that is not published, and what publishing and COMMIT raise.
 */
Datum
nats_publish_rows(PG_FUNCTION_ARGS)
{
	Call		call = {0};

	read_call(&call, fcinfo);
	np_transaction_join();
	if (np_policy_skips_calls(NP_STATS_ON_COMMIT))
		ereport(WARNING, (errmsg("no rows of table \"%s\" were published: nats_publish.publishing is off", call.table)));
	else if (get_flag(fcinfo, ARG_DRY_RUN) || np_publishing == NP_PUBLISHING_DRY_RUN)
		show_rows(&call);
	else
		start_run(fcinfo, &call);
	PG_RETURN_VOID();
}
