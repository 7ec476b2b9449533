/*-------------------------------------------------------------------------
 *
 * change_position.c
 *	  The place of a change in the session's transaction.
 *
 * Numbers that a subtransaction has taken are given back when it is rolled
 * back, as its messages are; so this is for deliveries that hold them until
 * the transaction has ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/encoding.h"
#include "change/change_counts.h"
#include "change/change_delivery.h"
#include "change/change_position.h"
#include "commit/transaction.h"
#include "publish/policy.h"

/* What a (sub)transaction has counted of a table; each has one of a table. */
typedef struct Share
{
	int			nest_level;
	NpChangeGroup *group;
	NpChangedTable *table;
	int64		count;
} Share;

static NpChangeCounts counts;	/* all of this in TopTransactionContext */
static List *shares = NIL;		/* by nest_level, the innermost last */

/* Among the first so many, of which those of this nesting are the last; NULL: there is none. */
static Share *
find_share(int count, int nest_level, const NpChangedTable *table)
{
	for (int i = count - 1; i >= 0; i--)
	{
		Share	   *share = list_nth(shares, i);

		if (share->nest_level < nest_level)
			break;
		if (share->table == table)
			return share;
	}
	return NULL;
}

/* Of this subtransaction; it is behind those of all outer ones. */
static Share *
current_share(NpChangeGroup *group, NpChangedTable *table)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	Share	   *share = find_share(list_length(shares), nest_level, table);

	if (share != NULL)
		return share;
	share = palloc0(sizeof(Share));
	*share = (Share) {nest_level, group, table, 0};
	shares = lappend(shares, share);
	return share;
}

/* Who makes the first change must be allowed to publish the end; at COMMIT his bounds may be others. */
static void
begin_group(NpChangeGroup *group, Oid schema)
{
	if (group->end[0] != '\0')
		np_policy_check_subject(np_to_utf8(group->end, strlen(group->end)));
	group->schema = schema;
	group->user = GetUserId();
	group->id = psprintf("%s:" UINT64_FORMAT, np_change_transaction()->id_text, GetXLogInsertRecPtr());
}

/*
 * The place of the next change of a table.  Raises 42501 for an end that may
 * not be published, and what np_current_session raises.
 */
NpChangePosition
np_change_position_next(const NpChangePlan *plan, Oid schema)
{
	NpChangeWay way = np_change_way(plan->delivery);
	MemoryContext previous = MemoryContextSwitchTo(TopTransactionContext);
	NpChangedTable *table;
	NpChangeGroup *group = np_change_counts_find(&counts, plan, &way, &table);

	if (group->id == NULL)
		begin_group(group, schema);
	current_share(group, table)->count++;
	MemoryContextSwitchTo(previous);
	return np_change_counts_add(group, table);
}

/* ---- The ends ------------------------------------------------------------------ */

/* How many shares there are outside of this nesting. */
static int
count_outer(int nest_level)
{
	int			count = list_length(shares);

	while (count > 0 && ((Share *) list_nth(shares, count - 1))->nest_level >= nest_level)
		count--;
	return count;
}

/*
 * Subtransactions of this nesting have committed: their shares are the outer
 * one's, which may have some of the same tables.  There can be a
 * subtransaction for each row.
 */
static void
settle(int nest_level)
{
	int			kept = count_outer(nest_level);

	for (int i = kept; i < list_length(shares); i++)
	{
		Share	   *share = list_nth(shares, i);
		Share	   *outer = find_share(kept, nest_level - 1, share->table);

		if (outer == NULL)
		{
			share->nest_level = nest_level - 1;
			lfirst(list_nth_cell(shares, kept++)) = share;
			continue;
		}
		outer->count += share->count;
		pfree(share);
	}
	shares = list_truncate(shares, kept);
}

/* They were rolled back: what they have counted is not there.  Never throws. */
static void
give_back(int nest_level)
{
	while (shares != NIL)
	{
		Share	   *share = llast(shares);

		if (share->nest_level < nest_level)
			break;
		share->group->count -= share->count;
		share->table->count -= share->count;
		pfree(share);
		shares = list_delete_last(shares);
	}
}

static void
forget(void)
{
	counts.groups = shares = NIL;
}

static void
publish_end(const NpChangeGroup *group)
{
	NpMessage	message;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(group->user, context | SECURITY_LOCAL_USERID_CHANGE);
	np_change_group_build_end(&message, group, np_change_transaction(), (NpSpan) {NULL, 0});
	np_change_deliver_end(group->schema, group->delivery, &group->way, &message);
	SetUserIdAndSecContext(user, context);
}

/* Before the transaction ends, and after all that its triggers have to say. */
static void
publish_ends(void)
{
	ListCell   *cell;

	if (counts.groups == NIL)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(cell, counts.groups)
	{
		const NpChangeGroup *group = lfirst(cell);

		if (np_change_group_has_end(group))
			publish_end(group);
	}
	PopActiveSnapshot();
}

/* To be called when the library is loaded. */
void
np_change_position_init(void)
{
	static const NpTransactionListener listener = {publish_ends, settle, give_back, forget};

	np_transaction_listen(&listener);
}
