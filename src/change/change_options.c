/*-------------------------------------------------------------------------
 *
 * change_options.c
 *	  The options of a trigger that publishes changes.
 *
 * They are arguments of the trigger, "name=value" each.  What they mean for
 * its table is change_plan.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/varlena.h"

#include "base/report.h"
#include "change/change_options.h"

static const char *const op_names[] = {
	[NP_INSERT] = "insert",
	[NP_UPDATE] = "update",
	[NP_DELETE] = "delete",
	[NP_TRUNCATE] = "truncate",
	[NP_READ] = "read",
};

static const char *const delivery_names[] = {
	[NP_DELIVER_ON_COMMIT] = "on_commit",
	[NP_DELIVER_ASYNC] = "async",
	[NP_DELIVER_SYNC] = "sync",
	[NP_DELIVER_OUTBOX] = "outbox",
	[NP_DELIVER_WAL] = "wal",
};

static const char *const format_names[] = {
	[NP_FORMAT_JSON] = "json",
	[NP_FORMAT_CLOUDEVENTS] = "cloudevents",
	[NP_FORMAT_DEBEZIUM] = "debezium",
};

const char *
np_change_op_name(NpChangeOp op)
{
	return op_names[op];
}

const char *
np_delivery_name(NpDelivery delivery)
{
	return delivery_names[delivery];
}

/* Is it the relay that publishes, when the transaction has ended, and not the session? */
bool
np_delivery_is_relayed(NpDelivery delivery)
{
	return delivery == NP_DELIVER_OUTBOX || delivery == NP_DELIVER_WAL;
}

const char *
np_change_format_name(NpChangeFormat format)
{
	return format_names[format];
}

/* ---- Values: each parser fills the field that its option has ---------------------- */

static int
parse_word(const char *option, const char *value, const char *const *words, int count)
{
	for (int i = 0; i < count; i++)
		if (strcmp(value, words[i]) == 0)
			return i;
	np_raise_input("option %s cannot be \"%s\"", option, value);
}

/* Raises 22023. */
NpDelivery
np_delivery_parse(const char *name)
{
	return parse_word("delivery", name, delivery_names, lengthof(delivery_names));
}

static void
parse_delivery(const char *option, const char *value, void *field)
{
	*(NpDelivery *) field = parse_word(option, value, delivery_names, lengthof(delivery_names));
}

static void
parse_format(const char *option, const char *value, void *field)
{
	*(NpChangeFormat *) field = parse_word(option, value, format_names, lengthof(format_names));
}

static void
parse_value_encoding(const char *option, const char *value, void *field)
{
	static const char *const words[] = {"json", "debezium"};

	*(bool *) field = parse_word(option, value, words, lengthof(words)) == 1;
}

static void
parse_columns(const char *option, const char *value, void *field)
{
	List	   *columns;
	ListCell   *cell;

	if (!SplitIdentifierString(pstrdup(value), ',', &columns))
		np_raise_input("option %s is not a list of column names: \"%s\"", option, value);
	if (columns == NIL)
		np_raise_input("option %s is empty", option);
	foreach(cell, columns)
	{
		for (int i = 0; i < foreach_current_index(cell); i++)
			if (strcmp(lfirst(cell), list_nth(columns, i)) == 0)
				np_raise_input("option %s has the column \"%s\" twice", option, (char *) lfirst(cell));
	}
	*(List **) field = columns;
}

static void
parse_column(const char *option, const char *value, void *field)
{
	List	   *columns;

	parse_columns(option, value, &columns);
	if (list_length(columns) != 1)
		np_raise_input("option %s is not one column: \"%s\"", option, value);
	*(char **) field = linitial(columns);
}

static void
parse_boolean(const char *option, const char *value, void *field)
{
	if (!parse_bool(value, field))
		np_raise_input("option %s is not a boolean: \"%s\"", option, value);
}

static void
parse_template(const char *option, const char *value, void *field)
{
	if (value[0] == '\0')
		np_raise_input("option %s is empty", option);
	*(char **) field = pstrdup(value);
}

static void
parse_object(const char *option, const char *value, void *field)
{
	Jsonb	   *object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));

	if (!JB_ROOT_IS_OBJECT(object))
		np_raise_input("option %s must be a JSON object", option);
	*(Jsonb **) field = object;
}

/* ---- Options ----------------------------------------------------------------------- */

typedef struct Option
{
	const char *name;
	void		(*parse) (const char *option, const char *value, void *field);
	size_t		field;			/* its offset in NpChangeOptions */
} Option;

#define FIELD(name)	offsetof(NpChangeOptions, name)

static const Option known_options[] = {
	{"subject", parse_template, FIELD(subject)},
	{"delivery", parse_delivery, FIELD(delivery)},
	{"format", parse_format, FIELD(format)},
	{"columns", parse_columns, FIELD(columns)},
	{"ignore", parse_columns, FIELD(ignore)},
	{"key", parse_columns, FIELD(key)},
	{"msg_id", parse_template, FIELD(msg_id)},
	{"headers", parse_object, FIELD(headers)},
	{"old", parse_boolean, FIELD(old)},
	{"payload", parse_column, FIELD(payload)},
	{"value_encoding", parse_value_encoding, FIELD(debezium_values)},
	{"transaction", parse_boolean, FIELD(transaction)},
	{"transaction_end", parse_template, FIELD(transaction_end)},
};

/* The option that an argument begins with; its value is behind the "=". */
static int
find_option(const char *argument)
{
	const char *equals = strchr(argument, '=');

	if (equals == NULL)
		np_raise_input("trigger argument \"%s\" is not of the form name=value", argument);
	for (int i = 0; i < lengthof(known_options); i++)
	{
		size_t		length = strlen(known_options[i].name);

		if (length == equals - argument && strncmp(known_options[i].name, argument, length) == 0)
			return i;
	}
	np_raise_input("there is no option \"%s\" for publishing changes",
				   pnstrdup(argument, equals - argument));
}

/* Have the arguments of a trigger this delivery?  It costs little, and raises nothing. */
bool
np_change_is_from_wal(int count, char **arguments)
{
	for (int i = 0; i < count; i++)
		if (strcmp(arguments[i], "delivery=wal") == 0)
			return true;
	return false;
}

/* Places are known of what is held until the transaction ends, and only a message of ours can have one. */
static void
check_transaction(const NpChangeOptions *options)
{
	if (options->transaction_end != NULL && !options->transaction)
		np_raise_input("option transaction_end needs the option transaction");
	if (!options->transaction)
		return;
	if (options->delivery == NP_DELIVER_ASYNC || options->delivery == NP_DELIVER_SYNC)
		np_raise_input("option transaction needs the delivery \"on_commit\", \"outbox\" or \"wal\"");
	if (options->payload != NULL)
		np_raise_input("options payload and transaction are both given");
}

/*
 * Parse the arguments of a trigger; what is not given has its default.
 *
 * Raises 22023 for what no table could make valid, and what jsonb_in raises.
 */
void
np_change_options_parse(NpChangeOptions *options, int count, char **arguments)
{
	bool		given[lengthof(known_options)] = {false};

	memset(options, 0, sizeof(*options));
	for (int i = 0; i < count; i++)
	{
		int			place = find_option(arguments[i]);
		const Option *option = &known_options[place];

		if (given[place])
			np_raise_input("option %s is given twice", option->name);
		given[place] = true;
		option->parse(option->name, strchr(arguments[i], '=') + 1, (char *) options + option->field);
	}
	if (options->payload != NULL && options->format != NP_FORMAT_JSON)
		np_raise_input("options payload and format are both given");
	if (options->debezium_values && options->format != NP_FORMAT_DEBEZIUM)
		np_raise_input("option value_encoding needs the format \"debezium\"");
	check_transaction(options);
	if (options->subject == NULL)
		options->subject = pstrdup(NP_DEFAULT_SUBJECT);
}
