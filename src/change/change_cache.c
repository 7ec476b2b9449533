/*-------------------------------------------------------------------------
 *
 * change_cache.c
 *	  The plans of the triggers that this backend has fired.
 *
 * A plan is stale when its table, the partitioned table that its messages
 * name, a row type of its columns, or any schema has changed: a new or altered
 * trigger, too, is a change of its table.  One with columns of types that are
 * not PostgreSQL's own is also stale when any cast or function has: that
 * decides whether others' code makes its messages.  An invalidation can arrive
 * while a plan is in use (a column's cast to json may be a function that runs
 * SQL): then a stale plan lives on until the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_trigger.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "change/change_cache.h"
#include "change/change_types.h"
#include "change/change_wal.h"

typedef struct Entry
{
	Oid			trigger;		/* the hash key */
	Oid			relation;		/* its table */
	Oid			published;		/* that its messages name */
	bool		is_stale;
	MemoryContext context;		/* of the plan */
	NpChangePlan *plan;
} Entry;

static HTAB *entries;			/* NULL: nothing was looked for yet */
static bool some_are_stale;
static uint64 changes;			/* of catalogs, by their invalidations */

/* ---- Invalidation -------------------------------------------------------------- */

/* Is a plan about a relation, or (InvalidOid) about any? */
static bool
is_about(const Entry *entry, Oid relation)
{
	return !OidIsValid(relation) || entry->relation == relation || entry->published == relation ||
		list_member_oid(entry->plan->row_types, relation);
}

static bool
has_casts(const Entry *entry, Oid unused)
{
	return entry->plan->needs & NP_NEEDS_CASTS;
}

static void
mark_stale(bool (*is_affected) (const Entry *entry, Oid relation), Oid relation)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	changes++;
	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (!is_affected(entry, relation))
			continue;
		entry->is_stale = true;
		some_are_stale = true;
	}
}

static void
on_relation_change(Datum argument, Oid relation)
{
	mark_stale(is_about, relation);
}

/* Renaming a schema tells nothing to the tables in it. */
static void
on_schema_change(Datum argument, int cache, uint32 hash)
{
	mark_stale(is_about, InvalidOid);
}

/* Nor does a cast, or a function that it calls, to those with its type. */
static void
on_cast_change(Datum argument, int cache, uint32 hash)
{
	mark_stale(has_casts, InvalidOid);
}

/* Of all triggers, also of those that are gone and will not be looked for. */
static void
remove_stale(void)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	if (!some_are_stale)
		return;
	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (!entry->is_stale)
			continue;
		if (entry->plan->users > 0)
			MemoryContextSetParent(entry->context, TopTransactionContext);
		else
			MemoryContextDelete(entry->context);
		(void) hash_search(entries, &entry->trigger, HASH_REMOVE, NULL);
	}
	some_are_stale = false;
}

static void
initialize(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(Entry),.hcxt = CacheMemoryContext};

	if (entries != NULL)
		return;
	entries = hash_create("nats_publish change plans", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_schema_change, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, on_cast_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_cast_change, (Datum) 0);
}

/* ---- Making ---------------------------------------------------------------------- */

/* What a trigger says; a look at the catalog can free the trigger itself. */
typedef struct Reading
{
	Oid			trigger;
	bool		is_clone;
	NpTriggerFacts facts;
	NpChangeOptions options;
} Reading;

/* palloc'd */
NpTriggerFacts
np_trigger_facts(const Trigger *trigger)
{
	NpTriggerFacts facts = {
		.name = pstrdup(trigger->tgname),
		.type = trigger->tgtype,
		.has_columns = trigger->tgnattr > 0,
		.condition = trigger->tgqual == NULL ? NULL : pstrdup(trigger->tgqual)
	};

	return facts;
}

static void
read_trigger(Reading *reading, const Trigger *trigger)
{
	reading->trigger = trigger->tgoid;
	reading->is_clone = trigger->tgisclone;
	reading->facts = np_trigger_facts(trigger);
	np_change_options_parse(&reading->options, trigger->tgnargs, trigger->tgargs);
}

/* The table of a trigger, and the trigger from which it was cloned. */
static Oid
find_table(Relation triggers, Oid trigger, Oid *parent)
{
	HeapTuple	tuple = get_catalog_object_by_oid(triggers, Anum_pg_trigger_oid, trigger);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find trigger %u", trigger);
	*parent = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
	return ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
}

/* The table on which a trigger was created, of which this may be a partition. */
static Oid
find_published(Relation relation, const Reading *reading)
{
	Oid			published = RelationGetRelid(relation);
	Oid			next = reading->trigger;
	Relation	triggers;

	if (!reading->is_clone)
		return published;
	triggers = table_open(TriggerRelationId, AccessShareLock);
	while (OidIsValid(next))
		published = find_table(triggers, next, &next);
	table_close(triggers, AccessShareLock);
	return published;
}

/*
 * As PostgreSQL does for a partition's bounds, the table above is locked as for
 * reading; but not by who decodes the WAL, for whom it is as it was.
 */
static Relation
open_published(Relation relation, Oid published)
{
	Relation	table;

	if (published == RelationGetRelid(relation))
		return relation;
	if (!HistoricSnapshotActive())
		return table_open(published, AccessShareLock);
	table = RelationIdGetRelation(published);
	if (!RelationIsValid(table))
		elog(ERROR, "could not open relation with OID %u", published);
	return table;
}

static void
close_published(Relation relation, Relation table)
{
	if (table == relation)
		return;
	if (HistoricSnapshotActive())
		RelationClose(table);
	else
		table_close(table, AccessShareLock);
}

static NpChangePlan *
make_plan(Relation relation, const Reading *reading, Oid published)
{
	Relation	table = open_published(relation, published);
	NpChangePlan *plan = np_change_plan_of(relation, table, &reading->options, &reading->facts);

	close_published(relation, table);
	return plan;
}

/*
 * The plan of a trigger, palloc'd and not kept; adapt may change the options
 * that it is made from (NULL: they are the trigger's).
 *
 * Raises what np_change_options_parse and np_change_plan_make raise.
 */
NpChangePlan *
np_change_cache_make(Relation relation, const Trigger *trigger, NpChangeAdapter adapt, const void *argument)
{
	Reading		reading;

	read_trigger(&reading, trigger);
	if (adapt != NULL)
	{
		adapt(&reading.options, argument);
		/* what does not fit may not be the trigger's */
		reading.facts.name = NULL;
	}
	return make_plan(relation, &reading, find_published(relation, &reading));
}

static Entry *
add_entry(Relation relation, const Trigger *trigger)
{
	uint64		changes_before = changes;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish change plan",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	Reading		reading;
	Oid			published;
	NpChangePlan *plan;
	Entry	   *entry;

	read_trigger(&reading, trigger);
	published = find_published(relation, &reading);
	plan = make_plan(relation, &reading, published);
	MemoryContextSwitchTo(previous);
	entry = hash_search(entries, &reading.trigger, HASH_ENTER, NULL);
	entry->relation = RelationGetRelid(relation);
	entry->published = published;
	entry->is_stale = changes != changes_before;
	some_are_stale |= entry->is_stale;
	entry->context = context;
	entry->plan = plan;
	MemoryContextSetParent(context, CacheMemoryContext);
	return entry;
}

/*
 * The plan of a trigger that fires; made, if there is none that is up to
 * date.  To be given to np_change_cache_release, unless an error ends the call.
 *
 * Raises what np_change_cache_make raises.
 */
NpChangePlan *
np_change_cache_find(Relation relation, const Trigger *trigger)
{
	Entry	   *entry;

	initialize();
	entry = hash_search(entries, &trigger->tgoid, HASH_FIND, NULL);
	if (entry == NULL || entry->is_stale)
	{
		remove_stale();
		entry = add_entry(relation, trigger);
	}
	entry->plan->users++;
	return entry->plan;
}

/* The call does not use the plan any more. */
void
np_change_cache_release(NpChangePlan *plan)
{
	plan->users--;
}
