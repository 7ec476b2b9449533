/*-------------------------------------------------------------------------
 *
 * role_bounds.c
 *	  What a role may publish that has no session.
 *
 * For changes that are read from the WAL: who made them has gone, and who
 * reads them is not bounded.  What counts is what a session of the table's
 * owner would begin with: what is set for the role, for the database, or for
 * all, and else in the server's configuration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "publish/role_bounds.h"

/* The value of a setting among those of a row, palloc'd; NULL: it is not there. */
static char *
find_setting(HeapTuple row, TupleDesc columns, const char *name)
{
	size_t		length = strlen(name);
	bool		isnull;
	Datum		list = heap_getattr(row, Anum_pg_db_role_setting_setconfig, columns, &isnull);
	Datum	   *settings;
	int			count;

	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(list), TEXTOID, -1, false, TYPALIGN_INT, &settings, NULL, &count);
	for (int i = 0; i < count; i++)
	{
		char	   *setting = TextDatumGetCString(settings[i]);

		if (pg_strncasecmp(setting, name, length) == 0 && setting[length] == '=')
			return setting + length + 1;
	}
	return NULL;
}

static char *
read_setting(Relation table, Oid database, Oid role, const char *name)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	row;
	char	   *setting;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(table, DbRoleSettingDatidRolidIndexId, true, NULL, lengthof(keys), keys);
	row = systable_getnext(scan);
	setting = HeapTupleIsValid(row) ? find_setting(row, RelationGetDescr(table), name) : NULL;
	systable_endscan(scan);
	return setting;
}

/* The value with which a session of a role begins in this database, palloc'd. */
static char *
find_value(Relation table, Oid role, const char *name)
{
	/* as postinit.c process_settings */
	const struct
	{
		Oid			database;
		Oid			role;
	}			places[] = {{MyDatabaseId, role}, {InvalidOid, role}, {MyDatabaseId, InvalidOid}, {InvalidOid, InvalidOid}};

	for (int i = 0; i < lengthof(places); i++)
	{
		char	   *value = read_setting(table, places[i].database, places[i].role, name);

		if (value != NULL)
			return value;
	}
	return pstrdup(GetConfigOptionResetString(name));
}

/*
 * What a session of a role would begin with in this database, palloc'd.  To be
 * asked by a relay, which knows what the server has (np_guards_uncover_servers).
 */
NpRoleBounds
np_role_bounds(Oid role)
{
	Relation	table = table_open(DbRoleSettingRelationId, AccessShareLock);
	NpRoleBounds bounds = {.subjects = find_value(table, role, "nats_publish.allowed_subjects")};

	/* a bad value counts as on */
	if (!parse_bool(find_value(table, role, "nats_publish.server_required"), &bounds.needs_server))
		bounds.needs_server = true;
	table_close(table, AccessShareLock);
	return bounds;
}
