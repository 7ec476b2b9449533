/*-------------------------------------------------------------------------
 *
 * output_settings.c
 *	  The settings with which values become text, and text values again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"

#include "change/change_types.h"
#include "change/output_settings.h"

static void
want_setting(bool is_so, const char *name, const char *value, int *nest_level)
{
	if (is_so)
		return;
	if (*nest_level == 0)
		*nest_level = NewGUCNestLevel();
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static bool
is_utc(void)
{
	long		offset;

	return pg_get_timezone_offset(session_timezone, &offset) && offset == 0;
}

/*
 * Begin to write values; needs is NpTextNeeds of their types.
 *
 * A value has one text, in subjects, ids and JSON, whatever the session that
 * wrote the row likes to see: consumers compare them.  As in postgres_fdw
 * set_transmission_modes; returns what np_output_settings_end takes.
 */
int
np_output_settings_begin(int needs)
{
	int			nest_level = 0;

	want_setting(bytea_output == BYTEA_OUTPUT_HEX, "bytea_output", "hex", &nest_level);
	want_setting(DateStyle == USE_ISO_DATES, "datestyle", "ISO", &nest_level);
	want_setting(IntervalStyle == INTSTYLE_POSTGRES, "intervalstyle", "postgres", &nest_level);
	want_setting(extra_float_digits >= 1, "extra_float_digits", "1", &nest_level);
	if (needs & NP_NEEDS_TIME_ZONE)
		want_setting(is_utc(), "timezone", "UTC", &nest_level);
	if (needs & NP_NEEDS_CURRENCY)
		want_setting(strcmp(GetConfigOption("lc_monetary", false, false), "C") == 0, "lc_monetary", "C", &nest_level);
	if (needs & NP_NEEDS_SEARCH_PATH)
	{
		want_setting(strcmp(namespace_search_path, "pg_catalog") == 0, "search_path", "pg_catalog", &nest_level);
		want_setting(!quote_all_identifiers, "quote_all_identifiers", "off", &nest_level);
	}
	return nest_level;
}

/* Begin to read values that were written so; returns what np_output_settings_end takes. */
int
np_input_settings_begin(int needs)
{
	int			nest_level = np_output_settings_begin(needs);

	want_setting(Array_nulls, "array_nulls", "on", &nest_level);
	return nest_level;
}

/* For a process that does nothing else: messages need not set it each for itself.  To be called outside of a transaction. */
void
np_output_settings_fix(void)
{
	static const char *const settings[][2] = {
		{"bytea_output", "hex"}, {"datestyle", "ISO"}, {"intervalstyle", "postgres"}, {"extra_float_digits", "1"},
		{"timezone", "UTC"}, {"lc_monetary", "C"}, {"quote_all_identifiers", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_OVERRIDE);
}

/* Back to what the session likes. */
void
np_output_settings_end(int nest_level)
{
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
}
