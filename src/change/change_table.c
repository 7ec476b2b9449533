/*-------------------------------------------------------------------------
 *
 * change_table.c
 *	  The SQL functions that give a table the triggers that publish its
 *	  changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/catch.h"
#include "base/report.h"
#include "base/subtransaction.h"
#include "change/change_cache.h"
#include "change/change_table.h"
#include "change/change_trigger.h"
#include "change/change_wal.h"
#include "change/change_wal_table.h"

PG_FUNCTION_INFO_V1(nats_publish_table);
PG_FUNCTION_INFO_V1(nats_unpublish_table);
PG_FUNCTION_INFO_V1(nats_change_options);

/* The arguments of nats_publish_table(). */
enum
{
	ARG_RELATION,
	ARG_SUBJECT,
	ARG_LEVEL,
	ARG_DELIVERY,
	ARG_FORMAT,
	ARG_COLUMNS,
	ARG_IGNORE,
	ARG_KEY,
	ARG_MSG_ID,
	ARG_HEADERS,
	ARG_OLD,
	ARG_EVENTS,
	ARG_PAYLOAD,
	ARG_VALUE_ENCODING,
	ARG_TRANSACTION,
	ARG_TRANSACTION_END
};

/* The columns of nats_change_options(). */
enum
{
	OPTION_SUBJECT,
	OPTION_DELIVERY,
	OPTION_FORMAT,
	OPTION_COLUMNS,
	OPTION_IGNORE,
	OPTION_KEY,
	OPTION_MSG_ID,
	OPTION_HEADERS,
	OPTION_OLD,
	OPTION_PAYLOAD,
	OPTION_VALUE_ENCODING,
	OPTION_TRANSACTION,
	OPTION_TRANSACTION_END,
	OPTION_ERROR,
	OPTION_HINT,
	OPTION_COUNT
};

/* The triggers that a published table can have: no name but these is ours. */
typedef struct TriggerKind
{
	const char *name;
	bool		row;			/* FOR EACH ROW, all its events in one */
	int16		events;
	const char *referencing;	/* clause, or "" */
} TriggerKind;

static const TriggerKind trigger_kinds[] = {
	{"nats_publish_row", true, TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE, ""},
	{"nats_publish_insert", false, TRIGGER_TYPE_INSERT, "REFERENCING NEW TABLE AS new_rows"},
	{"nats_publish_update", false, TRIGGER_TYPE_UPDATE, "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"},
	{"nats_publish_delete", false, TRIGGER_TYPE_DELETE, "REFERENCING OLD TABLE AS old_rows"},
	{"nats_publish_truncate", false, TRIGGER_TYPE_TRUNCATE, ""},
};

typedef struct Event
{
	const char *name;
	const char *keyword;
	int16		type;
} Event;

static const Event known_events[] = {
	{"insert", "INSERT", TRIGGER_TYPE_INSERT},
	{"update", "UPDATE", TRIGGER_TYPE_UPDATE},
	{"delete", "DELETE", TRIGGER_TYPE_DELETE},
	{"truncate", "TRUNCATE", TRIGGER_TYPE_TRUNCATE},
};

/* ---- Arguments ------------------------------------------------------------------- */

static char *
get_string_or_null(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* A text[] as a list of strings. */
static List *
get_list(FunctionCallInfo fcinfo, int argument, const char *name)
{
	List	   *list = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			np_raise_input("%s has a null in it", name);
		list = lappend(list, TextDatumGetCString(elements[i]));
	}
	return list;
}

static bool
get_is_row_level(FunctionCallInfo fcinfo)
{
	const char *level = get_string_or_null(fcinfo, ARG_LEVEL);

	if (level == NULL || strcmp(level, "row") == 0)
		return true;
	if (strcmp(level, "statement") != 0)
		np_raise_input("level must be \"row\" or \"statement\", not \"%s\"", level);
	return false;
}

/* As the bits of a trigger's type. */
static int16
get_events(FunctionCallInfo fcinfo)
{
	int16		events = 0;
	ListCell   *cell;

	if (PG_ARGISNULL(ARG_EVENTS))
		return TRIGGER_TYPE_EVENT_MASK;
	foreach(cell, get_list(fcinfo, ARG_EVENTS, "events"))
	{
		int16		type = 0;

		for (int i = 0; i < lengthof(known_events); i++)
			if (strcmp(lfirst(cell), known_events[i].name) == 0)
				type = known_events[i].type;
		if (type == 0)
			np_raise_input("there is no event \"%s\"", (char *) lfirst(cell));
		events |= type;
	}
	if (events == 0)
		np_raise_input("events is empty");
	return events;
}

/* ---- Trigger arguments -------------------------------------------------------------- */

static List *
add_argument(List *arguments, const char *name, const char *value)
{
	return value == NULL ? arguments : lappend(arguments, psprintf("%s=%s", name, value));
}

static List *
add_columns(List *arguments, FunctionCallInfo fcinfo, int argument, const char *name)
{
	StringInfoData list;
	ListCell   *cell;

	if (PG_ARGISNULL(argument))
		return arguments;
	initStringInfo(&list);
	foreach(cell, get_list(fcinfo, argument, name))
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(lfirst(cell)));
	return add_argument(arguments, name, list.data);
}

/* NULL when it is the default, which needs no argument. */
static const char *
unless_default(const char *value, const char *standard)
{
	return value != NULL && strcmp(value, standard) == 0 ? NULL : value;
}

static List *
make_trigger_arguments(FunctionCallInfo fcinfo)
{
	List	   *arguments = NIL;
	char	   *headers = NULL;

	if (!PG_ARGISNULL(ARG_HEADERS))
		headers = JsonbToCString(NULL, &PG_GETARG_JSONB_P(ARG_HEADERS)->root, 0);
	arguments = add_argument(arguments, "subject",
							 unless_default(get_string_or_null(fcinfo, ARG_SUBJECT), NP_DEFAULT_SUBJECT));
	arguments = add_argument(arguments, "delivery",
							 unless_default(get_string_or_null(fcinfo, ARG_DELIVERY),
											np_delivery_name(NP_DELIVER_ON_COMMIT)));
	arguments = add_argument(arguments, "format",
							 unless_default(get_string_or_null(fcinfo, ARG_FORMAT),
											np_change_format_name(NP_FORMAT_JSON)));
	arguments = add_columns(arguments, fcinfo, ARG_COLUMNS, "columns");
	arguments = add_columns(arguments, fcinfo, ARG_IGNORE, "ignore");
	arguments = add_columns(arguments, fcinfo, ARG_KEY, "key");
	arguments = add_argument(arguments, "msg_id", get_string_or_null(fcinfo, ARG_MSG_ID));
	arguments = add_argument(arguments, "headers", headers);
	if (!PG_ARGISNULL(ARG_OLD) && PG_GETARG_BOOL(ARG_OLD))
		arguments = add_argument(arguments, "old", "true");
	if (!PG_ARGISNULL(ARG_PAYLOAD))
		arguments = add_argument(arguments, "payload", quote_identifier(get_string_or_null(fcinfo, ARG_PAYLOAD)));
	arguments = add_argument(arguments, "value_encoding",
							 unless_default(get_string_or_null(fcinfo, ARG_VALUE_ENCODING), "json"));
	if (!PG_ARGISNULL(ARG_TRANSACTION) && PG_GETARG_BOOL(ARG_TRANSACTION))
		arguments = add_argument(arguments, "transaction", "true");
	arguments = add_argument(arguments, "transaction_end", get_string_or_null(fcinfo, ARG_TRANSACTION_END));
	return arguments;
}

static void
parse_options(NpChangeOptions *options, List *arguments)
{
	char	  **array = palloc(sizeof(char *) * list_length(arguments));
	ListCell   *cell;

	foreach(cell, arguments)
		array[foreach_current_index(cell)] = lfirst(cell);
	np_change_options_parse(options, list_length(arguments), array);
}

/* ---- Triggers ------------------------------------------------------------------------ */

static char *
qualified_name(Relation relation)
{
	return pstrdup(quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
											  RelationGetRelationName(relation)));
}

static char *
schema_name(FunctionCallInfo fcinfo)
{
	return get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid));
}

/* Is it the name of a trigger that nats_publish_table() creates? */
bool
np_change_table_names(const char *trigger)
{
	for (int i = 0; i < lengthof(trigger_kinds); i++)
		if (strcmp(trigger, trigger_kinds[i].name) == 0)
			return true;
	return false;
}

static bool
is_ours(const Trigger *trigger, Oid function)
{
	return !trigger->tgisclone && trigger->tgfoid == function && np_change_table_names(trigger->tgname);
}

/* The commands that drop what an earlier nats_publish_table() made. */
static List *
make_drop_commands(FunctionCallInfo fcinfo, Relation relation)
{
	Oid			function = np_change_trigger_function(get_func_namespace(fcinfo->flinfo->fn_oid));
	const char *table = qualified_name(relation);	/* a look at the catalog can free the triggers */
	List	   *commands = NIL;

	for (int i = 0; relation->trigdesc != NULL && i < relation->trigdesc->numtriggers; i++)
		if (is_ours(&relation->trigdesc->triggers[i], function))
			commands = lappend(commands, psprintf("DROP TRIGGER %s ON %s",
												  quote_identifier(relation->trigdesc->triggers[i].tgname),
												  table));
	return commands;
}

/* Nobody locks a table on which he could not create a trigger. */
static void
require_privilege(Oid relation)
{
	AclResult	result = pg_class_aclcheck(relation, GetUserId(), ACL_TRIGGER);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(relation));
}

/* Has it triggers of ours, which are to be dropped? */
static bool
has_triggers(FunctionCallInfo fcinfo, Oid oid)
{
	Relation	relation = relation_open(oid, AccessShareLock);
	List	   *commands = make_drop_commands(fcinfo, relation);

	relation_close(relation, AccessShareLock);
	return commands != NIL;
}

/*
 * The table, locked as CREATE TRIGGER or, when it is to be, DROP TRIGGER does:
 * to take the one and then the other would be a deadlock with a writer.
 */
static Relation
open_relation(FunctionCallInfo fcinfo)
{
	Relation	relation;
	char		kind;
	NpFailure	failure;

	if (PG_ARGISNULL(ARG_RELATION))
	{
		failure = np_failure(NP_FAULT_NULL, "relation must not be null");
		np_raise(&failure);
	}
	require_privilege(PG_GETARG_OID(ARG_RELATION));
	relation = relation_open(PG_GETARG_OID(ARG_RELATION),
							 has_triggers(fcinfo, PG_GETARG_OID(ARG_RELATION)) ? AccessExclusiveLock :
							 ShareRowExclusiveLock);
	kind = relation->rd_rel->relkind;
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_FOREIGN_TABLE)
	{
		failure = np_failure(NP_FAULT_RELATION, "\"%s\" is not a table", RelationGetRelationName(relation));
		np_raise(&failure);
	}
	return relation;
}

static char *
make_create_command(const TriggerKind *kind, int16 events, const char *relation, const char *function,
					List *arguments)
{
	StringInfoData command;
	const char *separator = "";
	ListCell   *cell;

	initStringInfo(&command);
	appendStringInfo(&command, "CREATE TRIGGER %s AFTER", kind->name);
	for (int i = 0; i < lengthof(known_events); i++)
	{
		if ((known_events[i].type & events) == 0)
			continue;
		appendStringInfo(&command, "%s %s", separator, known_events[i].keyword);
		separator = " OR";
	}
	appendStringInfo(&command, " ON %s %s FOR EACH %s EXECUTE FUNCTION %s(",
					 relation, kind->referencing, kind->row ? "ROW" : "STATEMENT", function);
	separator = "";
	foreach(cell, arguments)
	{
		appendStringInfo(&command, "%s%s", separator, quote_literal_cstr(lfirst(cell)));
		separator = ", ";
	}
	appendStringInfoChar(&command, ')');
	return command.data;
}

static List *
make_create_commands(FunctionCallInfo fcinfo, const char *relation, List *arguments, bool disabled)
{
	List	   *commands = NIL;
	bool		row_level = get_is_row_level(fcinfo);
	int16		wanted = get_events(fcinfo);
	const char *function = quote_qualified_identifier(schema_name(fcinfo), "nats_publish_change");

	for (int i = 0; i < lengthof(trigger_kinds); i++)
	{
		const TriggerKind *kind = &trigger_kinds[i];
		int16		events = kind->events & wanted;

		if (events == 0 || (kind->row != row_level && kind->events != TRIGGER_TYPE_TRUNCATE))
			continue;
		commands = lappend(commands, make_create_command(kind, events, relation, function, arguments));
		if (disabled)
			commands = lappend(commands, psprintf("ALTER TABLE %s DISABLE TRIGGER %s", relation, kind->name));
	}
	return commands;
}

static void
execute(List *commands)
{
	ListCell   *cell;

	SPI_connect();
	foreach(cell, commands)
	{
		int			result = SPI_execute(lfirst(cell), false, 0);

		if (result != SPI_OK_UTILITY)
			elog(ERROR, "\"%s\" failed: %s", (char *) lfirst(cell), SPI_result_code_string(result));
	}
	SPI_finish();
}

/* What is to be published, and may be so already. */
typedef struct Wish
{
	Oid			function;
	int16		events;			/* of rows */
	bool		row_level;
} Wish;

/* Would a change be published by this trigger of a table above or below, too?  Statements name the one table or the other. */
static bool
is_doubled_by(const Wish *wish, const Trigger *trigger)
{
	return is_ours(trigger, wish->function) && (trigger->tgtype & wish->events) != 0 &&
		(wish->row_level || TRIGGER_FOR_ROW(trigger->tgtype)) &&
		(trigger->tgenabled != TRIGGER_DISABLED || np_change_is_from_wal(trigger->tgnargs, trigger->tgargs));
}

static void
refuse_doubled(const Wish *wish, Relation relation, Oid other)
{
	Relation	related = relation_open(other, AccessShareLock);

	for (int i = 0; related->trigdesc != NULL && i < related->trigdesc->numtriggers; i++)
		if (is_doubled_by(wish, &related->trigdesc->triggers[i]))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("changes of table \"%s\" would be published twice", RelationGetRelationName(relation)),
					 errdetail("Table \"%s\", which is published, has the same rows.", RelationGetRelationName(related)),
					 errhint("Publish either a partitioned table or its partitions: call nats_unpublish_table() for \"%s\" first.",
							 RelationGetRelationName(related))));
	relation_close(related, AccessShareLock);
}

/* A partition has rows of the tables above it. */
static void
refuse_second_publication(FunctionCallInfo fcinfo, Relation relation)
{
	Wish		wish = {np_change_trigger_function(get_func_namespace(fcinfo->flinfo->fn_oid)),
	get_events(fcinfo) & ~TRIGGER_TYPE_TRUNCATE, get_is_row_level(fcinfo)};
	ListCell   *cell;

	if (relation->rd_rel->relispartition)
		foreach(cell, get_partition_ancestors(RelationGetRelid(relation)))
			refuse_doubled(&wish, relation, lfirst_oid(cell));
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		foreach(cell, find_all_inheritors(RelationGetRelid(relation), AccessShareLock, NULL))
			if (lfirst_oid(cell) != RelationGetRelid(relation))
			refuse_doubled(&wish, relation, lfirst_oid(cell));
}

/* Triggers of a table see little of the tables that inherit from it. */
static void
warn_of_children(Relation relation, bool row_level)
{
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		find_inheritance_children(RelationGetRelid(relation), NoLock) == NIL)
		return;
	ereport(WARNING,
			(errmsg("changes of rows in the children of table \"%s\" are not all published", RelationGetRelationName(relation)),
			 row_level ? errdetail("A row trigger sees the rows of its own table alone.") :
			 errdetail("A statement trigger sees what statements that name its table change, without the columns that a child has besides."),
			 errhint("Publish each child, too.")));
}

/*
 * nats_publish_table(relation, subject, level, delivery, ...): creates the triggers
 *
 * Raises 22004, 42809 and 22023 for arguments that are not possible, 42703
 * for unknown columns, 42710 for what is published with a table above or below
 * it, and what CREATE TRIGGER raises.
 */
Datum
nats_publish_table(PG_FUNCTION_ARGS)
{
	Relation	relation = open_relation(fcinfo);
	List	   *arguments = make_trigger_arguments(fcinfo);
	List	   *commands;
	NpChangeOptions options;
	NpTriggerFacts facts = {.type = get_events(fcinfo) | (get_is_row_level(fcinfo) ? TRIGGER_TYPE_ROW : 0)};
	NpChangePlan *plan;

	parse_options(&options, arguments);
	refuse_second_publication(fcinfo, relation);
	plan = np_change_plan_of(relation, relation, &options, &facts);
	if (plan->wal != NULL)
		np_change_wal_admit(relation, plan, &options, &facts);
	warn_of_children(relation, get_is_row_level(fcinfo));
	commands = list_concat(make_drop_commands(fcinfo, relation),
						   make_create_commands(fcinfo, qualified_name(relation), arguments, plan->wal != NULL));
	/* a table that is open here would be in use; the lock stays */
	relation_close(relation, NoLock);
	execute(commands);
	PG_RETURN_VOID();
}

/* nats_unpublish_table(relation): drops the triggers; were there any? */
Datum
nats_unpublish_table(PG_FUNCTION_ARGS)
{
	Relation	relation = open_relation(fcinfo);
	List	   *commands = make_drop_commands(fcinfo, relation);

	relation_close(relation, NoLock);
	execute(commands);
	PG_RETURN_BOOL(commands != NIL);
}

/* ---- Options of a trigger --------------------------------------------------------------- */

/* A trigger that is looked at. */
typedef struct Look
{
	Oid			trigger;
	Oid			table;
	List	   *arguments;
	NpChangeOptions options;
	bool		is_parsed;		/* there are options */
} Look;

/* The table and arguments of a trigger, as RelationBuildTriggers reads them; false: there is no such trigger. */
static bool
read_trigger(Look *look)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	HeapTuple	tuple = get_catalog_object_by_oid(triggers, Anum_pg_trigger_oid, look->trigger);

	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = fastgetattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(triggers), &isnull);
		const char *argument = VARDATA_ANY(DatumGetByteaPP(value));

		look->table = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
		for (int i = 0; i < ((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs; i++)
		{
			look->arguments = lappend(look->arguments, pstrdup(argument));
			argument += strlen(argument) + 1;
		}
	}
	table_close(triggers, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

static void
look_at_trigger(Relation relation, const Trigger *trigger)
{
	NpTriggerFacts facts = np_trigger_facts(trigger);
	NpChangePlan *plan = np_change_cache_make(relation, trigger, NULL, NULL);

	if (plan->wal != NULL)
		np_change_wal_look(RelationGetRelid(relation), plan, &facts);
}

/* Do the options fit the table?  Who looks does not wait for who alters it: then that is not known. */
static void
look_at_table(const Look *look)
{
	Relation	relation;

	if (!ConditionalLockRelationOid(look->table, AccessShareLock))
		return;
	relation = try_relation_open(look->table, NoLock);
	for (int i = 0; relation != NULL && relation->trigdesc != NULL && i < relation->trigdesc->numtriggers; i++)
		if (relation->trigdesc->triggers[i].tgoid == look->trigger)
		{
			look_at_trigger(relation, &relation->trigdesc->triggers[i]);
			break;
		}
	if (relation != NULL)
		relation_close(relation, NoLock);
	UnlockRelationOid(look->table, AccessShareLock);
}

static void
look_at(void *argument)
{
	Look	   *look = argument;

	parse_options(&look->options, look->arguments);
	look->is_parsed = true;
	look_at_table(look);
}

/*
 * Look at options and table; the error that the first row would meet, or NULL.
 * What others have locked, or the server has no room to look at, says nothing
 * about these.
 */
static ErrorData *
try_look(Look *look)
{
	ErrorData  *error = np_try_subtransaction(look_at, look);

	if (error == NULL || np_is_of_others(error->sqlerrcode))
		return NULL;
	if (np_is_of_server(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

static Datum
make_text_array(List *strings, bool *isnull)
{
	Datum	   *elements = palloc(sizeof(Datum) * list_length(strings));
	ListCell   *cell;

	*isnull = strings == NIL;
	foreach(cell, strings)
		elements[foreach_current_index(cell)] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, list_length(strings), TEXTOID, -1, false, TYPALIGN_INT));
}

static void
put_text(const char *text, Datum *value, bool *isnull)
{
	*isnull = text == NULL;
	if (text != NULL)
		*value = CStringGetTextDatum(text);
}

static void
put_options(const NpChangeOptions *options, Datum *values, bool *nulls)
{
	values[OPTION_SUBJECT] = CStringGetTextDatum(options->subject);
	values[OPTION_DELIVERY] = CStringGetTextDatum(np_delivery_name(options->delivery));
	values[OPTION_FORMAT] = CStringGetTextDatum(np_change_format_name(options->format));
	values[OPTION_OLD] = BoolGetDatum(options->old);
	nulls[OPTION_SUBJECT] = nulls[OPTION_DELIVERY] = nulls[OPTION_FORMAT] = nulls[OPTION_OLD] = false;
	values[OPTION_COLUMNS] = make_text_array(options->columns, &nulls[OPTION_COLUMNS]);
	values[OPTION_IGNORE] = make_text_array(options->ignore, &nulls[OPTION_IGNORE]);
	values[OPTION_KEY] = make_text_array(options->key, &nulls[OPTION_KEY]);
	put_text(options->msg_id, &values[OPTION_MSG_ID], &nulls[OPTION_MSG_ID]);
	put_text(options->payload, &values[OPTION_PAYLOAD], &nulls[OPTION_PAYLOAD]);
	put_text(options->debezium_values ? "debezium" : NULL, &values[OPTION_VALUE_ENCODING], &nulls[OPTION_VALUE_ENCODING]);
	values[OPTION_TRANSACTION] = BoolGetDatum(options->transaction);
	nulls[OPTION_TRANSACTION] = false;
	put_text(options->transaction_end, &values[OPTION_TRANSACTION_END], &nulls[OPTION_TRANSACTION_END]);
	if (options->headers != NULL)
	{
		values[OPTION_HEADERS] = JsonbPGetDatum(options->headers);
		nulls[OPTION_HEADERS] = false;
	}
}

/* A trigger that can't be understood is one of the WAL all the same: so who reads that takes it. */
static void
put_delivery_of_wal(const Look *look, Datum *values, bool *nulls)
{
	ListCell   *cell;

	foreach(cell, look->arguments)
		if (np_change_is_from_wal(1, (char **) &lfirst(cell)))
		put_text(np_delivery_name(NP_DELIVER_WAL), &values[OPTION_DELIVERY], &nulls[OPTION_DELIVERY]);
}

/* nats_change_options(trigger): the options of a trigger, and the error that the first row would meet */
Datum
nats_change_options(PG_FUNCTION_ARGS)
{
	Look		look = {.trigger = PG_GETARG_OID(0)};
	TupleDesc	columns;
	Datum		values[OPTION_COUNT] = {0};
	bool		nulls[OPTION_COUNT];
	const ErrorData *error;

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!read_trigger(&look))
		PG_RETURN_NULL();
	memset(nulls, true, sizeof(nulls));
	error = try_look(&look);
	if (look.is_parsed)
		put_options(&look.options, values, nulls);
	else
		put_delivery_of_wal(&look, values, nulls);
	if (error != NULL)
	{
		put_text(error->message, &values[OPTION_ERROR], &nulls[OPTION_ERROR]);
		put_text(error->hint, &values[OPTION_HINT], &nulls[OPTION_HINT]);
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}
