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
 * tried (wal_attempt.c), and taken with its error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/settings.h"
#include "base/wait.h"
#include "change/change_cache.h"
#include "change/change_counts.h"
#include "change/change_filter.h"
#include "change/output_settings.h"
#include "message/annotations.h"
#include "publish/policy.h"
#include "publish/role_bounds.h"
#include "wal/wal_attempt.h"
#include "wal/wal_change.h"
#include "wal/wal_row.h"

/* How long it may take until other bounds of a role count: now, and among the commits that are decoded. */
#define BOUNDS_AGE		NP_MILLISECONDS(10000)

/* The changes of the transaction that is being decoded. */
typedef struct NpDecodedChanges
{
	const NpDecodedTransaction *decoded;
	NpChangeTransaction transaction;
	char		id[2 * 16 + 1]; /* how the ids of its messages begin */
	NpChangeCounts counts;
	NpWalAttempts attempts;
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
	NpWalAttempt attempt;
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

static Oid	our_function;		/* known to be our trigger function; InvalidOid: none is */

static void
on_function_change(Datum argument, int cache, uint32 hash)
{
	our_function = InvalidOid;
}

/* To be called before decoding, outside of a transaction. */
void
np_wal_change_init(void)
{
	np_output_settings_fix();
	CacheRegisterSyscacheCallback(PROCOID, on_function_change, (Datum) 0);
}

/* Do something that may raise, as the table's owner; NULL: it did not. */
static ErrorData *
attempt(void (*function) (void *), Work *work)
{
	return np_wal_attempt(&work->attempt, function, work);
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
	np_wal_row_check_filter(plan, change);
	return np_change_filter_admits(plan->wal->filter, change->old, change->new);
}

/* The filter is asked first: what it rejects need not have the columns that a message needs. */
static int
wanted_messages(NpChangePlan *plan, const NpChange *change, NpChange *messages)
{
	np_wal_row_check(plan, change);
	if (!is_wanted(plan, change))
		return 0;
	np_wal_row_check_message(plan, change);
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

/* Make the messages of a change; with others' code only if that is protected. */
static void
make_messages(void *argument)
{
	Work	   *work = argument;
	NpChange	changes[NP_MAX_CHANGE_MESSAGES];
	int			count;

	work->plan = np_change_cache_find(work->relation, trigger_of(work));
	work->attempt.needs_others = work->plan->wal->is_limited;
	work->attempt.is_of_postgres = !work->plan->wal->calls_others;
	np_wal_attempt_check_others(&work->attempt);
	if (!work->attempt.needs_others || work->attempt.may_call_others)
	{
		np_wal_row_put(work->plan, &work->change, work->old, work->new);
		count = wanted_messages(work->plan, &work->change, changes);
		for (int i = 0; i < count; i++)
			make_message(work, &changes[i]);
		np_wal_row_clear(work->plan);
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
	work->with_subject = work->with_key = !np_wal_attempt_is_without_others(&work->attempt);
	if (attempt(describe_change, work) == NULL)
		return;
	work->with_subject = false;
	if (!np_wal_attempt_is_without_others(&work->attempt) && attempt(describe_change, work) == NULL)
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

/*
 * Where a change ends, whether by its only message, the second of two, or an
 * error: decoded again it can have another end, and only one of them is taken.
 */
static int
last_place(const Work *work)
{
	return work->place + NP_MAX_CHANGE_MESSAGES - 1;
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
		np_wal_row_clear(work->plan);
	}
	take(argument, last_place(work), &work->messages[0], &failure);
}

/* ---- Changes ------------------------------------------------------------------------------- */

/* What one trigger makes of a change is taken. */
static void
publish(Work *work, NpWalTake take, void *argument)
{
	ErrorData  *error = attempt(make_messages, work);

	if (error == NULL && work->attempt.needs_others && !work->attempt.may_call_others)
		error = attempt(make_messages, work);
	if (error != NULL)
	{
		take_failure(work, error, take, argument);
		return;
	}
	for (int i = 0; i < work->count; i++)
		take(argument, last_place(work) + 1 - work->count + i, &work->messages[i], NULL);
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

		one.attempt.attempts = &work->changes->attempts;
		one.attempt.owner = work->relation->rd_rel->relowner;
		one.attempt.columns = RelationGetDescr(work->relation);
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
	np_wal_attempts_begin(&changes->attempts, decoded->commit_lsn);
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

	(void) np_wal_catch(parse_annotations, &annotations);
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
	const ErrorData *error = np_wal_catch(build_end, &end);
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
