/*-------------------------------------------------------------------------
 *
 * change_ddl.c
 *	  The event trigger that publishes DDL.
 *
 * One message for each command, in order with those of the rows: what it did
 * to which objects, and what the client sent.  Event triggers have no
 * arguments, so the options are in a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/encoding.h"
#include "base/percent.h"
#include "base/report.h"
#include "base/user.h"
#include "change/change_delivery.h"
#include "change/change_transaction.h"
#include "change/template.h"
#include "commit/transaction.h"
#include "outbox/statement.h"
#include "publish/policy.h"

PG_FUNCTION_INFO_V1(nats_publish_command);
PG_FUNCTION_INFO_V1(nats_check_ddl);
PG_FUNCTION_INFO_V1(nats_keep_ddl);
PG_FUNCTION_INFO_V1(nats_forget_ddl);

static NpStatement read_options = {
	.text = "SELECT subject, delivery FROM %s.nats_published_ddl"
};

static NpStatement forget_options = {
	.text = "DELETE FROM %s.nats_published_ddl"
};

static NpStatement keep_options = {
	.text = "INSERT INTO %s.nats_published_ddl (subject, delivery) VALUES ($1, $2)",
	.argument_count = 2,
	.types = {TEXTOID, TEXTOID}
};

/* As JSON.  What an extension's script does is in its own CREATE or ALTER EXTENSION. */
static NpStatement read_commands = {
	.text = "SELECT pg_catalog.json_agg(pg_catalog.json_build_object("
	"'type', object_type, 'schema', schema_name, 'name', object_identity))::pg_catalog.text"
	" FROM pg_catalog.pg_event_trigger_ddl_commands()"
	" WHERE NOT in_extension AND coalesce(schema_name, '') OPERATOR(pg_catalog.<>) 'pg_temp'"
	/* a trigger, policy or rule has no schema, but that of its table in its identity, behind all else */
	" AND (schema_name IS NOT NULL OR coalesce(object_identity, '') OPERATOR(pg_catalog.!~) ' on pg_temp[.](\"([^\"]|\"\")+\"|[^\".]+)$')"
};

#define RELATIONS	"'{table,foreign table,view,materialized view}'::pg_catalog.text[]"
#define PARTS		"'{table column,foreign table column,table constraint,default value,trigger,policy,rule}'::pg_catalog.text[]"

/* With CASCADE: relations, and what was dropped of others that are still there. */
static NpStatement read_dropped = {
	.text = "WITH dropped AS (SELECT * FROM pg_catalog.pg_event_trigger_dropped_objects() WHERE NOT is_temporary"
	/* what is dropped of a table that stays has its names before its own */
	" AND NOT (object_type OPERATOR(pg_catalog.=) ANY (" PARTS ") AND address_names[1] OPERATOR(pg_catalog.=) 'pg_temp'))"
	" SELECT pg_catalog.json_agg(pg_catalog.json_build_object("
	"'type', object_type, 'schema', schema_name, 'name', object_identity))::pg_catalog.text"
	" FROM dropped AS o WHERE original OR object_type OPERATOR(pg_catalog.=) ANY (" RELATIONS ")"
	" OR normal AND object_type OPERATOR(pg_catalog.=) ANY (" PARTS ") AND NOT EXISTS (SELECT FROM dropped AS whole"
	" WHERE object_type OPERATOR(pg_catalog.=) ANY (" RELATIONS ")"
	" AND whole.address_names OPERATOR(pg_catalog.=) o.address_names[1:2])"
};

/* The first row of a statement: as many of its columns, palloc'd for the caller; false: there is none, or it begins with NULL. */
static bool
read_row(NpStatement *statement, Oid schema, char **values, int count)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		is_there;

	SPI_connect();
	(void) np_statement_read(statement, schema, NULL, 1);
	for (int i = 0; i < count && SPI_processed > 0; i++)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);

		values[i] = value == NULL ? NULL : MemoryContextStrdup(caller, value);
	}
	is_there = SPI_processed > 0 && values[0] != NULL;
	SPI_finish();
	return is_there;
}

static bool
read_options_as_owner(Oid schema, char **options)
{
	HeapTuple	table = SearchSysCache2(RELNAMENSP, CStringGetDatum("nats_published_ddl"), ObjectIdGetDatum(schema));
	NpUser		caller;
	bool		is_there;

	if (!HeapTupleIsValid(table))
		return false;			/* the extension is being dropped */
	np_user_become_owner(&caller, ((Form_pg_class) GETSTRUCT(table))->relowner);
	ReleaseSysCache(table);
	is_there = read_row(&read_options, schema, options, 2);
	np_user_return(&caller);
	return is_there;
}

/* CREATE TABLE as create_table */
static void
append_command(StringInfo out, const char *tag)
{
	for (; *tag != '\0'; tag++)
		appendStringInfoChar(out, *tag == ' ' ? '_' : pg_ascii_tolower((unsigned char) *tag));
}

/* Raises 22023 for what is no template of a subject. */
static NpSpan
render_subject(const char *template, const char *tag)
{
	NpSpan		rest = {template, strlen(template)};
	NpTemplatePart part;
	StringInfoData out;

	initStringInfo(&out);
	while ((part = np_template_next(&rest)).kind != NP_PART_END)
	{
		if (part.kind == NP_PART_PROBLEM)
			np_raise_input("the template of the subject %s: \"%s\"", part.text.data, template);
		if (part.kind == NP_PART_TEXT)
			appendBinaryStringInfo(&out, part.text.data, part.text.length);
		else if (part.kind == NP_PART_NAME && part.text.length == strlen("command") &&
				 strncmp(part.text.data, "command", part.text.length) == 0)
			append_command(&out, tag);
		else
			np_raise_input("the template of the subject has something other than {command} in braces: \"%s\"", template);
	}
	return np_to_utf8(out.data, out.len);
}

/* Is there a URL with a password, or a token, in it?  These can have slashes in them. */
static bool
has_credentials(const char *text)
{
	while ((text = strstr(text, "://")) != NULL)
	{
		text += strlen("://");
		if (text[strcspn(text, "@'\" \t\r\n")] == '@')
			return true;
	}
	return false;
}

/*
 * What the client sent; NULL: it may have a secret in it, or there is none.
 * A command of a function is in the function's call, and one of several that
 * were sent at once is among them.
 *
 * A column that is called as a secret is costs a statement; a secret that is
 * called otherwise, and is in no command that is made for one, is not known.
 */
static const char *
find_statement(const char *tag)
{
	static const char *const words[] = {"password", "mapping", "subscription", "connection", "token", "nkey", "creds", "secret", "nats_publish.url"};
	char	   *lower;

	if (debug_query_string == NULL || strstr(tag, "USER MAPPING") != NULL || strstr(tag, "SUBSCRIPTION") != NULL)
		return NULL;
	lower = pstrdup(debug_query_string);
	for (char *byte = lower; *byte != '\0'; byte++)
		*byte = pg_ascii_tolower((unsigned char) *byte);
	for (int i = 0; i < lengthof(words); i++)
		if (strstr(lower, words[i]) != NULL)
			return NULL;
	return has_credentials(lower) ? NULL : debug_query_string;
}

static void
publish_command(Oid schema, const char *const *options, const char *tag, const char *objects)
{
	const char *statement = find_statement(tag);
	NpMessageOptions message_options = {.is_annotated = true};
	NpMessage	message;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"op\":\"ddl\",\"command\":");
	escape_json(&json, tag);
	appendStringInfo(&json, ",\"objects\":%s,\"statement\":", objects);
	if (statement != NULL)
		escape_json(&json, statement);
	else
		appendStringInfoString(&json, "null");
	appendStringInfoString(&json, np_change_transaction()->json);
	message_options.lines.data = psprintf("Pg-Op: ddl\r\nPg-Xid: %s\r\n", np_change_transaction()->id_text);
	message_options.lines.length = strlen(message_options.lines.data);
	np_message_build(&message, render_subject(options[0], tag), np_utf8_mend(np_to_utf8(json.data, json.len)),
					 &message_options);
	np_change_deliver(schema, np_delivery_parse(options[1]), &message);
}

/*
 * nats_publish_command(): publishes the command that its event trigger fired for
 *
 * Raises 39P03 when no event trigger has called it, and what publishing raises.
 */
Datum
nats_publish_command(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = (EventTriggerData *) fcinfo->context;
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	char	   *options[2];
	char	   *objects;
	const char *tag;
	bool		is_drop;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("nats_publish_command() can only be called by an event trigger")));
	np_transaction_join();
	tag = GetCommandTagName(data->tag);
	is_drop = strcmp(data->event, "sql_drop") == 0;
	/* what an ALTER drops is told by its own message; and a restored dump ends with what changes no schema */
	if ((is_drop && strncmp(tag, "DROP", 4) != 0) || data->tag == CMDTAG_REFRESH_MATERIALIZED_VIEW || np_policy_skips_calls(NP_STATS_ON_COMMIT) ||
		!read_options_as_owner(schema, options) ||
		!read_row(is_drop ? &read_dropped : &read_commands, schema, &objects, 1))
		PG_RETURN_NULL();
	publish_command(schema, (const char *const *) options, tag, objects);
	PG_RETURN_NULL();
}

/* nats_check_ddl(subject, delivery): raises 22023 and 0A000 for what the event trigger could not use */
Datum
nats_check_ddl(PG_FUNCTION_ARGS)
{
	if (np_delivery_parse(text_to_cstring(PG_GETARG_TEXT_PP(1))) == NP_DELIVER_WAL)
		np_raise_fault(NP_FAULT_FEATURE, "Use the delivery \"outbox\".", "commands cannot be published from the WAL");
	np_message_check_subject(render_subject(text_to_cstring(PG_GETARG_TEXT_PP(0)), "CREATE TABLE"));
	PG_RETURN_BOOL(true);
}

/* ---- nats_published_ddl ---------------------------------------------------------------- */

/*
 * Who publishes DDL is a superuser, as he creates event triggers.  The table can
 * be somebody else's, whose triggers must not have his rights.
 */
static void
write_options(FunctionCallInfo fcinfo, NpStatement *statement, Datum *values, const char *nulls)
{
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	NpUser		caller;

	np_statements_begin(&caller, schema, "nats_published_ddl");
	(void) np_statement_write(statement, schema, values, nulls);
	np_statements_end(&caller);
}

/* nats_keep_ddl(subject, delivery): have that in nats_published_ddl; raises 23502, and what nats_check_ddl() does */
Datum
nats_keep_ddl(PG_FUNCTION_ARGS)
{
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	const char	nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' '};

	write_options(fcinfo, &keep_options, values, nulls);
	PG_RETURN_VOID();
}

/* nats_forget_ddl(): have nothing in nats_published_ddl */
Datum
nats_forget_ddl(PG_FUNCTION_ARGS)
{
	write_options(fcinfo, &forget_options, NULL, NULL);
	PG_RETURN_VOID();
}
