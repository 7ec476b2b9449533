/*-------------------------------------------------------------------------
 *
 * change_wal_table.c
 *	  Whether a table can be published from the WAL.
 *
 * Asked when it is published, and by who looks at it later: partitions, whose
 * replica identities are their own, and the database's slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "base/encoding.h"
#include "base/report.h"
#include "change/change_cache.h"
#include "change/change_wal.h"
#include "change/change_wal_table.h"
#include "outbox/wal_slot.h"
#include "publish/policy.h"

/* Raises 55000 when nobody reads the WAL of this database. */
static void
require_slot(void)
{
	NpWalSlot	slot = np_wal_slot(MyDatabaseId);
	NpFailure	failure;

	if (slot.state == NP_WAL_SLOT_USABLE)
		return;
	failure = np_failure(NP_FAULT_NOT_LOADED, slot.state == NP_WAL_SLOT_MISSING ?
						 "the WAL of this database is not published" : "the replication slot \"%s\" cannot be used", slot.name);
	failure.hint = slot.state == NP_WAL_SLOT_FOREIGN ? "It does not belong to nats_publish: drop it, and call nats_wal_enable()." :
		"Call nats_wal_enable().";
	np_raise(&failure);
}

/* When rows are changed there is nobody whose bounds could be asked: the table's owner's are, and here the caller's. */
static void
require_policy(const NpChangePlan *plan, const NpChangeOptions *options)
{
	/* no pattern has such a byte */
	NpSpan		subject = np_change_template_example(&plan->subject, '\001');
	NpFailure	failure;

	np_policy_check_outbox();
	if (options->transaction_end != NULL)
		np_policy_check_subject(np_to_utf8(options->transaction_end, strlen(options->transaction_end)));
	if (np_policy_allows(subject))
		return;
	failure = np_failure(NP_FAULT_NOT_PERMITTED, "permission denied for the subjects \"%s\"", options->subject);
	failure.hint = "The setting nats_publish.allowed_subjects must allow them, whatever the values.";
	np_raise(&failure);
}

static void
notice_new_partitions(Relation relation, const NpChangeOptions *options, const NpTriggerFacts *trigger)
{
	if (np_change_wal_suits_new(relation, options, trigger))
		return;
	ereport(NOTICE,
			(errmsg("partitions of table \"%s\" that are created later need REPLICA IDENTITY FULL, too", RelationGetRelationName(relation)),
			 errdetail("They do not inherit it. Without it, their updates and deletes are not all published."),
			 errhint("Set it on each new partition, before rows are changed there.")));
}

/*
 * May a table be published from the WAL by a trigger that is yet to be created?
 *
 * Raises 55000 without a slot, 42501 for subjects that the caller may not
 * publish to, and 0A000 for what is not in the WAL.
 */
void
np_change_wal_admit(Relation relation, const NpChangePlan *plan, const NpChangeOptions *options, const NpTriggerFacts *trigger)
{
	ListCell   *cell;

	require_policy(plan, options);
	np_change_wal_check(plan, trigger->type);
	require_slot();
	if (relation->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(cell, find_all_inheritors(RelationGetRelid(relation), AccessShareLock, NULL))
	{
		Relation	part = table_open(lfirst_oid(cell), NoLock);

		np_change_wal_check(np_change_plan_of(part, relation, options, trigger), trigger->type);
		table_close(part, NoLock);
	}
	notice_new_partitions(relation, options, trigger);
}

/* The trigger of a partition that was cloned from one of that name. */
static void
look_at_part(Oid oid, const char *name)
{
	Relation	part;

	if (!ConditionalLockRelationOid(oid, AccessShareLock))
		return;
	part = try_relation_open(oid, NoLock);
	for (int i = 0; part != NULL && part->trigdesc != NULL && i < part->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &part->trigdesc->triggers[i];
		int16		type = trigger->tgtype;

		if (trigger->tgisclone && strcmp(trigger->tgname, name) == 0)
		{
			np_change_wal_check(np_change_cache_make(part, trigger, NULL, NULL), type);
			break;
		}
	}
	if (part != NULL)
		relation_close(part, NoLock);
	UnlockRelationOid(oid, AccessShareLock);
}

/*
 * Raises what a change would meet; of a table, whose trigger has this plan, and
 * of its partitions.  What is being altered is not waited for, and passed over.
 */
void
np_change_wal_look(Oid relation, const NpChangePlan *plan, const NpTriggerFacts *trigger)
{
	ListCell   *cell;

	np_change_wal_check(plan, trigger->type);
	if (TRIGGER_FOR_ROW(trigger->type))
		foreach(cell, find_all_inheritors(relation, NoLock, NULL))
			if (lfirst_oid(cell) != relation)
			look_at_part(lfirst_oid(cell), trigger->name);
	/* on a standby it is the primary's */
	if (!RecoveryInProgress())
		require_slot();
}
