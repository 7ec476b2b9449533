/*-------------------------------------------------------------------------
 *
 * change_counts.c
 *	  The changes of a transaction that are counted together, and the message
 *	  that ends it.
 *
 * For consumers that apply whole transactions.  The changes that are counted
 * together are those whose tables name the same subject for the end, and that
 * go the same way: their numbers are 1, 2, 3 …, and the message to that
 * subject, which comes last, says how many there were.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "change/change_counts.h"

static NpChangeGroup *
find_group(NpChangeCounts *counts, const NpChangePlan *plan, const NpChangeWay *way)
{
	const char *end = plan->transaction_end != NULL ? plan->transaction_end : "";
	ListCell   *cell;
	NpChangeGroup *group;

	foreach(cell, counts->groups)
	{
		group = lfirst(cell);
		if (strcmp(group->end, end) == 0 && group->delivery == plan->delivery && group->format == plan->format &&
			np_change_way_equal(&group->way, way))
			return group;
	}
	group = palloc0(sizeof(NpChangeGroup));
	group->end = pstrdup(end);
	group->delivery = plan->delivery;
	group->format = plan->format;
	group->way = *way;
	counts->groups = lappend(counts->groups, group);
	return group;
}

static bool
is_table_of(const NpChangedTable *table, const NpChangePlan *plan)
{
	return strcmp(table->schema, plan->schema) == 0 && strcmp(table->name, plan->table) == 0;
}

static NpChangedTable *
find_table(NpChangeGroup *group, const NpChangePlan *plan)
{
	ListCell   *cell;
	NpChangedTable *table;

	/* most changes are of the same table as the one before */
	if (group->last != NULL && is_table_of(group->last, plan))
		return group->last;
	foreach(cell, group->tables)
	{
		table = lfirst(cell);
		if (is_table_of(table, plan))
			return group->last = table;
	}
	table = palloc0(sizeof(NpChangedTable));
	table->schema = pstrdup(plan->schema);
	table->name = pstrdup(plan->table);
	group->tables = lappend(group->tables, table);
	return group->last = table;
}

/*
 * Where the changes of a table are counted; `counts` are of one transaction, in
 * the current context.  A new group has no id yet.
 */
NpChangeGroup *
np_change_counts_find(NpChangeCounts *counts, const NpChangePlan *plan, const NpChangeWay *way, NpChangedTable **table)
{
	NpChangeGroup *group = find_group(counts, plan, way);

	*table = find_table(group, plan);
	return group;
}

/* Count one more change, and say which one it is. */
NpChangePosition
np_change_counts_add(NpChangeGroup *group, NpChangedTable *table)
{
	return (NpChangePosition) {++group->count, ++table->count, group->id};
}

/* ---- The message that ends a transaction --------------------------------------- */

static void
append_json(StringInfo json, const NpChangeGroup *group, const NpChangeTransaction *transaction)
{
	const char *separator = "";
	ListCell   *cell;

	appendStringInfo(json, "{\"op\":\"commit\",\"n\":" INT64_FORMAT ",\"tables\":[", group->count);
	foreach(cell, group->tables)
	{
		const NpChangedTable *table = lfirst(cell);

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
	appendStringInfoString(json, transaction->json);
}

static void
append_debezium(StringInfo json, const NpChangeGroup *group)
{
	const char *separator = "";
	ListCell   *cell;

	appendStringInfo(json, "{\"status\":\"END\",\"id\":\"%s\",\"ts_ms\":" INT64_FORMAT ",\"event_count\":" INT64_FORMAT ",\"data_collections\":[",
					 group->id, np_change_milliseconds(GetCurrentTimestamp()), group->count);
	foreach(cell, group->tables)
	{
		const NpChangedTable *table = lfirst(cell);

		if (table->count == 0)
			continue;
		appendStringInfo(json, "%s{\"data_collection\":", separator);
		separator = ",";
		escape_json(json, psprintf("%s.%s", table->schema, table->name));
		appendStringInfo(json, ",\"event_count\":" INT64_FORMAT "}", table->count);
	}
	appendStringInfoString(json, "]}");
}

/* Is there a message that ends these? */
bool
np_change_group_has_end(const NpChangeGroup *group)
{
	return group->end[0] != '\0' && group->count > 0;
}

/* Build it; its id is absent for an automatic one.  Raises what np_message_build raises. */
void
np_change_group_build_end(NpMessage *message, const NpChangeGroup *group, const NpChangeTransaction *transaction, NpSpan id)
{
	NpMessageOptions options = {.is_annotated = !np_change_is_decoded(transaction),
	.annotations = transaction->annotations,.msg_id = id};
	StringInfoData json;
	StringInfoData lines;

	initStringInfo(&json);
	initStringInfo(&lines);
	appendStringInfo(&lines, "Pg-Op: commit\r\nPg-Xid: %s\r\n", transaction->id_text);
	if (group->format == NP_FORMAT_DEBEZIUM)
		append_debezium(&json, group);
	else
		append_json(&json, group, transaction);
	if (group->format == NP_FORMAT_CLOUDEVENTS)
	{
		np_change_append_cloudevent(&lines, "commit", NULL, NULL);
		appendStringInfo(&lines, "ce-time: %sZ\r\n", transaction->time);
		options.id_header = "ce-id";
	}
	options.lines = (NpSpan) {lines.data, lines.len};
	np_message_build(message, np_to_utf8(group->end, strlen(group->end)), np_to_utf8(json.data, json.len), &options);
}
