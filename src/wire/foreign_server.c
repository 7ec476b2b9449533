/*-------------------------------------------------------------------------
 *
 * foreign_server.c
 *	  NATS servers and users as foreign servers and user mappings.
 *
 * The options of a server can be read by everybody, those of a user mapping
 * by its user and the server's owner: so what is secret, and nothing else, is
 * in the mapping.  A file is opened with the rights of the operating system's
 * user, so only superusers may name one (as with sslkey in postgres_fdw).
 *
 * The texts of errors never repeat a value, which can be a password.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/encoding.h"
#include "base/server_url.h"
#include "base/settings.h"
#include "base/subject.h"
#include "libnats/credentials.h"
#include "libnats/wire.h"
#include "wire/foreign_server.h"

#define WRAPPER_NAME	"nats"

/* What a value is checked for: NULL, or what is wrong with it as a clause. */
typedef const char *(*ValueCheck) (const char *value);

typedef struct Option
{
	const char *name;
	NpServerField field;
	Oid			catalog;		/* where it belongs */
	bool		is_file;
	ValueCheck	check;
} Option;

static const char *
check_url(const char *value)
{
	int			position;
	const char *problem = np_url_list_check(value, &position);

	if (problem == NULL && np_url_list_has_credentials(value))
		return "everybody can read it, so put credentials into a user mapping";
	return problem;
}

static const char *
check_inbox_prefix(const char *value)
{
	return np_inbox_prefix_problem(value) == NULL ? NULL : "it must be a short NATS subject without wildcards";
}

static const char *
check_switch(const char *value)
{
	bool		on;

	return parse_bool(value, &on) ? NULL : "it is not a boolean";
}

static const char *
check_not_empty(const char *value)
{
	return value[0] == '\0' ? "it is empty" : NULL;
}

static const char *
check_secret(const char *value)
{
	if (strlen(value) >= NP_MAX_SECRET_LENGTH)
		return "it is too long";
	return check_not_empty(value);
}

static const char *
check_seed(const char *value)
{
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	return np_nkey_public((NpSpan) {value, strlen(value)}, public_key) ? NULL : "it is not the seed of a NATS user (SU...)";
}

static const char *
check_creds(const char *value)
{
	NpSpan		jwt;
	NpSpan		seed;
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	if (!np_credentials_parse((NpSpan) {value, strlen(value)}, &jwt, &seed) || !np_nkey_public(seed, public_key))
		return "it is not the text of a .creds file";
	/* all of the text is put where the JWT stays */
	return strlen(value) < NP_MAX_JWT_LENGTH ? NULL : "it is too long";
}

static const Option options[] = {
	{"url", NP_SERVER_URL, ForeignServerRelationId, false, check_url},
	{"inbox_prefix", NP_SERVER_INBOX_PREFIX, ForeignServerRelationId, false, check_inbox_prefix},
	{"randomize", NP_SERVER_RANDOMIZE, ForeignServerRelationId, false, check_switch},
	{"tls_ca_file", NP_SERVER_TLS_CA_FILE, ForeignServerRelationId, true, check_not_empty},
	{"tls_handshake_first", NP_SERVER_TLS_HANDSHAKE_FIRST, ForeignServerRelationId, false, check_switch},
	{"user", NP_SERVER_USER, UserMappingRelationId, false, check_secret},
	{"password", NP_SERVER_PASSWORD, UserMappingRelationId, false, check_secret},
	{"token", NP_SERVER_TOKEN, UserMappingRelationId, false, check_secret},
	{"nkey_seed", NP_SERVER_NKEY_SEED, UserMappingRelationId, false, check_seed},
	{"creds", NP_SERVER_CREDS, UserMappingRelationId, false, check_creds},
	{"creds_file", NP_SERVER_CREDS_FILE, UserMappingRelationId, true, check_not_empty},
	{"tls_cert_file", NP_SERVER_TLS_CERT_FILE, UserMappingRelationId, true, check_not_empty},
	{"tls_key_file", NP_SERVER_TLS_KEY_FILE, UserMappingRelationId, true, check_not_empty},
};

/* ---- Checking ----------------------------------------------------------------- */

static const Option *
find_option(const char *name, Oid catalog)
{
	for (int i = 0; i < lengthof(options); i++)
		if (strcmp(options[i].name, name) == 0 && options[i].catalog == catalog)
			return &options[i];
	return NULL;
}

static void
raise_unknown(const char *name, Oid catalog)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(options); i++)
		if (options[i].catalog == catalog)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", options[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 names.len > 0 ? errhint("Valid options in this context are: %s.", names.data) :
			 errhint("There are no valid options in this context.")));
}

static void
check_value(const Option *option, const char *value)
{
	const char *problem = option->check(value);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": %s", option->name, problem)));
}

static void
check_permission(const Option *option)
{
	if (option->is_file && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", option->name),
				 errdetail("Only superusers may name files of the database server.")));
}

static void
raise_combination(const char *text)
{
	ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE), errmsg("%s", text)));
}

static void
check_mapping(const NpServer *server)
{
	char	   *const *values = server->values;
	int			ways = (values[NP_SERVER_USER] != NULL) + (values[NP_SERVER_TOKEN] != NULL) +
	(values[NP_SERVER_NKEY_SEED] != NULL) + (values[NP_SERVER_CREDS] != NULL) +
	(values[NP_SERVER_CREDS_FILE] != NULL);

	if ((values[NP_SERVER_USER] == NULL) != (values[NP_SERVER_PASSWORD] == NULL))
		raise_combination("options \"user\" and \"password\" must be given together");
	if (ways > 1)
		raise_combination("a user mapping can have only one of the options \"user\", \"token\", \"nkey_seed\", \"creds\" and \"creds_file\"");
	if ((values[NP_SERVER_TLS_CERT_FILE] == NULL) != (values[NP_SERVER_TLS_KEY_FILE] == NULL))
		raise_combination("options \"tls_cert_file\" and \"tls_key_file\" must be given together");
}

/* A boolean becomes "on" or "off". */
static void
take_value(const Option *option, char *value, NpServer *server)
{
	bool		on;

	check_value(option, value);
	if (option->check == check_switch)
		value = parse_bool(value, &on) && on ? "on" : "off";
	server->values[option->field] = value;
}

/*
 * Checked when they were set, and again here: a wrapper can be without its
 * validator, and no bad option is to fall back to a default.
 */
static void
take_options(List *list, Oid catalog, NpServer *server)
{
	ListCell   *cell;

	foreach(cell, list)
	{
		DefElem    *element = lfirst_node(DefElem, cell);
		const Option *option = find_option(element->defname, catalog);

		if (option != NULL)
			take_value(option, defGetString(element), server);
		else
			raise_unknown(element->defname, catalog);
	}
	if (catalog == UserMappingRelationId)
		check_mapping(server);
	if (catalog == ForeignServerRelationId && server->values[NP_SERVER_URL] == NULL)
		raise_combination("a server of the foreign data wrapper \"" WRAPPER_NAME "\" needs the option \"url\"");
}

/*
 * Check the options of a server, of a user mapping or of another object.
 *
 * Raises HV00D for an unknown one, HV024 for a bad value or combination,
 * 42501 for a file that is named by an ordinary user.
 */
void
np_foreign_server_check_options(List *list, Oid catalog)
{
	NpServer	server = {{0}};
	ListCell   *cell;

	take_options(list, catalog, &server);
	foreach(cell, list)
		check_permission(find_option(lfirst_node(DefElem, cell)->defname, catalog));
}

/* ---- Looking up ----------------------------------------------------------------- */

/* Whatever changes in these catalogs: each session looks again. */
static void
on_catalog_change(Datum argument, int cache, uint32 hash)
{
	np_server_generation++;
}

static void
watch_catalogs(void)
{
	static bool watching = false;

	if (watching)
		return;
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, on_catalog_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, on_catalog_change, (Datum) 0);
	/* who is a member of whom decides who may use a server */
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, on_catalog_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, on_catalog_change, (Datum) 0);
	watching = true;
}

static List *
read_options(HeapTuple tuple, int cache, AttrNumber column)
{
	bool		isnull;
	Datum		list = SysCacheGetAttr(cache, tuple, column, &isnull);

	return isnull ? NIL : untransformRelOptions(list);
}

/* The mapping of the role, or else that of PUBLIC, or else none. */
static void
read_mapping(Oid server_id, Oid role, NpServer *server)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server_id));
	List	   *options;

	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server_id));
	if (!HeapTupleIsValid(tuple))
		return;
	options = read_options(tuple, USERMAPPINGUSERSERVER, Anum_pg_user_mapping_umoptions);
	/* first: the doctor catches what options that are wrong raise */
	ReleaseSysCache(tuple);
	take_options(options, UserMappingRelationId, server);
}

/*
 * Or was it dropped?  Read by the index: the syscache would remember each one
 * that is not there for as long as the session lives (catcache.c).
 */
bool
np_foreign_server_exists(Oid server_id)
{
	Relation	servers = table_open(ForeignServerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		exists;

	ScanKeyInit(&key, Anum_pg_foreign_server_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(server_id));
	scan = systable_beginscan(servers, ForeignServerOidIndexId, true, NULL, 1, &key);
	exists = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(servers, AccessShareLock);
	return exists;
}

/*
 * The foreign server of a name, as the role sees it; *server (palloc'd) has
 * where to connect to and as whom.
 *
 * Raises 42704 when there is no such server, 42809 when it is not one of our
 * wrapper, 42501 when the role may not use it.
 */
Oid
np_foreign_server_find(const char *name, Oid role, NpServer *server)
{
	ForeignServer *found;

	watch_catalogs();
	found = GetForeignServerByName(name, false);
	if (strcmp(GetForeignDataWrapper(found->fdwid)->fdwname, WRAPPER_NAME) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one of the foreign data wrapper \"" WRAPPER_NAME "\"", name)));
	if (!np_compat_may_use_server(found->serverid, role))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, name);
	take_options(found->options, ForeignServerRelationId, server);
	read_mapping(found->serverid, role, server);
	return found->serverid;
}
