/*-------------------------------------------------------------------------
 *
 * change_message.c
 *	  The message about one changed row.
 *
 * Rows become JSON by PostgreSQL's row_to_json; only the envelope around them
 * is written here.  Everything is palloc'd in the current context, which the
 * caller resets after each row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "base/encoding.h"
#include "base/percent.h"
#include "base/settings.h"
#include "base/user.h"
#include "change/change_message.h"
#include "change/change_types.h"
#include "change/output_settings.h"

/* ---- Values ----------------------------------------------------------------------- */

static Datum
shape_row(const NpRowShape *shape, TupleTableSlot *slot)
{
	Datum	   *values;
	bool	   *nulls;

	if (shape->whole)
		return ExecFetchSlotHeapTupleDatum(slot);
	values = palloc(sizeof(Datum) * shape->count);
	nulls = palloc(sizeof(bool) * shape->count);
	for (int i = 0; i < shape->count; i++)
		values[i] = slot_getattr(slot, shape->indexes[i] + 1, &nulls[i]);
	return HeapTupleGetDatum(heap_form_tuple(shape->columns, values, nulls));
}

/* What json ->> gives for a column, but JSON's null as a text. */
static char *
json_text(const NpColumn *column, TupleTableSlot *slot)
{
	const char *name = NameStr(TupleDescAttr(slot->tts_tupleDescriptor, column->index)->attname);

	LOCAL_FCINFO(call, 2);
	Datum		value;

	InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
	call->args[0].value = DirectFunctionCall1(row_to_json, shape_row(&column->row, slot));
	call->args[0].isnull = false;
	call->args[1].value = CStringGetTextDatum(name);
	call->args[1].isnull = false;
	value = json_object_field_text(call);
	return call->isnull ? pstrdup("null") : TextDatumGetCString(value);
}

/* A value of any kind but NP_TEXT_JSON as JSON has it, without quotes. */
static char *
plain_text(const NpColumn *column, Datum value)
{
	char		buffer[MAXDATELEN + 1];

	switch (column->kind)
	{
		case NP_TEXT_BOOLEAN:
			return DatumGetBool(value) ? "true" : "false";
		case NP_TEXT_TIME:
			return pstrdup(JsonEncodeDateTime(buffer, value, column->base_type, NULL));
		default:
			return OutputFunctionCall(unconstify(FmgrInfo *, &column->output), value);
	}
}

/* A column's value as the JSON has it, without quotes; absent for NULL. */
static NpSpan
column_text(const NpColumn *column, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column->index + 1, &isnull);
	char	   *text;

	if (isnull)
		return (NpSpan) {NULL, 0};
	text = column->kind == NP_TEXT_JSON ? json_text(column, slot) : plain_text(column, value);
	return np_utf8_mend(np_to_utf8(text, strlen(text)));
}

static void
append_plain_value(StringInfo json, const NpColumn *column, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column->index + 1, &isnull);
	const char *text = isnull ? "null" : plain_text(column, value);

	if (isnull || column->kind == NP_TEXT_INTEGER || column->kind == NP_TEXT_BOOLEAN)
		appendStringInfoString(json, text);
	else
		escape_json(json, text);
}

static void
append_plain_row(StringInfo json, const NpChangePlan *plan, const NpRowShape *shape, TupleTableSlot *slot)
{
	const char *separator = "{";

	for (int i = 0; i < shape->count; i++)
	{
		appendStringInfoString(json, separator);
		appendStringInfoString(json, plan->json_names[shape->plain[i].number]);
		appendStringInfoChar(json, ':');
		append_plain_value(json, &shape->plain[i], slot);
		separator = ",";
	}
	appendStringInfoString(json, shape->count > 0 ? "}" : "{}");
}

static void
append_encoded_row(StringInfo json, const NpRowShape *shape, TupleTableSlot *slot)
{
	const char *separator = "{";

	for (int i = 0; i < shape->count; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, shape->indexes[i] + 1, &isnull);

		appendStringInfo(json, "%s%s:", separator, shape->coders[i].name);
		np_value_coder_append(json, &shape->coders[i], value, isnull);
		separator = ",";
	}
	appendStringInfoString(json, shape->count > 0 ? "}" : "{}");
}

static void
append_row(StringInfo json, const NpChangePlan *plan, const NpRowShape *shape, TupleTableSlot *slot)
{
	text	   *row;

	if (shape->plain != NULL)
	{
		append_plain_row(json, plan, shape, slot);
		return;
	}
	if (shape->coders != NULL)
	{
		append_encoded_row(json, shape, slot);
		return;
	}
	row = DatumGetTextPP(DirectFunctionCall1(row_to_json, shape_row(shape, slot)));

	appendBinaryStringInfo(json, VARDATA_ANY(row), VARSIZE_ANY_EXHDR(row));
}

/* ---- What an UPDATE changed ----------------------------------------------------------- */

/* Without fetching what is out of line and was not touched. */
static bool
values_differ(Form_pg_attribute column, Datum old, bool old_isnull, Datum new, bool new_isnull)
{
	if (old_isnull || new_isnull)
		return old_isnull != new_isnull;
	if (column->attlen == -1 && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(old)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(new)) &&
		memcmp(DatumGetPointer(old), DatumGetPointer(new), VARSIZE_EXTERNAL(DatumGetPointer(old))) == 0)
		return false;
	return !datum_image_eq(old, new, column->attbyval, column->attlen);
}

/*
 * What is not what it was; false: nothing that matters.  An old row from the WAL
 * can have a part of the columns, which is all that can be said of it then.
 */
static bool
compare_rows(const NpChangePlan *plan, NpChange *change)
{
	bool	   *changed = palloc0(sizeof(bool) * plan->column_count);
	bool		is_whole = plan->wal == NULL || plan->wal->old_is_whole;
	bool		matters = !is_whole;

	if (change->old == NULL)
		return true;

	slot_getallattrs(change->old);
	slot_getallattrs(change->new);
	for (int i = 0; i < plan->column_count; i++)
	{
		int			place = plan->places[i];

		if (!(plan->is_published[i] || plan->is_key[i]) || !(is_whole || plan->wal->in_old[place]) ||
			!values_differ(TupleDescAttr(change->new->tts_tupleDescriptor, place),
						   change->old->tts_values[place], change->old->tts_isnull[place],
						   change->new->tts_values[place], change->new->tts_isnull[place]))
			continue;
		changed[i] = true;
		matters |= plan->matters[i];
		change->key_changed |= plan->is_key[i];
	}
	if (is_whole)
		change->changed = changed;
	return matters;
}

/*
 * What is to be said of a change of a row; returns how many messages that is.
 * None of an UPDATE that changes nothing that matters.  Two of one that
 * changes the key, where consumers keep rows by their key: Debezium's know no
 * other way to take the old one away.
 */
int
np_change_messages(const NpChangePlan *plan, const NpChange *change, NpChange *messages)
{
	messages[0] = *change;
	if (change->op != NP_UPDATE)
		return 1;
	if (!compare_rows(plan, &messages[0]))
		return 0;
	if (plan->format != NP_FORMAT_DEBEZIUM || !messages[0].key_changed || plan->key_is_row)
		return 1;
	messages[1] = messages[0];
	messages[0].op = NP_DELETE;
	messages[1].op = NP_INSERT;
	messages[0].new = messages[1].old = NULL;
	messages[0].changed = messages[1].changed = NULL;
	messages[0].unchanged = NULL;
	return 2;
}

/* ---- Templates -------------------------------------------------------------------------- */

static TupleTableSlot *
current_row(const NpChange *change)
{
	return change->new != NULL ? change->new : change->old;
}

static void
append_encoded(StringInfo out, NpEncoder encoder, NpSpan value)
{
	enlargeStringInfo(out, NP_ENCODED_SIZE(value.length));
	out->len += encoder(value, out->data + out->len);
	out->data[out->len] = '\0';
}

/* Append what a template comes to; false when that has a NULL in it, or what is not known before COMMIT. */
static bool
append_template(StringInfo out, const NpPlanTemplate *plan, NpEncoder encoder, const NpChange *change)
{
	bool		complete = true;

	for (int i = 0; i < plan->count; i++)
	{
		const NpPlanPart *part = &plan->parts[i];
		NpSpan		value = {NULL, 0};

		switch (part->kind)
		{
			case NP_PLAN_TEXT:
				appendBinaryStringInfo(out, part->text.data, part->text.length);
				break;
			case NP_PLAN_OP:
				appendStringInfoString(out, np_change_op_name(change->op));
				break;
			case NP_PLAN_XID:
				appendStringInfoString(out, change->transaction->id_text);
				break;
			case NP_PLAN_LSN:
				complete &= np_change_is_decoded(change->transaction);
				appendStringInfo(out, "%X/%X", LSN_FORMAT_ARGS(change->transaction->commit_lsn));
				break;
			case NP_PLAN_COMMIT_TS:
				complete &= np_change_is_decoded(change->transaction);
				appendStringInfo(out, "%s+00:00", change->transaction->time);
				break;
			case NP_PLAN_COLUMN:
				if (current_row(change) != NULL)
					value = column_text(&part->column, current_row(change));
				complete &= value.data != NULL;
				append_encoded(out, encoder, value);
		}
	}
	return complete;
}

static NpSpan
render_template(const NpPlanTemplate *plan, const NpChange *change)
{
	StringInfoData out;

	initStringInfo(&out);
	(void) append_template(&out, plan, np_encode_token, change);
	return (NpSpan) {out.data, out.len};
}

/* Of a row that is read: with its version, for the next one is another message. */
static NpSpan
make_id(const NpChangePlan *plan, const NpChange *change)
{
	StringInfoData id;

	initStringInfo(&id);
	(void) append_template(&id, &plan->msg_id, np_encode_token, change);
	if (change->op == NP_READ)
		appendStringInfo(&id, ".%u", change->version);
	return (NpSpan) {id.data, id.len};
}

/* ---- Headers ----------------------------------------------------------------------------- */

static void
append_header_template(StringInfo lines, const NpPlanHeader *header, const NpChange *change)
{
	int			start = lines->len;

	appendBinaryStringInfo(lines, header->name.data, header->name.length);
	appendStringInfoString(lines, ": ");
	if (append_template(lines, &header->value, np_encode_header, change))
		appendStringInfoString(lines, "\r\n");
	else
	{
		lines->len = start;
		lines->data[start] = '\0';
	}
}

/* The subject is what a template would make of the key; a header's value is encoded once more. */
static void
append_cloudevents(StringInfo lines, const NpChangePlan *plan, const NpChange *change)
{
	StringInfoData subject;

	appendStringInfo(lines, "ce-time: %sZ\r\n", change->transaction->time);
	if (plan->key_count == 0 || change->op == NP_TRUNCATE)
		return;
	initStringInfo(&subject);
	for (int i = 0; i < plan->key_count; i++)
	{
		if (i > 0)
			appendStringInfoChar(&subject, '.');
		append_encoded(&subject, np_encode_token, column_text(&plan->key_columns[i], current_row(change)));
	}
	appendStringInfoString(lines, "ce-subject: ");
	append_encoded(lines, np_encode_header, (NpSpan) {subject.data, subject.len});
	appendStringInfoString(lines, "\r\n");
}

static NpSpan
make_lines(const NpChangePlan *plan, const NpChange *change)
{
	StringInfoData lines;

	initStringInfo(&lines);
	appendBinaryStringInfo(&lines, plan->lines[change->op].data, plan->lines[change->op].length);
	appendStringInfoString(&lines, "Pg-Xid: ");
	appendStringInfoString(&lines, change->transaction->id_text);
	appendStringInfoString(&lines, "\r\n");
	if (plan->format == NP_FORMAT_CLOUDEVENTS)
		append_cloudevents(&lines, plan, change);
	if (np_traceparent[0] != '\0' && !np_change_is_decoded(change->transaction))
		appendStringInfo(&lines, "traceparent: %s\r\n", np_traceparent);
	for (int i = 0; i < plan->header_count; i++)
		append_header_template(&lines, &plan->headers[i], change);
	return (NpSpan) {lines.data, lines.len};
}

/* ---- Payloads ------------------------------------------------------------------------------ */

/* What Debezium has for a value that is not in the WAL; of bytes, encoded as they are. */
static void
append_placeholder(StringInfo json, const NpChangePlan *plan, const NpValueCoder *coder)
{
	bool		is_base64 = plan->row.coders != NULL && coder->base_type == BYTEAOID;

	appendStringInfo(json, "%s:\"%s\"", coder->name,
					 is_base64 ? "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==" : "__debezium_unavailable_value");
}

/* Is there a published column of which the new value is not known? */
static bool
lacks_values(const NpChangePlan *plan, const NpChange *change)
{
	for (int i = 0; change->unchanged != NULL && i < plan->column_count; i++)
		if (change->unchanged[i] && plan->is_published[i])
			return true;
	return false;
}

/* The new row without the columns of which the value is not known. */
static void
append_known_row(StringInfo json, const NpChangePlan *plan, const NpChange *change)
{
	NpValueCoder *coder = plan->wal->coders;
	const char *separator = "{";

	for (int i = 0; i < plan->column_count; i++)
	{
		bool		isnull;
		Datum		value;

		if (!plan->is_published[i])
			continue;
		if (!change->unchanged[i])
		{
			value = slot_getattr(change->new, plan->places[i] + 1, &isnull);
			appendStringInfo(json, "%s%s:", separator, coder->name);
			if (plan->row.coders != NULL)
				np_value_coder_append(json, coder, value, isnull);
			else
				np_value_coder_append_json(json, coder, value, isnull);
			separator = ",";
		}
		else if (plan->format == NP_FORMAT_DEBEZIUM)
		{
			appendStringInfoString(json, separator);
			append_placeholder(json, plan, coder);
			separator = ",";
		}
		coder++;
	}
	appendStringInfoString(json, separator[0] == '{' ? "{}" : "}");
}

static void
append_new(StringInfo json, const NpChangePlan *plan, const NpChange *change)
{
	if (lacks_values(plan, change))
		append_known_row(json, plan, change);
	else
		append_row(json, plan, &plan->row, change->new);
}

/* The names of those published columns that are marked. */
static void
append_names(StringInfo json, const NpChangePlan *plan, const char *name, const bool *marked)
{
	const char *separator = "";

	appendStringInfo(json, ",\"%s\":[", name);
	for (int i = 0; i < plan->column_count; i++)
	{
		if (!marked[i] || !plan->is_published[i])
			continue;
		appendStringInfoString(json, separator);
		appendStringInfoString(json, plan->json_names[i]);
		separator = ",";
	}
	appendStringInfoChar(json, ']');
}

/*
 * The row before, if it is in the message at all: the whole row, or its key
 * when the row has another one now, or (a DELETE) is not there any more.
 */
static const NpRowShape *
old_shape(const NpChangePlan *plan, const NpChange *change)
{
	if (change->old == NULL)
		return NULL;
	if (plan->old)
		return &plan->old_row;
	if (plan->key_count > 0 && (change->op == NP_DELETE || change->key_changed))
		return &plan->key;
	return NULL;
}

static void
append_json(StringInfo json, const NpChangePlan *plan, const NpChange *change)
{
	const NpRowShape *old = old_shape(plan, change);

	appendStringInfoString(json, plan->beginnings[change->op]);
	if (plan->key_count > 0 && current_row(change) != NULL)
	{
		appendStringInfoString(json, ",\"key\":");
		append_row(json, plan, &plan->key, current_row(change));
	}
	if (change->new != NULL)
	{
		appendStringInfoString(json, ",\"new\":");
		append_new(json, plan, change);
	}
	/* the key of a deleted row is there already */
	if (old != NULL && (plan->old || change->op != NP_DELETE))
	{
		appendStringInfoString(json, ",\"old\":");
		append_row(json, plan, old, change->old);
	}
	if (change->changed != NULL)
		append_names(json, plan, "changed", change->changed);
	if (lacks_values(plan, change))
		append_names(json, plan, "unchanged", change->unchanged);
	if (plan->has_position)
		appendStringInfo(json, ",\"tx\":{\"n\":" INT64_FORMAT "}", change->position.number);
	appendStringInfoString(json, change->transaction->json);
}

static void
append_debezium(StringInfo json, const NpChangePlan *plan, const NpChange *change)
{
	static const char ops[] = {[NP_INSERT] = 'c',[NP_UPDATE] = 'u',[NP_DELETE] = 'd',[NP_TRUNCATE] = 't',[NP_READ] = 'r'};
	const NpRowShape *old = old_shape(plan, change);

	appendStringInfoString(json, "{\"before\":");
	if (old != NULL)
		append_row(json, plan, old, change->old);
	else
		appendStringInfoString(json, "null");
	appendStringInfoString(json, ",\"after\":");
	if (change->new != NULL)
		append_new(json, plan, change);
	else
		appendStringInfoString(json, "null");
	appendStringInfo(json, ",\"source\":%s,\"ts_ms\":" INT64_FORMAT ",\"txId\":%s,\"lsn\":" UINT64_FORMAT ",\"xmin\":null}",
					 plan->sources[change->op], np_change_milliseconds(change->transaction->at),
					 change->transaction->id_text, change->lsn);
	appendStringInfo(json, ",\"op\":\"%c\",\"ts_ms\":" INT64_FORMAT ",\"transaction\":",
					 ops[change->op], np_change_milliseconds(GetCurrentTimestamp()));
	if (plan->has_position)
		appendStringInfo(json, "{\"id\":\"%s\",\"total_order\":" INT64_FORMAT ",\"data_collection_order\":" INT64_FORMAT "}}",
						 change->position.id, change->position.number, change->position.number_of_table);
	else
		appendStringInfoString(json, "null}");
}

/* A column alone: bytea and JSON as they are, anything else as text. */
static NpSpan
payload_of_column(const NpColumn *column, TupleTableSlot *row)
{
	Datum		value;
	bool		isnull;
	bytea	   *bytes;
	char	   *text;

	if (row == NULL || slot_attisnull(row, column->index + 1))
		return (NpSpan) {NULL, 0};
	value = slot_getattr(row, column->index + 1, &isnull);
	switch (column->base_type)
	{
		case BYTEAOID:
			bytes = DatumGetByteaPP(value);
			return (NpSpan) {VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes)};
		case JSONOID:
		case JSONBOID:
			/* where a string has quotes, and may have escapes that no text can */
			text = OutputFunctionCall(unconstify(FmgrInfo *, &column->output), value);
			return np_utf8_mend(np_to_utf8(text, strlen(text)));
		default:
			return column_text(column, row);
	}
}

static NpSpan
make_payload(const NpChangePlan *plan, const NpChange *change)
{
	StringInfoData json;

	if (plan->has_payload)
		return payload_of_column(&plan->payload, current_row(change));
	initStringInfo(&json);
	if (plan->format == NP_FORMAT_DEBEZIUM)
		append_debezium(&json, plan, change);
	else
		append_json(&json, plan, change);
	return np_utf8_mend(np_to_utf8(json.data, json.len));
}

static void
build(NpMessage *message, const NpChangePlan *plan, const NpChange *change)
{
	NpMessageOptions options = {.is_annotated = !np_change_is_decoded(change->transaction),
		.annotations = change->transaction->annotations,.msg_id = change->id,
	.has_expect_last_subject_seq = plan->only_missing};
	NpSpan		subject;
	NpSpan		payload;
	int			nest_level = np_output_settings_begin(plan->needs);

	options.lines = make_lines(plan, change);
	if (plan->format == NP_FORMAT_CLOUDEVENTS)
		options.id_header = "ce-id";
	if (plan->msg_id.count > 0)
		options.msg_id = make_id(plan, change);
	subject = render_template(&plan->subject, change);
	payload = make_payload(plan, change);
	np_output_settings_end(nest_level);
	np_message_build(message, subject, payload, &options);
	message->may_be_refused = plan->only_missing;
}

/*
 * Build one message of np_change_messages.
 *
 * Raises what output functions, conversions and np_message_build raise.
 */
void
np_change_message_build(NpMessage *message, const NpChangePlan *plan, const NpChange *change)
{
	NpUser		caller;

	if (!OidIsValid(change->maker))
	{
		build(message, plan, change);
		return;
	}
	np_user_become_owner(&caller, change->maker);
	build(message, plan, change);
	np_user_return(&caller);
}

/* Are the columns that are marked known of the row that a change is about? */
static bool
row_has(const NpChangePlan *plan, const NpChange *change, const bool *marked)
{
	for (int i = 0; i < plan->column_count; i++)
		if (marked[i] && (change->new == NULL ? !plan->wal->in_old[plan->places[i]] :
						  change->unchanged != NULL && change->unchanged[i]))
			return false;
	return true;
}

/* The subject that a change would have by default. */
static NpSpan
plain_subject(const NpChangePlan *plan, const NpChange *change)
{
	const char *names[] = {plan->schema, plan->table, np_change_op_name(change->op)};
	StringInfoData subject;

	initStringInfo(&subject);
	for (int i = 0; i < lengthof(names); i++)
	{
		const char *name = np_to_utf8_somehow(names[i]);

		if (i > 0)
			appendStringInfoChar(&subject, '.');
		/* the subjects of inboxes are reserved, which begin so */
		else if (name[0] == '_')
		{
			appendStringInfoString(&subject, "%5F");
			name++;
		}
		append_encoded(&subject, np_encode_token, (NpSpan) {name, strlen(name)});
	}
	return (NpSpan) {subject.data, subject.len};
}

/*
 * Build a message about a change of which there is none, for who looks for it:
 * its operation, table and transaction, and if wanted, as far as its row is
 * known, its subject and key.
 *
 * Raises what np_change_message_build raises; without subject and key, only
 * what no message could go without.
 */
void
np_change_message_describe(NpMessage *message, const NpChangePlan *plan, const NpChange *change,
						   bool with_subject, bool with_key)
{
	NpMessageOptions options = {.lines = plan->lines[change->op],.msg_id = change->id};
	bool		has_subject = with_subject && row_has(plan, change, plan->needed);
	StringInfoData json;
	const char *text;

	initStringInfo(&json);
	appendStringInfo(&json, "%s,\"key\":", plan->beginnings[change->op]);
	if (with_key && plan->key_count > 0 && current_row(change) != NULL && row_has(plan, change, plan->is_key))
		append_row(&json, plan, &plan->key, current_row(change));
	else
		appendStringInfoString(&json, "null");
	appendStringInfoString(&json, change->transaction->json);
	text = np_to_utf8_somehow(json.data);
	np_message_build(message, has_subject ? render_template(&plan->subject, change) : plain_subject(plan, change),
					 np_utf8_mend((NpSpan) {text, strlen(text)}), &options);
}
