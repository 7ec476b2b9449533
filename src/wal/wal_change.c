/*-------------------------------------------------------------------------
 *
 * wal_change.c
 *	  Messages of the changes that are decoded from the WAL.
 *
 * A trigger of nats_publish_change with delivery=wal publishes nothing when it
 * fires, and nats_publish_table() has it disabled: it is the configuration.
 * Decoding finds it where the relation's triggers are, as they were when the
 * change was made, and so does it find columns, types and names; what a change
 * becomes is then what the trigger would have made of it (change/).
 *
 * A message that can't be made must neither stop the slot nor be lost: it is
 * taken with its error.  What makes messages is PostgreSQL's own code and ours,
 * which leave nothing behind but memory; so the error is caught without a
 * subtransaction, which would be dear.  With one is done what somebody else's
 * code has a part in (a type's output, a cast to json), and all in a
 * transaction in which an error was met, or was too severe to be caught: that
 * stops decoding, which begins again and then comes here knowing better.  All
 * is done as the table's owner in a restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "base/catch.h"
#include "base/compat.h"
#include "base/encoding.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subtransaction.h"
#include "base/user.h"
#include "base/wait.h"
#include "change/change_cache.h"
#include "change/change_counts.h"
#include "change/change_filter.h"
#include "change/change_wal.h"
#include "change/output_settings.h"
#include "message/annotations.h"
#include "publish/policy.h"
#include "publish/role_bounds.h"
#include "wal/wal_change.h"
#include "wal/wal_trouble.h"

/* How long it may take until other bounds of a role count: now, and among the commits that are decoded. */
#define BOUNDS_AGE		NP_MILLISECONDS(10000)

/* For so long others' code may work at one change, and at the error that cancels it then, ms. */
#define MAX_CHANGE_TIME	10000
#define MAX_CANCEL_TIME	3000

/* And for so long at all changes of a transaction, of which there can be many, with as much for each change: nothing is confirmed meanwhile. */
#define MAX_TRANSACTION_TIME	30000
#define MORE_FOR_EACH_CHANGE	10

/* The changes of the transaction that is being decoded. */
typedef struct NpDecodedChanges
{
	const NpDecodedTransaction *decoded;
	NpChangeTransaction transaction;
	char		id[2 * 16 + 1]; /* how the ids of its messages begin */
	NpChangeCounts counts;
	bool		is_careful;		/* nothing is done without a subtransaction */
	bool		is_endless;		/* others' code is not called: it could not be canceled ... */
	const char *others_error;	/* ... or decoding ended behind it, so; NULL: neither */
	int			others_sqlstate;
	NpTime		others_time;	/* for which it has worked ... */
	int64		others_calls;	/* ... in so many attempts */
} NpDecodedChanges;

/* One change, of which one trigger makes messages. */
typedef struct Work
{
	NpDecodedChanges *changes;
	Relation	relation;
	int			trigger;		/* its place among those of the relation */
	NpChange	change;
	HeapTuple	old;
	HeapTuple	new;
	int			place;			/* of its first message, behind all that other triggers can make of the
								 * change */
	bool		is_protected;	/* others' code may be called */
	bool		needs_protection;
	NpChangePlan *plan;			/* NULL: not found yet */
	NpChangeGroup *group;		/* where it is counted, and how many were before; NULL: nowhere */
	NpChangedTable *table;
	int64		group_count;
	int64		table_count;
	bool		with_subject;	/* for a description */
	bool		with_key;
	int			count;
	NpMessage	messages[NP_MAX_CHANGE_MESSAGES];
} Work;

static NpWalBeforeOthers before_others;
static Oid	our_function;		/* known to be our trigger function; InvalidOid: none is */

static void
on_function_change(Datum argument, int cache, uint32 hash)
{
	our_function = InvalidOid;
}

/* To be called before decoding, outside of a transaction. */
void
np_wal_change_init(NpWalBeforeOthers listener)
{
	before_others = listener;
	np_output_settings_fix();
	CacheRegisterSyscacheCallback(PROCOID, on_function_change, (Datum) 0);
}

/* ---- Errors --------------------------------------------------------------------------- */

/* Without a subtransaction: internal errors can come from anywhere. */
static bool
is_catchable(int sqlstate)
{
	return !np_is_of_server(sqlstate) && ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_INTERNAL_ERROR;
}

static XLogRecPtr
commit_of(const Work *work)
{
	return work->changes->transaction.commit_lsn;
}

typedef struct OwnersWork
{
	void		(*function) (void *);
	Work	   *work;
} OwnersWork;

static void
do_as_owner(void *argument)
{
	const OwnersWork *owners = argument;
	NpUser		worker;

	np_user_become_owner(&worker, owners->work->relation->rd_rel->relowner);

	/*
	 * who writes needs a transaction id, with which decoding can't end well; this ends with the
	 * subtransaction
	 */
	XactReadOnly = true;
	/* a background worker has no statement, and so nothing else that limits it */
	enable_timeout_after(STATEMENT_TIMEOUT, MAX_CHANGE_TIME);
	np_wal_trouble_limit(commit_of(owners->work), MAX_CHANGE_TIME, MAX_CANCEL_TIME);
	PushActiveSnapshot(GetTransactionSnapshot());
	owners->function(owners->work);
	PopActiveSnapshot();
	np_user_return(&worker);
}

static void
count_attempt(Work *work, NpTime took)
{
	if (!work->needs_protection)
		return;
	work->changes->others_time += took;
	work->changes->others_calls++;
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

static ErrorData *
attempt_in_subtransaction(void (*function) (void *), Work *work)
{
	OwnersWork	owners = {function, work};
	NpTime		took;
	ErrorData  *error;

	if (work->needs_protection)
		before_others(commit_of(work));
	took = np_now();
	error = np_try_subtransaction(do_as_owner, &owners);
	disable_timeout(STATEMENT_TIMEOUT, false);
	np_wal_trouble_no_limit();
	took = np_now() - took;
	count_attempt(work, took);
	check_transaction_id();
	if (error == NULL || (error->sqlerrcode == ERRCODE_QUERY_CANCELED && took >= NP_MILLISECONDS(MAX_CHANGE_TIME)))
		return error;
	if (np_is_of_server(error->sqlerrcode) && !np_wal_trouble_ends(commit_of(work), error->sqlerrcode, took, work->needs_protection))
		ReThrowError(error);
	return error;
}

/* Without a subtransaction: the error, if it could be caught so; another aborts the transaction, and with that it is itself again. */
static ErrorData *
attempt_alone(void (*function) (void *), Work *work)
{
	NpUser		worker;
	ErrorData  *error;

	/* never the superuser that this process is, whatever is thought of what has a part in it */
	np_user_become_owner(&worker, work->relation->rd_rel->relowner);
	np_wal_trouble_expect(commit_of(work));
	error = np_catch(function, work, is_catchable);
	np_wal_trouble_expect(InvalidXLogRecPtr);
	np_user_return(&worker);
	return error;
}

/* Do something that may raise; NULL: it did not. */
static ErrorData *
attempt(void (*function) (void *), Work *work)
{
	ErrorData  *error;

	work->is_protected = work->changes->is_careful || work->needs_protection;
	error = work->is_protected ? attempt_in_subtransaction(function, work) : attempt_alone(function, work);
	work->changes->is_careful |= error != NULL;
	return error;
}

/* ---- Rows ------------------------------------------------------------------------------ */

/* An old row that is not there is as the new one, as far as it would be. */
static void
put_same_row(const NpChangeWal *wal)
{
	TupleTableSlot *old = wal->old;

	ExecClearTuple(old);
	for (int i = 0; i < old->tts_tupleDescriptor->natts; i++)
	{
		old->tts_values[i] = wal->new->tts_values[i];
		old->tts_isnull[i] = !wal->in_old[i] || wal->new->tts_isnull[i];
	}
	ExecStoreVirtualTuple(old);
}

static bool
is_out_of_line(const TupleTableSlot *slot, int place)
{
	return TupleDescAttr(slot->tts_tupleDescriptor, place)->attlen == -1 && !slot->tts_isnull[place] &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(slot->tts_values[place]));
}

/*
 * What is still out of line after decoding was not touched: it is taken from
 * the old row, or it is not known.  It is never fetched: it may be gone.
 */
static const bool *
complete_new_row(const NpChangePlan *plan, const NpChange *change)
{
	TupleTableSlot *new = change->new;
	bool	   *unchanged = NULL;

	for (int i = 0; i < plan->column_count; i++)
	{
		int			place = plan->places[i];

		if (place < 0 || !is_out_of_line(new, place))
			continue;
		if (change->old != NULL && plan->wal->in_old[place] && !change->old->tts_isnull[place])
			new->tts_values[place] = change->old->tts_values[place];
		else
		{
			unchanged = unchanged != NULL ? unchanged : palloc0(sizeof(bool) * plan->column_count);
			unchanged[i] = true;
		}
	}
	return unchanged;
}

static TupleTableSlot *
put_row(TupleTableSlot *slot, HeapTuple row)
{
	if (row == NULL)
		return NULL;
	ExecStoreHeapTuple(row, slot, false);
	slot_getallattrs(slot);
	return slot;
}

static void
put_rows(Work *work)
{
	const NpChangeWal *wal = work->plan->wal;
	NpChange   *change = &work->change;

	change->unchanged = NULL;
	change->old = put_row(wal->old, work->old);
	change->new = put_row(wal->new, work->new);
	if (change->new == NULL)
		return;
	if (change->op == NP_UPDATE && change->old == NULL && wal->filter != NULL)
	{
		put_same_row(wal);
		change->old = wal->old;
	}
	if (HeapTupleHasExternal(work->new))
		change->unchanged = complete_new_row(work->plan, change);
}

/* Slots point into what is the decoder's. */
static void
clear_rows(const NpChangeWal *wal)
{
	ExecClearTuple(wal->old);
	ExecClearTuple(wal->new);
}

/* Raises 0A000 when there is no row. */
static void
check_rows(const NpChangePlan *plan, const NpChange *change)
{
	np_change_wal_check_op(plan, change->op);
	if ((change->op != NP_DELETE && change->op != NP_TRUNCATE && change->new == NULL) ||
		(change->op == NP_DELETE && change->old == NULL))
		np_raise_fault(NP_FAULT_FEATURE, NULL, "the row is not in the WAL");
}

static bool
filter_needs(const NpChangePlan *plan, int column)
{
	return np_change_filter_needs(plan->wal->filter, plan->places[column]);
}

static bool
message_needs(const NpChangePlan *plan, int column)
{
	return plan->is_key[column] || plan->needed[column];
}

/* Raises 0A000 when the new value of a column is not known that is needed. */
static void
check_columns(const NpChangePlan *plan, const NpChange *change, bool (*is_needed) (const NpChangePlan *plan, int column))
{
	for (int i = 0; change->unchanged != NULL && i < plan->column_count; i++)
	{
		NpFailure	failure;

		if (!change->unchanged[i] || !is_needed(plan, i))
			continue;
		failure = np_failure(NP_FAULT_FEATURE, "the value of column %s is not in the WAL: it is stored out of line and was not changed",
							 plan->json_names[i]);
		failure.hint = "REPLICA IDENTITY FULL writes it to the WAL.";
		np_raise(&failure);
	}
}

/* ---- Messages --------------------------------------------------------------------------- */

/* Of this transaction alone, even if its place in the WAL is another one's, too: after a restore, or a failover that lost some WAL. */
static void
write_id(NpDecodedChanges *changes, const NpDecodedTransaction *decoded)
{
	uint64		facts[] = {GetSystemIdentifier(), decoded->commit_lsn, decoded->commit_time};

	snprintf(changes->id, sizeof(changes->id), "%016llx%016llx",
			 (unsigned long long) hash_bytes_extended((unsigned char *) facts, sizeof(facts), 1),
			 (unsigned long long) hash_bytes_extended((unsigned char *) facts, sizeof(facts), 2));
}

static NpSpan
make_id(const NpDecodedChanges *changes, int place)
{
	size_t		length = strlen(changes->id);
	char	   *id = palloc(length + 1 + MAXINT8LEN + 1 + 11);

	memcpy(id, changes->id, length);
	id[length++] = '-';
	length += pg_ulltoa_n(changes->decoded->number, id + length);
	if (place > 0)
	{
		id[length++] = '.';
		length += pg_ultoa_n(place, id + length);
	}
	return (NpSpan) {id, length};
}

/* As they were when what is decoded was committed; but for those of the server, which are as they are now. */
static void
read_bounds(NpChangeWal *wal, TimestampTz commit_time)
{
	NpRoleBounds bounds = np_role_bounds(wal->owner);

	if (wal->subjects != NULL)
		pfree(wal->subjects);
	wal->subjects = NULL;
	wal->subjects = MemoryContextStrdup(GetMemoryChunkContext(wal), bounds.subjects);
	wal->needs_server = bounds.needs_server;
	wal->bounds_of = commit_time;
	wal->bounds_read_at = np_now();
}

/* While it catches up, hours of commits are decoded in seconds. */
static bool
bounds_are_old(const NpChangeWal *wal, TimestampTz commit_time)
{
	return wal->subjects == NULL || np_now() - wal->bounds_read_at > BOUNDS_AGE ||
		commit_time > wal->bounds_of + BOUNDS_AGE || commit_time < wal->bounds_of - BOUNDS_AGE;
}

/* May the owner of the table publish to this subject, in UTF-8?  Raises 42501. */
static void
check_policy(const Work *work, NpSpan subject)
{
	NpChangeWal *wal = work->plan->wal;
	TimestampTz commit_time = work->changes->decoded->commit_time;

	if (bounds_are_old(wal, commit_time))
		read_bounds(wal, commit_time);
	if (wal->needs_server)
		np_policy_refuse_outbox_as(wal->owner);
	np_policy_check_as(subject, wal->subjects, wal->owner);
}

/* In the memory of the transaction. */
static void
find_group(Work *work)
{
	static const NpChangeWay only_way = {0};
	const char *end = work->plan->transaction_end;
	MemoryContext previous;

	if (end != NULL)
		check_policy(work, np_to_utf8(end, strlen(end)));
	previous = MemoryContextSwitchTo(GetMemoryChunkContext(work->changes));
	work->group = np_change_counts_find(&work->changes->counts, work->plan, &only_way, &work->table);
	if (work->group->id == NULL)
		work->group->id = psprintf("%s:" UINT64_FORMAT, work->changes->transaction.id_text, work->changes->transaction.commit_lsn);
	MemoryContextSwitchTo(previous);
	work->group_count = work->group->count;
	work->table_count = work->table->count;
}

static void
make_message(Work *work, NpChange *change)
{
	NpMessage  *message = &work->messages[work->count];

	if (work->plan->has_position)
	{
		if (work->group == NULL)
			find_group(work);
		change->position = np_change_counts_add(work->group, work->table);
	}
	change->id = make_id(work->changes, work->place + work->count);
	np_change_message_build(message, work->plan, change);
	check_policy(work, message->subject);
	work->count++;
}

static bool
is_wanted(NpChangePlan *plan, const NpChange *change)
{
	if (plan->wal->filter == NULL)
		return true;
	check_columns(plan, change, filter_needs);
	return np_change_filter_admits(plan->wal->filter, change->old, change->new);
}

/* The filter is asked first: what it rejects need not have the columns that a message needs. */
static int
wanted_messages(NpChangePlan *plan, const NpChange *change, NpChange *messages)
{
	check_rows(plan, change);
	if (!is_wanted(plan, change))
		return 0;
	check_columns(plan, change, message_needs);
	return np_change_messages(plan, change, messages);
}

/*
 * A look at the catalog can make the relation's triggers anew, which are then
 * the same in the same order; those that were there before are gone.
 */
static const Trigger *
trigger_of(const Work *work)
{
	return &work->relation->trigdesc->triggers[work->trigger];
}

/* Has others' code had its time in this transaction? */
static bool
is_late(const NpDecodedChanges *changes)
{
	return changes->others_time > NP_MILLISECONDS(MAX_TRANSACTION_TIME + MORE_FOR_EACH_CHANGE * changes->others_calls);
}

/* Is it for others' code to make, which is not called? */
static bool
is_without_others(const Work *work)
{
	const NpDecodedChanges *changes = work->changes;

	return work->needs_protection && (changes->is_endless || changes->others_error != NULL || is_late(changes));
}

/* Raises why, 54000 or what decoding ended with, when a message is made by others' code, and that is not called. */
static void
check_others(const Work *work)
{
	const NpDecodedChanges *changes = work->changes;

	if (!is_without_others(work))
		return;
	if (changes->others_error != NULL)
		ereport(ERROR, (errcode(changes->others_sqlstate), errmsg_internal("%s", changes->others_error)));
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 changes->is_endless ?
			 errmsg("a cast to json in this transaction did not come to an end, and did not let itself be canceled") :
			 errmsg("casts to json took too long in this transaction: more than %d s, and %d ms for each change",
					MAX_TRANSACTION_TIME / 1000, MORE_FOR_EACH_CHANGE)));
}

/* Make the messages of a change; with others' code only if that is protected. */
static void
make_messages(void *argument)
{
	Work	   *work = argument;
	NpChange	changes[NP_MAX_CHANGE_MESSAGES];
	int			count;

	work->plan = np_change_cache_find(work->relation, trigger_of(work));
	work->needs_protection = work->plan->wal->has_others_code;
	check_others(work);
	if (!work->needs_protection || work->is_protected)
	{
		put_rows(work);
		count = wanted_messages(work->plan, &work->change, changes);
		for (int i = 0; i < count; i++)
			make_message(work, &changes[i]);
		clear_rows(work->plan->wal);
	}
	np_change_cache_release(work->plan);
}

/* ---- Messages that can't be made ---------------------------------------------------------- */

static void
describe_change(void *argument)
{
	Work	   *work = argument;

	work->change.id = make_id(work->changes, work->place);
	np_change_message_describe(&work->messages[0], work->plan, &work->change, work->with_subject, work->with_key);
}

/* With as much of its row as nothing is wrong with. */
static void
describe_somehow(Work *work)
{
	work->with_subject = work->with_key = !is_without_others(work);
	if (attempt(describe_change, work) == NULL)
		return;
	work->with_subject = false;
	if (!is_without_others(work) && attempt(describe_change, work) == NULL)
		return;
	work->with_key = false;
	describe_change(work);
}

/* Of a table for which there is no plan. */
static void
describe_table(void *argument)
{
	Work	   *work = argument;
	NpChangePlan plan = {
		.schema = get_namespace_name(RelationGetNamespace(work->relation)),
		.table = RelationGetRelationName(work->relation),
	};

	work->plan = &plan;
	plan.beginnings[work->change.op] = np_change_beginning(work->change.op, plan.schema, plan.table);
	describe_change(work);
	work->plan = NULL;
}

static NpWalError
failure_of(const ErrorData *error)
{
	NpWalError	failure = {.text = error->message};

	strlcpy(failure.sqlstate, unpack_sql_state(error->sqlerrcode), sizeof(failure.sqlstate));
	return failure;
}

/* One message with the error instead of the change: what was counted for it, and the messages that were made, are taken back. */
static void
take_failure(Work *work, const ErrorData *error, NpWalTake take, void *argument)
{
	NpWalError	failure = failure_of(error);

	if (work->group != NULL)
	{
		work->group->count = work->group_count;
		work->table->count = work->table_count;
	}
	if (work->plan == NULL)
		describe_table(work);
	else
	{
		describe_somehow(work);
		clear_rows(work->plan->wal);
	}
	take(argument, work->place, &work->messages[0], &failure);
}

/* ---- Changes ------------------------------------------------------------------------------- */

/* What one trigger makes of a change is taken. */
static void
publish(Work *work, NpWalTake take, void *argument)
{
	ErrorData  *error = attempt(make_messages, work);

	if (error == NULL && work->needs_protection && !work->is_protected)
		error = attempt(make_messages, work);
	if (error != NULL)
	{
		take_failure(work, error, take, argument);
		return;
	}
	for (int i = 0; i < work->count; i++)
		take(argument, work->place + i, &work->messages[i], NULL);
}

/* Is it our trigger function, in whatever schema?  Nobody but a superuser could make another one look so. */
static bool
looks_like_ours(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		isnull;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	result = form->prolang == ClanguageId &&
		strcmp(TextDatumGetCString(SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull)), "nats_publish_change") == 0;
	ReleaseSysCache(tuple);
	return result;
}

static bool
is_our_function(Oid function)
{
	if (function == our_function)
		return true;
	if (!looks_like_ours(function))
		return false;
	our_function = function;
	return true;
}

static bool
is_for(const Trigger *trigger, NpChangeOp op)
{
	switch (op)
	{
		case NP_INSERT:
			return TRIGGER_FOR_INSERT(trigger->tgtype);
		case NP_UPDATE:
			return TRIGGER_FOR_UPDATE(trigger->tgtype);
		case NP_DELETE:
			return TRIGGER_FOR_DELETE(trigger->tgtype);
		default:
			return TRIGGER_FOR_TRUNCATE(trigger->tgtype);
	}
}

/* Enabled or not: when it fires, it does nothing. */
static bool
publishes(const Trigger *trigger, NpChangeOp op)
{
	return is_for(trigger, op) && np_change_is_from_wal(trigger->tgnargs, trigger->tgargs) && is_our_function(trigger->tgfoid);
}

static void
publish_by_triggers(const Work *work, NpWalTake take, void *argument)
{
	static MemoryContext row_context;
	MemoryContext previous;
	int			place = 0;

	if (row_context == NULL)
		row_context = AllocSetContextCreate(TopMemoryContext, "nats_publish decoded row", ALLOCSET_DEFAULT_SIZES);
	previous = MemoryContextSwitchTo(row_context);
	for (int i = 0; work->relation->trigdesc != NULL && i < work->relation->trigdesc->numtriggers; i++)
	{
		Work		one = *work;

		one.trigger = i;
		one.place = place;
		if (!publishes(trigger_of(&one), work->change.op))
			continue;
		publish(&one, take, argument);
		place += NP_MAX_CHANGE_MESSAGES;
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(row_context);
}

/* ---- Transactions ---------------------------------------------------------------------------- */

static NpDecodedChanges *
changes_of(NpDecodedTransaction *decoded)
{
	NpDecodedChanges *changes = decoded->changes;

	if (changes != NULL)
		return changes;
	changes = MemoryContextAllocZero(TopTransactionContext, sizeof(NpDecodedChanges));
	changes->decoded = decoded;
	changes->is_careful = np_wal_trouble_was_severe(decoded->commit_lsn);
	changes->is_endless = np_wal_trouble_was_endless(decoded->commit_lsn);
	changes->others_error = np_wal_trouble_error(decoded->commit_lsn, &changes->others_sqlstate);
	np_change_transaction_fill(&changes->transaction, FullTransactionIdFromU64(decoded->xid), decoded->commit_time,
							   decoded->commit_lsn);
	write_id(changes, decoded);
	decoded->changes = changes;
	return changes;
}

static bool
is_published(const NpDecodedTransaction *decoded, Relation relation)
{
	return relation->trigdesc != NULL && (np_wal_origin == NP_WAL_ORIGIN_ANY || decoded->origin == 0);
}

static NpChangeOp
change_op(const ReorderBufferChange *change)
{
	switch (change->action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			return NP_INSERT;
		case REORDER_BUFFER_CHANGE_UPDATE:
			return NP_UPDATE;
		default:
			return NP_DELETE;
	}
}

/* A row of a table has changed.  Raises what is about the server, and not about the change. */
void
np_wal_change(NpDecodedTransaction *transaction, Relation relation, ReorderBufferChange *change,
			  NpWalTake take, void *argument)
{
	Work		work = {.changes = changes_of(transaction),.relation = relation};

	transaction->number++;
	if (!is_published(transaction, relation))
		return;
	work.change = (NpChange) {.op = change_op(change),.transaction = &work.changes->transaction,.lsn = change->lsn};
	work.old = np_compat_decoded_row(change->data.tp.oldtuple);
	work.new = np_compat_decoded_row(change->data.tp.newtuple);
	publish_by_triggers(&work, take, argument);
}

/* Tables were truncated. */
void
np_wal_truncate(NpDecodedTransaction *transaction, int count, Relation *relations,
				ReorderBufferChange *change, NpWalTake take, void *argument)
{
	for (int i = 0; i < count; i++)
	{
		Work		work = {.changes = changes_of(transaction),.relation = relations[i]};

		transaction->number++;
		work.change = (NpChange) {.op = NP_TRUNCATE,.transaction = &work.changes->transaction,.lsn = change->lsn};
		if (is_published(transaction, relations[i]))
			publish_by_triggers(&work, take, argument);
	}
}

typedef struct Annotations
{
	NpSpan		text;
	Jsonb	   *parsed;
} Annotations;

static void
parse_annotations(void *argument)
{
	Annotations *annotations = argument;

	annotations->parsed = np_annotations_parse(annotations->text);
}

/* The changes from here on have these annotations, instead of those before; what can't be some is none. */
void
np_wal_change_annotate(NpDecodedTransaction *transaction, const char *text, size_t length)
{
	NpDecodedChanges *changes = changes_of(transaction);
	Annotations annotations = {.text = {text, length}};
	Jsonb	   *copy = NULL;

	(void) np_catch(parse_annotations, &annotations, is_catchable);
	if (annotations.parsed != NULL)
	{
		copy = MemoryContextAlloc(GetMemoryChunkContext(changes), VARSIZE(annotations.parsed));
		memcpy(copy, annotations.parsed, VARSIZE(annotations.parsed));
	}
	/* there can be some for each row */
	if (changes->transaction.annotations != NULL)
		pfree(changes->transaction.annotations);
	changes->transaction.annotations = copy;
}

/* A message that ends a transaction. */
typedef struct End
{
	const NpChangeGroup *group;
	const NpChangeTransaction *transaction;
	NpSpan		id;
	NpMessage	message;
} End;

static void
build_end(void *argument)
{
	End		   *end = argument;

	np_change_group_build_end(&end->message, end->group, end->transaction, end->id);
}

/* What can't be said with its annotations is dead without them. */
static void
publish_end(NpDecodedChanges *changes, const NpChangeGroup *group, NpWalTake take, void *argument)
{
	NpChangeTransaction plain = changes->transaction;
	End			end = {.group = group,.transaction = &changes->transaction,.id = make_id(changes, 0)};
	const ErrorData *error = np_catch(build_end, &end, is_catchable);
	NpWalError	failure;

	if (error == NULL)
	{
		take(argument, 0, &end.message, NULL);
		return;
	}
	plain.annotations = NULL;
	end.transaction = &plain;
	build_end(&end);
	failure = failure_of(error);
	take(argument, 0, &end.message, &failure);
}

/* All changes of a transaction that has any were decoded: the messages that end it. */
void
np_wal_change_end(NpDecodedTransaction *transaction, NpWalTake take, void *argument)
{
	NpDecodedChanges *changes = transaction->changes;
	ListCell   *cell;

	if (changes == NULL)
		return;
	foreach(cell, changes->counts.groups)
	{
		const NpChangeGroup *group = lfirst(cell);

		transaction->number++;
		if (np_change_group_has_end(group))
			publish_end(changes, group, take, argument);
	}
}
