/*-------------------------------------------------------------------------
 *
 * change_plan.c
 *	  How the changes of one table are published.
 *
 * The options of a trigger, resolved for its table: columns found, templates
 * taken apart, output functions looked up, and all that is the same in every
 * message written once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/percent.h"
#include "base/report.h"
#include "base/subject.h"
#include "change/change_identity.h"
#include "change/change_plan.h"
#include "change/change_types.h"
#include "change/template.h"
#include "message/header.h"
#include "message/message.h"

/* What a plan is made from.  Columns are those of the published table, by their number from 0. */
typedef struct Source
{
	Relation	published;
	TupleDesc	columns;		/* its */
	const int  *places;			/* of its columns in a slot */
	bool		is_aligned;		/* a slot has them in their own places, and no others */
	const char *schema;
	const char *table;
	const NpChangeOptions *options;
	const NpTriggerFacts *trigger;
	bool	   *needed;			/* where it is marked which columns templates are made of */
} Source;

/* Raise why the options do not fit the table; of a trigger that is there, what to do about it. */
NP_NORETURN static void
raise_misfit(const Source *source, NpFailure failure)
{
	if (failure.hint == NULL && source->trigger->name != NULL)
		failure.hint = psprintf("Trigger \"%s\" does not fit the table: call nats_publish_table() again, or drop the trigger.",
								source->trigger->name);
	np_raise(&failure);
}

/* ---- Columns ---------------------------------------------------------------- */

static bool
column_is_there(const Source *source, int number)
{
	Form_pg_attribute column = TupleDescAttr(source->columns, number);

	/* what is virtual has no value in a trigger */
	return !column->attisdropped && !np_compat_is_virtual(column);
}

/* The number of the column of that name; raises 42703. */
static int
find_column(const Source *source, const char *option, const char *name)
{
	NpFailure	failure;

	for (int i = 0; i < source->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(source->columns, i);

		if (column->attisdropped || strcmp(NameStr(column->attname), name) != 0)
			continue;
		if (column_is_there(source, i))
			return i;
		failure = np_failure(NP_FAULT_FEATURE, "option %s names the column \"%s\", which is a virtual generated column",
							 option, name);
		failure.hint = "A virtual column has no value in a trigger: use a stored one.";
		raise_misfit(source, failure);
	}
	raise_misfit(source, np_failure(NP_FAULT_COLUMN, "option %s names the column \"%s\", which table \"%s\" does not have",
									option, name, source->table));
}

/* The shape of the columns that are marked. */
static void
make_shape(const Source *source, const bool *marked, NpRowShape *shape)
{
	TupleDesc	table = source->columns;
	int		   *numbers = palloc(sizeof(int) * table->natts);
	int			there = 0;

	for (int i = 0; i < table->natts; i++)
	{
		if (!TupleDescAttr(table, i)->attisdropped)
			there++;
		if (marked[i])
			numbers[shape->count++] = i;
	}
	/* to read its own row type, a table is locked, for which who reads the WAL must not wait */
	shape->whole = source->is_aligned && shape->count == there && !source->options->debezium_values &&
		source->options->delivery != NP_DELIVER_WAL;
	if (shape->whole)
		return;
	shape->indexes = palloc(sizeof(int) * shape->count);
	shape->columns = CreateTemplateTupleDesc(shape->count);
	for (int i = 0; i < shape->count; i++)
	{
		shape->indexes[i] = source->places[numbers[i]];
		TupleDescCopyEntry(shape->columns, i + 1, table, numbers[i] + 1);
	}
	np_compat_finalize(shape->columns);
	BlessTupleDesc(shape->columns);
}

static NpTextKind
text_kind(Oid base_type)
{
	switch (base_type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return NP_TEXT_INTEGER;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
			return NP_TEXT_STRING;
		case BOOLOID:
			return NP_TEXT_BOOLEAN;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return NP_TEXT_TIME;
		default:
			return NP_TEXT_JSON;
	}
}

static void
prepare_column(const Source *source, int number, NpColumn *column)
{
	Oid			type = TupleDescAttr(source->columns, number)->atttypid;
	bool	   *marked;
	Oid			output;
	bool		is_varlena;

	column->number = number;
	column->index = source->places[number];
	column->base_type = getBaseType(type);
	column->kind = text_kind(column->base_type);
	getTypeOutputInfo(type, &output, &is_varlena);
	fmgr_info_cxt(output, &column->output, CurrentMemoryContext);
	if (column->kind != NP_TEXT_JSON)
		return;
	marked = palloc0(sizeof(bool) * source->columns->natts);
	marked[number] = true;
	make_shape(source, marked, &column->row);
}

/* A time is another thing to Debezium. */
static bool
is_plain(const Source *source, int number)
{
	NpTextKind	kind = text_kind(getBaseType(TupleDescAttr(source->columns, number)->atttypid));

	return kind != NP_TEXT_JSON && (kind != NP_TEXT_TIME || !source->options->debezium_values);
}

/* Most rows have nothing but such columns, and row_to_json finds out each time what they are. */
static void
prepare_plain(const Source *source, const bool *marked, NpRowShape *shape)
{
	NpColumn   *columns = palloc0(sizeof(NpColumn) * source->columns->natts);
	int			count = 0;

	for (int i = 0; i < source->columns->natts; i++)
	{
		if (!marked[i])
			continue;
		if (!is_plain(source, i))
			return;
		prepare_column(source, i, &columns[count++]);
	}
	shape->plain = columns;
}

/* The column of that name, which messages can't do without. */
static void
prepare_needed(const Source *source, const char *option, const char *name, NpColumn *column)
{
	int			number = find_column(source, option, name);

	source->needed[number] = true;
	prepare_column(source, number, column);
}

static void
mark_named(const Source *source, const char *option, List *names, bool *marked)
{
	ListCell   *cell;

	foreach(cell, names)
		marked[find_column(source, option, lfirst(cell))] = true;
}

/* ---- The key ---------------------------------------------------------------- */

static void
mark_bitmap(const Source *source, Bitmapset *columns, bool *marked)
{
	int			member = -1;

	while ((member = bms_next_member(columns, member)) >= 0)
	{
		int			number = member + FirstLowInvalidHeapAttributeNumber - 1;

		if (number >= 0 && column_is_there(source, number))
			marked[number] = true;
	}
}

/* FULL makes a key of what is published, and of nothing that is not meant to be. */
static void
mark_replica_identity(const Source *source, const bool *ignored, NpChangePlan *plan)
{
	char		identity = source->published->rd_rel->relreplident;

	if (identity == REPLICA_IDENTITY_FULL)
	{
		for (int i = 0; i < source->columns->natts; i++)
			plan->is_key[i] = plan->is_published[i] && !ignored[i];
	}
	else if (identity == REPLICA_IDENTITY_INDEX)
		mark_bitmap(source, np_change_identity(source->published), plan->is_key);
}

/* The columns of the key: the option, the primary key, or the replica identity. */
static void
find_key(const Source *source, const bool *ignored, NpChangePlan *plan)
{
	Oid			constraint;
	Bitmapset  *primary_key;

	mark_named(source, "key", source->options->key, plan->is_key);
	if (source->options->key == NIL)
	{
		primary_key = get_primary_key_attnos(RelationGetRelid(source->published), true, &constraint);
		if (primary_key != NULL)
			mark_bitmap(source, primary_key, plan->is_key);
		else
		{
			mark_replica_identity(source, ignored, plan);
			plan->key_is_row = source->published->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
		}
	}
	plan->key_columns = palloc0(sizeof(NpColumn) * plan->column_count);
	for (int i = 0; i < plan->column_count; i++)
	{
		NpColumn   *column = &plan->key_columns[plan->key_count];

		if (!plan->is_key[i])
			continue;
		prepare_column(source, i, column);
		plan->key_count++;
	}
	if (plan->key_count == 0)
		return;
	make_shape(source, plan->is_key, &plan->key);
	prepare_plain(source, plan->is_key, &plan->key);
}

static void
require_key(const Source *source, const NpChangePlan *plan)
{
	int16		trigger_type = source->trigger->type;
	NpFailure	failure;

	if (plan->key_count > 0 || plan->old ||
		!(TRIGGER_FOR_UPDATE(trigger_type) || TRIGGER_FOR_DELETE(trigger_type)))
		return;
	failure = np_failure(NP_FAULT_INPUT, "table \"%s\" has no key, so its updates and deletes would not say which row they change",
						 source->table);
	failure.hint = "Set the option key or old, or give the table a primary key or a replica identity.";
	raise_misfit(source, failure);
}

static void
refuse_statement_trigger(const Source *source, const char *changes, const char *detail)
{
	NpFailure	failure = np_failure(NP_FAULT_FEATURE, "%s of the partitioned table \"%s\" cannot be published by a statement trigger",
									 changes, source->table);

	failure.detail = detail;
	failure.hint = psprintf("Publish the table at level row, or without its %s.", changes);
	raise_misfit(source, failure);
}

/*
 * A partitioned table shows its statement triggers wrong rows.  Of a MERGE: for
 * what is updated after an insert, the inserted row (ExecUpdate does not reset
 * tcs_original_insert_tuple; seen in 17 and 18), and none for rows that move.
 * Of what is inserted into a partition that has its columns in other places:
 * the row before its generated columns were computed (ExecPrepareTupleRouting;
 * seen in 15 to 18).
 */
static void
require_true_rows(const Source *source)
{
	int16		trigger_type = source->trigger->type;
	const TupleConstr *constraints = source->columns->constr;

	if (source->published->rd_rel->relkind != RELKIND_PARTITIONED_TABLE || TRIGGER_FOR_ROW(trigger_type))
		return;
	if (TRIGGER_FOR_UPDATE(trigger_type))
		refuse_statement_trigger(source, "updates", "PostgreSQL does not show such a trigger all rows that a MERGE updates.");
	if (TRIGGER_FOR_INSERT(trigger_type) && constraints != NULL && constraints->has_generated_stored)
		refuse_statement_trigger(source, "inserts", "PostgreSQL does not show such a trigger the generated columns of each partition.");
}

static const char *
json_string(const char *text)
{
	StringInfoData json;
	char	   *result;

	initStringInfo(&json);
	escape_json(&json, text);
	result = pstrdup(json.data);
	pfree(json.data);
	return result;
}

static void
find_columns(const Source *source, NpChangePlan *plan)
{
	int			count = source->columns->natts;
	bool	   *ignored = palloc0(sizeof(bool) * count);
	bool	   *in_old_row = palloc0(sizeof(bool) * count);

	plan->column_count = count;
	plan->is_published = palloc0(sizeof(bool) * count);
	plan->is_key = palloc0(sizeof(bool) * count);
	plan->matters = palloc0(sizeof(bool) * count);
	plan->json_names = palloc0(sizeof(char *) * count);

	mark_named(source, "columns", source->options->columns, plan->is_published);
	for (int i = 0; i < count && source->options->columns == NIL; i++)
		plan->is_published[i] = column_is_there(source, i);
	mark_named(source, "ignore", source->options->ignore, ignored);
	find_key(source, ignored, plan);
	for (int i = 0; i < count; i++)
	{
		const char *name = NameStr(TupleDescAttr(source->columns, i)->attname);

		if (ignored[i] && plan->is_key[i])
			raise_misfit(source, np_failure(NP_FAULT_INPUT, "option ignore names the column \"%s\", which is a part of the key",
											name));
		plan->matters[i] = plan->is_key[i] || (plan->is_published[i] && !ignored[i]);
		in_old_row[i] = plan->is_key[i] || plan->is_published[i];
		plan->json_names[i] = json_string(name);
	}
	make_shape(source, plan->is_published, &plan->row);
	make_shape(source, in_old_row, &plan->old_row);
	prepare_plain(source, plan->is_published, &plan->row);
	prepare_plain(source, in_old_row, &plan->old_row);
	if (!source->options->debezium_values)
		return;
	plan->row.coders = np_value_coders_make(plan->row.columns);
	plan->old_row.coders = np_value_coders_make(plan->old_row.columns);
	if (plan->key_count > 0)
		plan->key.coders = np_value_coders_make(plan->key.columns);
}

/* ---- Templates --------------------------------------------------------------- */

/* A text of the catalog, encoded; palloc'd. */
static NpSpan
encode(NpEncoder encoder, const char *text)
{
	NpSpan		utf8 = np_to_utf8(text, strlen(text));
	char	   *out = palloc(NP_ENCODED_SIZE(utf8.length));

	return (NpSpan) {out, encoder(utf8, out)};
}

/* What a name in a template stands for. */
static void
resolve_name(const Source *source, const char *option, NpTemplatePart found, NpEncoder encoder,
			 NpPlanPart *part)
{
	char	   *name = pnstrdup(found.text.data, found.text.length);
	bool		quoted = found.kind == NP_PART_QUOTED;

	if (quoted)
		name[np_template_unquote(found.text, name)] = '\0';
	if (!quoted && strcmp(name, "op") == 0)
		part->kind = NP_PLAN_OP;
	else if (!quoted && strcmp(name, "xid") == 0)
		part->kind = NP_PLAN_XID;
	else if (!quoted && strcmp(name, "lsn") == 0 && source->options->delivery == NP_DELIVER_WAL)
		part->kind = NP_PLAN_LSN;
	else if (!quoted && strcmp(name, "commit_ts") == 0 && source->options->delivery == NP_DELIVER_WAL)
		part->kind = NP_PLAN_COMMIT_TS;
	else if (!quoted && strcmp(name, "schema") == 0)
		part->text = encode(encoder, source->schema);
	else if (!quoted && strcmp(name, "table") == 0)
		part->text = encode(encoder, source->table);
	else
	{
		part->kind = NP_PLAN_COLUMN;
		prepare_needed(source, option, name, &part->column);
	}
}

/* Between two braces there is at most one part. */
static int
most_parts(const char *template)
{
	int			braces = 0;

	for (const char *byte = template; *byte != '\0'; byte++)
		braces += *byte == '{' || *byte == '}';
	return braces + 1;
}

static void
compile_template(const Source *source, const char *option, const char *text, NpEncoder encoder,
				 NpPlanTemplate *plan)
{
	NpSpan		rest = {text, strlen(text)};
	NpTemplatePart found;

	plan->parts = palloc0(sizeof(NpPlanPart) * most_parts(text));
	while ((found = np_template_next(&rest)).kind != NP_PART_END)
	{
		NpPlanPart *part = &plan->parts[plan->count++];

		if (found.kind == NP_PART_PROBLEM)
			np_raise_input("the template of option %s %s: \"%s\"", option, found.text.data, text);
		part->kind = NP_PLAN_TEXT;
		if (found.kind == NP_PART_TEXT)
			part->text = np_to_utf8(pnstrdup(found.text.data, found.text.length), found.text.length);
		else
			resolve_name(source, option, found, encoder, part);
	}
}

/* What a template comes to where each value is this character; palloc'd. */
NpSpan
np_change_template_example(const NpPlanTemplate *template, char value)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < template->count; i++)
	{
		if (template->parts[i].kind == NP_PLAN_TEXT)
			appendBinaryStringInfo(&text, template->parts[i].text.data, template->parts[i].text.length);
		else
			appendStringInfoChar(&text, value);
	}
	return (NpSpan) {text.data, text.len};
}

/* ---- Headers ------------------------------------------------------------------ */

/* The headers that we write. */
static const char *const own_headers[] = {"Pg-Op", "Pg-Table", "Pg-Xid", "traceparent"};
static const char *const cloudevents_headers[] = {
	"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-datacontenttype", "Content-Type"
};

static bool
is_one_of(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (pg_strcasecmp(name, names[i]) == 0)
			return true;
	return false;
}

static void
check_header(const NpChangePlan *plan, const char *name)
{
	np_header_require_name(name, strlen(name));
	if (pg_strncasecmp(name, "Nats-", 5) == 0 || is_one_of(name, own_headers, lengthof(own_headers)) ||
		(plan->format == NP_FORMAT_CLOUDEVENTS &&
		 is_one_of(name, cloudevents_headers, lengthof(cloudevents_headers))))
		np_raise_input("option headers cannot set the header \"%s\"", name);
	for (int i = 0; i < plan->header_count; i++)
		if (pg_strncasecmp(name, plan->headers[i].name.data, plan->headers[i].name.length) == 0 &&
			name[plan->headers[i].name.length] == '\0')
			np_raise_input("option headers sets the header \"%s\" twice", name);
}

/* What is not a value goes out as it is. */
static void
check_literals(const char *name, const char *template, int length)
{
	size_t		position;

	if (np_header_value_check((NpSpan) {template, length}, &position) != NP_TEXT_OK)
		np_raise_input("the template of header \"%s\" has the invalid byte 0x%02x at position %zu",
					   name, (unsigned char) template[position], position + 1);
}

static void
compile_headers(const Source *source, NpChangePlan *plan)
{
	Jsonb	   *headers = source->options->headers;
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	plan->headers = palloc0(sizeof(NpPlanHeader) * JB_ROOT_COUNT(headers));
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		NpPlanHeader *header = &plan->headers[plan->header_count];
		char	   *name;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		name = pnstrdup(key.val.string.val, key.val.string.len);
		check_header(plan, name);
		if (value.type != jbvString)
			np_raise_input("option headers has something other than a string for the header \"%s\"", name);
		check_literals(name, value.val.string.val, value.val.string.len);
		header->name = (NpSpan) {name, strlen(name)};
		compile_template(source, "headers", pnstrdup(value.val.string.val, value.val.string.len),
						 np_encode_header, &header->value);
		plan->header_count++;
	}
}

/* ---- What is the same in all messages -------------------------------------------- */

static void
append_encoded(StringInfo lines, NpEncoder encoder, const char *text)
{
	NpSpan		encoded = encode(encoder, text);

	appendBinaryStringInfo(lines, encoded.data, encoded.length);
}

/*
 * Append the header lines that all events of a type and a table have; of no
 * table, the database is the source.
 */
void
np_change_append_cloudevent(StringInfo lines, const char *type, const char *schema, const char *table)
{
	StringInfoData path;		/* a URI, of which each name is a segment */

	initStringInfo(&path);
	appendStringInfoString(&path, "/postgresql/");
	append_encoded(&path, np_encode_token, get_database_name(MyDatabaseId));
	if (table != NULL)
	{
		appendStringInfoChar(&path, '/');
		append_encoded(&path, np_encode_token, schema);
		appendStringInfoChar(&path, '/');
		append_encoded(&path, np_encode_token, table);
	}
	appendStringInfo(lines, "ce-specversion: 1.0\r\nce-type: nats_publish.%s\r\nce-source: ", type);
	append_encoded(lines, np_encode_header, path.data);
	appendStringInfoString(lines, "\r\nce-datacontenttype: application/json\r\nContent-Type: application/json\r\n");
}

/* As it is quoted where it must be, whatever the session prefers. */
static char *
quoted_name(const Source *source)
{
	int			nest_level = NewGUCNestLevel();
	char	   *name;

	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	name = quote_qualified_identifier(source->schema, source->table);
	AtEOXact_GUC(true, nest_level);
	return name;
}

/* How the JSON of a change begins, in the database's encoding, palloc'd. */
const char *
np_change_beginning(NpChangeOp op, const char *schema, const char *table)
{
	return psprintf("{\"op\":\"%s\",\"schema\":%s,\"table\":%s", np_change_op_name(op), json_string(schema), json_string(table));
}

static void
write_constants(const Source *source, NpChangePlan *plan)
{
	const char *name = quoted_name(source);
	const char *schema = json_string(source->schema);
	const char *table = json_string(source->table);
	const char *database = json_string(get_database_name(MyDatabaseId));

	plan->schema = pstrdup(source->schema);
	plan->table = pstrdup(source->table);
	for (NpChangeOp op = 0; op < NP_CHANGE_OPS; op++)
	{
		StringInfoData lines;

		initStringInfo(&lines);
		appendStringInfo(&lines, "Pg-Op: %s\r\nPg-Table: ", np_change_op_name(op));
		append_encoded(&lines, np_encode_header, name);
		appendStringInfoString(&lines, "\r\n");
		if (plan->format == NP_FORMAT_CLOUDEVENTS)
			np_change_append_cloudevent(&lines, np_change_op_name(op), source->schema, source->table);
		plan->lines[op] = (NpSpan) {lines.data, lines.len};
		plan->beginnings[op] = np_change_beginning(op, source->schema, source->table);
		plan->sources[op] = psprintf("{\"version\":\"%s\",\"connector\":\"postgresql\",\"name\":%s,\"snapshot\":\"%s\","
									 "\"db\":%s,\"schema\":%s,\"table\":%s",
									 NP_VERSION, database, op == NP_READ ? "true" : "false", database, schema, table);
	}
}

/* Where a column of a partitioned table is in a partition, which has one of each name. */
static int
find_place(Form_pg_attribute column, TupleDesc rows)
{
	for (int i = 0; i < rows->natts; i++)
		if (!TupleDescAttr(rows, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(rows, i)->attname), NameStr(column->attname)) == 0)
			return i;
	elog(ERROR, "a partition does not have the column \"%s\"", NameStr(column->attname));
}

/*
 * The places of the published table's columns in rows of a table, which is that
 * or a partition of it.  A dropped column has none: a partition that was made
 * later has never had it.
 */
static void
find_places(Source *source, TupleDesc rows)
{
	int		   *places = palloc(sizeof(int) * source->columns->natts);

	source->is_aligned = rows->natts == source->columns->natts;
	for (int i = 0; i < source->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(source->columns, i);

		places[i] = column->attisdropped ? -1 : rows == source->columns ? i : find_place(column, rows);
		source->is_aligned &= column->attisdropped || places[i] == i;
	}
	source->places = places;
}

/*
 * Make the plan for a trigger that fires for rows of a relation, palloc'd in
 * the current context with all that belongs to it.  Messages are those of
 * `published`, with its key and its order of columns: of a partition, the
 * table on which its trigger was created.  The trigger's name is NULL before it
 * is there.
 *
 * Raises 42703 for a column that is not there, 0A000 for a virtual one, and
 * 22023 for other options that do not fit.
 */
NpChangePlan *
np_change_plan_make(Relation relation, Relation published, const NpChangeOptions *options, const NpTriggerFacts *trigger)
{
	NpChangePlan *plan = palloc0(sizeof(NpChangePlan));
	Source		source = {
		.published = published,
		.columns = RelationGetDescr(published),
		.schema = get_namespace_name(RelationGetNamespace(published)),
		.table = RelationGetRelationName(published),
		.options = options,
		.trigger = trigger,
		.needed = palloc0(sizeof(bool) * RelationGetDescr(published)->natts)
	};

	find_places(&source, RelationGetDescr(relation));
	plan->places = source.places;
	plan->needed = source.needed;
	plan->delivery = options->delivery;
	plan->format = options->format;
	plan->old = options->old;
	plan->has_position = options->transaction;
	if (options->transaction_end != NULL)
	{
		np_message_check_subject(np_to_utf8(options->transaction_end, strlen(options->transaction_end)));
		plan->transaction_end = pstrdup(options->transaction_end);
	}
	plan->needs = np_row_needs(source.columns, &plan->row_types);
	find_columns(&source, plan);
	if (options->payload != NULL)
	{
		plan->has_payload = true;
		prepare_needed(&source, "payload", options->payload, &plan->payload);
	}
	require_key(&source, plan);
	require_true_rows(&source);
	compile_template(&source, "subject", options->subject, np_encode_token, &plan->subject);
	/* with any values, which cannot break a subject */
	np_message_check_subject(np_change_template_example(&plan->subject, 'x'));
	if (options->msg_id != NULL)
		compile_template(&source, "msg_id", options->msg_id, np_encode_token, &plan->msg_id);
	if (options->headers != NULL)
		compile_headers(&source, plan);
	write_constants(&source, plan);
	return plan;
}
