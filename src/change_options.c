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

#include "change_options.h"
#include "report.h"

static const char *const delivery_names[] = {
	[NP_DELIVER_ON_COMMIT] = "on_commit",
	[NP_DELIVER_ASYNC] = "async",
	[NP_DELIVER_SYNC] = "sync",
	[NP_DELIVER_OUTBOX] = "outbox",
};

static const char *const format_names[] = {
	[NP_FORMAT_JSON] = "json",
	[NP_FORMAT_CLOUDEVENTS] = "cloudevents",
	[NP_FORMAT_DEBEZIUM] = "debezium",
};

const char *
np_delivery_name(NpDelivery delivery)
{
	return delivery_names[delivery];
}

const char *
np_change_format_name(NpChangeFormat format)
{
	return format_names[format];
}

/* ---- Values ---------------------------------------------------------------- */

static int
parse_word(const char *option, const char *value, const char *const *words, int count)
{
	for (int i = 0; i < count; i++)
		if (strcmp(value, words[i]) == 0)
			return i;
	np_raise_input("option %s cannot be \"%s\"", option, value);
}

static List *
parse_columns(const char *option, const char *value)
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
	return columns;
}

static bool
parse_boolean(const char *option, const char *value)
{
	bool		result;

	if (!parse_bool(value, &result))
		np_raise_input("option %s is not a boolean: \"%s\"", option, value);
	return result;
}

static char *
parse_template(const char *option, const char *value)
{
	if (value[0] == '\0')
		np_raise_input("option %s is empty", option);
	return pstrdup(value);
}

static Jsonb *
parse_headers(const char *value)
{
	Jsonb	   *headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));

	if (!JB_ROOT_IS_OBJECT(headers))
		np_raise_input("option headers must be a JSON object");
	return headers;
}

/* ---- Options --------------------------------------------------------------- */

static void
parse_subject(NpChangeOptions *options, const char *value)
{
	options->subject = parse_template("subject", value);
}

static void
parse_delivery(NpChangeOptions *options, const char *value)
{
	options->delivery = parse_word("delivery", value, delivery_names, lengthof(delivery_names));
}

static void
parse_format(NpChangeOptions *options, const char *value)
{
	options->format = parse_word("format", value, format_names, lengthof(format_names));
}

static void
parse_columns_option(NpChangeOptions *options, const char *value)
{
	options->columns = parse_columns("columns", value);
}

static void
parse_ignore(NpChangeOptions *options, const char *value)
{
	options->ignore = parse_columns("ignore", value);
}

static void
parse_key(NpChangeOptions *options, const char *value)
{
	options->key = parse_columns("key", value);
}

static void
parse_msg_id(NpChangeOptions *options, const char *value)
{
	options->msg_id = parse_template("msg_id", value);
}

static void
parse_headers_option(NpChangeOptions *options, const char *value)
{
	options->headers = parse_headers(value);
}

static void
parse_old(NpChangeOptions *options, const char *value)
{
	options->old = parse_boolean("old", value);
}

static void
parse_payload(NpChangeOptions *options, const char *value)
{
	List	   *columns = parse_columns("payload", value);

	if (list_length(columns) != 1)
		np_raise_input("option payload is not one column: \"%s\"", value);
	options->payload = linitial(columns);
}

typedef struct Option
{
	const char *name;
	void		(*parse) (NpChangeOptions *options, const char *value);
} Option;

static const Option known_options[] = {
	{"subject", parse_subject},
	{"delivery", parse_delivery},
	{"format", parse_format},
	{"columns", parse_columns_option},
	{"ignore", parse_ignore},
	{"key", parse_key},
	{"msg_id", parse_msg_id},
	{"headers", parse_headers_option},
	{"old", parse_old},
	{"payload", parse_payload},
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
		int			option = find_option(arguments[i]);

		if (given[option])
			np_raise_input("option %s is given twice", known_options[option].name);
		given[option] = true;
		known_options[option].parse(options, strchr(arguments[i], '=') + 1);
	}
	if (options->payload != NULL && options->format != NP_FORMAT_JSON)
		np_raise_input("options payload and format are both given");
	if (options->subject == NULL)
		options->subject = pstrdup(NP_DEFAULT_SUBJECT);
}
