/*-------------------------------------------------------------------------
 *
 * change_cache.c
 *	  The plans of the triggers that this backend has fired.
 *
 * A plan is stale when its table, the partitioned table that its messages
 * name, or any schema has changed: a new or altered trigger, too, is a change
 * of its table.  An invalidation can arrive while a plan is in use (a
 * column's cast to json may be a function that runs SQL): then a stale plan
 * lives on until the transaction ends.
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
#include "utils/syscache.h"

#include "change/change_cache.h"

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

static void
mark_stale(Oid relation)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	changes++;
	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (OidIsValid(relation) && entry->relation != relation && entry->published != relation)
			continue;
		entry->is_stale = true;
		some_are_stale = true;
	}
}

static void
on_relation_change(Datum argument, Oid relation)
{
	mark_stale(relation);
}

/* Renaming a schema tells nothing to the tables in it. */
static void
on_schema_change(Datum argument, int cache, uint32 hash)
{
	mark_stale(InvalidOid);
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
}

/* ---- Making ---------------------------------------------------------------------- */

/* The table of a trigger, and the trigger from which it was cloned. */
static Oid
read_trigger(Relation triggers, Oid trigger, Oid *parent)
{
	HeapTuple	tuple = get_catalog_object_by_oid(triggers, Anum_pg_trigger_oid, trigger);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find trigger %u", trigger);
	*parent = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
	return ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
}

/* The table on which a trigger was created, of which this may be a partition. */
static Oid
find_published(Relation relation, const Trigger *trigger)
{
	Oid			published = RelationGetRelid(relation);
	Oid			next = trigger->tgoid;
	Relation	triggers;

	if (!trigger->tgisclone)
		return published;
	triggers = table_open(TriggerRelationId, AccessShareLock);
	while (OidIsValid(next))
		published = read_trigger(triggers, next, &next);
	table_close(triggers, AccessShareLock);
	return published;
}

/* As PostgreSQL does for a partition's bounds, the table above is locked as for reading. */
static NpChangePlan *
make_plan(Relation relation, const Trigger *trigger, Oid published, NpChangeAdapter adapt, const void *argument)
{
	Relation	table = published == RelationGetRelid(relation) ? relation : table_open(published, AccessShareLock);
	NpChangeOptions options;
	NpChangePlan *plan;

	np_change_options_parse(&options, trigger->tgnargs, trigger->tgargs);
	if (adapt != NULL)
		adapt(&options, argument);
	/* what does not fit may not be the trigger's */
	plan = np_change_plan_make(relation, table, &options, trigger->tgtype, adapt == NULL ? trigger->tgname : NULL);
	if (table != relation)
		table_close(table, AccessShareLock);
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
	return make_plan(relation, trigger, find_published(relation, trigger), adapt, argument);
}

static Entry *
add_entry(Relation relation, Trigger *trigger)
{
	uint64		changes_before = changes;
	Oid			published = find_published(relation, trigger);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish change plan",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	NpChangePlan *plan = make_plan(relation, trigger, published, NULL, NULL);
	Entry	   *entry;

	MemoryContextSwitchTo(previous);
	entry = hash_search(entries, &trigger->tgoid, HASH_ENTER, NULL);
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
np_change_cache_find(Relation relation, Trigger *trigger)
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
