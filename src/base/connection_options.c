/*-------------------------------------------------------------------------
 *
 * connection_options.c
 *	  Settings that came with the connection, before the library was loaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "base/compat.h"
#include "base/connection_options.h"

static bool
is_placeholder(const struct config_generic *setting)
{
	return (setting->flags & GUC_CUSTOM_PLACEHOLDER) != 0 &&
		strncmp(setting->name, "nats_publish.", strlen("nats_publish.")) == 0;
}

/*
 * May whoever made this connection not set what its options set?  PostgreSQL
 * could not know yet.
 */
static bool
is_unchecked_option(const struct config_generic *setting)
{
	return is_placeholder(setting) && setting->reset_source == PGC_S_CLIENT && setting->reset_scontext == PGC_BACKEND;
}

static bool
is_misspelt(const struct config_generic *setting)
{
	return is_placeholder(setting) && setting->reset_source < PGC_S_CLIENT;
}

/* The names of all settings that are so, palloc'd. */
static List *
find_settings(bool (*is_so) (const struct config_generic *setting))
{
	int			count;
	struct config_generic **settings = np_compat_settings(&count);
	List	   *names = NIL;

	for (int i = 0; i < count; i++)
		if (is_so(settings[i]))
			names = lappend(names, pstrdup(settings[i]->name));
	return names;
}

/* The names of such options, palloc'd: to be found before the settings are defined. */
List *
np_unchecked_options(void)
{
	return find_settings(is_unchecked_option);
}

/*
 * When a setting is defined, PostgreSQL drops what an ordinary user has given
 * as an option of the connection, but that had already taken the place of
 * what is set for the role, the database or the server: the setting would be
 * as if nobody had set it.  So the connection ends, as one does that meets
 * the library preloaded.
 */
void
np_refuse_options(List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		int			count;
		struct config_generic **settings = np_compat_settings(&count);

		for (int i = 0; i < count; i++)
			if (strcmp(settings[i]->name, name) == 0 && settings[i]->context != PGC_USERSET &&
				settings[i]->reset_source != PGC_S_CLIENT)
				ereport(FATAL,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("permission denied to set parameter \"%s\"", name)));
	}
}

/*
 * The names, palloc'd, that an administrator has set and that are none when all
 * settings are defined: to be found before PostgreSQL drops them.
 */
List *
np_misspelt_settings(void)
{
	return find_settings(is_misspelt);
}
