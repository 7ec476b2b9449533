/*-------------------------------------------------------------------------
 *
 * change_position.c
 *	  The place of a change in its transaction, and the message that ends the
 *	  transaction.
 *
 * For consumers that apply whole transactions.  The changes that are counted
 * together are those whose tables name the same subject for the end: their
 * numbers are 1, 2, 3 …, and the message to that subject, which comes last,
 * says how many there were.  Numbers that a subtransaction has taken are given
 * back when it is rolled back, as its messages are; so this is for deliveries
 * that hold them until the transaction has ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "change/change_delivery.h"
#include "change/change_position.h"
#include "change/change_transaction.h"
#include "commit/transaction.h"

/* The changes of a table. */
typedef struct Table
{
	const char *schema;			/* in the database's encoding */
	const char *name;
	int64		count;
} Table;

/* The changes that are counted together. */
typedef struct Group
{
	const char *end;			/* subject, or "": no message ends them */
	NpDelivery	delivery;		/* of the first of them, as the rest */
	NpChangeFormat format;
	Oid			schema;			/* of the extension */
	Oid			user;			/* who made it */
	const char *id;
	int64		count;
	List	   *tables;
} Group;

/* What a (sub)transaction has counted of a table. */
typedef struct Share
{
	int			nest_level;
	Group	   *group;
	Table	   *table;
	int64		count;
} Share;

static List *groups = NIL;		/* all of this in TopTransactionContext */
static List *shares = NIL;		/* by nest_level, the innermost last */

static Group *
find_group(const NpChangePlan *plan, Oid schema)
{
	const char *end = plan->transaction_end != NULL ? plan->transaction_end : "";
	ListCell   *cell;
	Group	   *group;

	foreach(cell, groups)
	{
		group = lfirst(cell);
		if (strcmp(group->end, end) == 0 && group->delivery == plan->delivery && group->format == plan->format)
			return group;
	}
	group = palloc0(sizeof(Group));
	group->end = pstrdup(end);
	group->delivery = plan->delivery;
	group->format = plan->format;
	group->schema = schema;
	group->user = GetUserId();
	group->id = psprintf("%s:" UINT64_FORMAT, np_change_transaction()->id_text, GetXLogInsertRecPtr());
	groups = lappend(groups, group);
	return group;
}

static Table *
find_table(Group *group, const NpChangePlan *plan)
{
	ListCell   *cell;
	Table	   *table;

	foreach(cell, group->tables)
	{
		table = lfirst(cell);
		if (strcmp(table->schema, plan->schema) == 0 && strcmp(table->name, plan->table) == 0)
			return table;
	}
	table = palloc0(sizeof(Table));
	table->schema = pstrdup(plan->schema);
	table->name = pstrdup(plan->table);
	group->tables = lappend(group->tables, table);
	return table;
}

/* Of this subtransaction; it is behind those of all outer ones. */
static Share *
find_share(Group *group, Table *table)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	Share	   *share;

	for (int i = list_length(shares) - 1; i >= 0; i--)
	{
		share = list_nth(shares, i);
		if (share->nest_level < nest_level)
			break;
		if (share->table == table)
			return share;
	}
	share = palloc0(sizeof(Share));
	*share = (Share) {nest_level, group, table, 0};
	shares = lappend(shares, share);
	return share;
}

/* The place of the next change of a table. */
NpChangePosition
np_change_position_next(const NpChangePlan *plan, Oid schema)
{
	MemoryContext previous = MemoryContextSwitchTo(TopTransactionContext);
	Group	   *group = find_group(plan, schema);
	Table	   *table = find_table(group, plan);

	find_share(group, table)->count++;
	MemoryContextSwitchTo(previous);
	return (NpChangePosition) {++group->count, ++table->count, group->id};
}

/* ---- The ends ------------------------------------------------------------------ */

/* Subtransactions of this nesting have committed: their shares are the outer one's. */
static void
settle(int nest_level)
{
	for (int i = list_length(shares) - 1; i >= 0; i--)
	{
		Share	   *share = list_nth(shares, i);

		if (share->nest_level < nest_level)
			break;
		share->nest_level = nest_level - 1;
	}
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
		shares = list_delete_last(shares);
	}
}

static void
forget(void)
{
	groups = shares = NIL;
}

/* ---- The message that ends a transaction --------------------------------------- */

static void
append_json(StringInfo json, const Group *group)
{
	const char *separator = "";
	ListCell   *cell;

	appendStringInfo(json, "{\"op\":\"commit\",\"n\":" INT64_FORMAT ",\"tables\":[", group->count);
	foreach(cell, group->tables)
	{
		const Table *table = lfirst(cell);

		if (table->count == 0)
			continue;
		appendStringInfo(json, "%s{\"schema\":", separator);
		separator = ",";
		escape_json(json, table->schema);
		appendStringInfoString(json, ",\"table\":");
		escape_json(json, table->name);
		appendStringInfo(json, ",\"n\":" INT64_FORMAT "}", table->count);
	}
	appendStringInfoChar(json, ']');
	appendStringInfoString(json, np_change_transaction()->json);
}

static void
append_debezium(StringInfo json, const Group *group)
{
	const char *separator = "";
	ListCell   *cell;

	appendStringInfo(json, "{\"status\":\"END\",\"id\":\"%s\",\"ts_ms\":" INT64_FORMAT ",\"event_count\":" INT64_FORMAT ",\"data_collections\":[",
					 group->id, np_change_milliseconds(GetCurrentTimestamp()), group->count);
	foreach(cell, group->tables)
	{
		const Table *table = lfirst(cell);

		if (table->count == 0)
			continue;
		appendStringInfo(json, "%s{\"data_collection\":", separator);
		separator = ",";
		escape_json(json, psprintf("%s.%s", table->schema, table->name));
		appendStringInfo(json, ",\"event_count\":" INT64_FORMAT "}", table->count);
	}
	appendStringInfoString(json, "]}");
}

static void
build_end(NpMessage *message, const Group *group)
{
	NpMessageOptions options = {.is_annotated = true};
	StringInfoData json;
	StringInfoData lines;

	initStringInfo(&json);
	initStringInfo(&lines);
	appendStringInfo(&lines, "Pg-Op: commit\r\nPg-Xid: %s\r\n", np_change_transaction()->id_text);
	if (group->format == NP_FORMAT_DEBEZIUM)
		append_debezium(&json, group);
	else
		append_json(&json, group);
	if (group->format == NP_FORMAT_CLOUDEVENTS)
	{
		np_change_append_cloudevent(&lines, "commit", NULL, NULL);
		appendStringInfo(&lines, "ce-time: %sZ\r\n", np_change_transaction()->time);
		options.id_header = "ce-id";
	}
	options.lines = (NpSpan) {lines.data, lines.len};
	np_message_build(message, np_to_utf8(group->end, strlen(group->end)), np_to_utf8(json.data, json.len), &options);
}

static void
publish_end(const Group *group)
{
	NpMessage	message;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(group->user, context | SECURITY_LOCAL_USERID_CHANGE);
	build_end(&message, group);
	np_change_deliver(group->schema, group->delivery, &message);
	SetUserIdAndSecContext(user, context);
}

/* Before the transaction ends, and after all that its triggers have to say. */
static void
publish_ends(void)
{
	ListCell   *cell;

	if (groups == NIL)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(cell, groups)
	{
		const Group *group = lfirst(cell);

		if (group->end[0] != '\0' && group->count > 0)
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
