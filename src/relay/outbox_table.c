/*-------------------------------------------------------------------------
 *
 * outbox_table.c
 *	  The relay's transactions on the tables of the outbox.
 *
 * They work as the owner of nats_outbox, in a restricted operation, as
 * autovacuum does: triggers and index expressions of others are executed
 * there, and must gain no rights by that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "commands/extension.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/user.h"
#include "outbox/outbox.h"
#include "publish/current_session.h"
#include "relay/outbox_table.h"

static NpStatement find_table = {
	.text = "SELECT c.oid, e.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_extension AS e ON extnamespace = relnamespace"
	" WHERE extname = 'nats_publish' AND relname = 'nats_outbox'"
};

static Oid	table;				/* nats_outbox; InvalidOid: none */
static Oid	namespace;			/* where it is */
static Oid	sequence;			/* of its ids */
static Oid	extension;			/* whose it is */
static char *schema;			/* its, quoted */
static NpSession *session;		/* on which its messages go out */
static NpUser worker;			/* who we are outside of transactions */
static NpRelayState absent_as;	/* when there was no table */
static bool is_owner;			/* the last transaction has come so far that it worked as the owner */
static int64 waiting;			/* about how many rows wait to be tried again */

/* ---- Transactions -------------------------------------------------------------------- */

/* Know the table that it was as it is now.  False: it is not there any more, or has another name or place. */
static bool
refresh_table(Oid *owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Form_pg_class class;
	bool		is_known;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	*owner = class->relowner;
	is_known = class->relnamespace == namespace && strcmp(NameStr(class->relname), "nats_outbox") == 0;
	ReleaseSysCache(tuple);
	if (!is_known)
		return false;
	sequence = get_relname_relid(NP_OUTBOX_SEQUENCE, namespace);
	name = get_namespace_name(namespace);
	if (name == NULL)
		return false;
	if (schema != NULL)
		pfree(schema);
	schema = MemoryContextStrdup(TopMemoryContext, quote_identifier(name));
	return true;
}

static bool
find(Oid *owner)
{
	bool		isnull;

	if (OidIsValid(table) && refresh_table(owner))
		return true;
	table = namespace = InvalidOid;
	if (SPI_execute_plan(np_statement_prepare(&find_table, ""), NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" failed", find_table.text);
	absent_as = OidIsValid(get_extension_oid("nats_publish", true)) ? NP_RELAY_NO_TABLE : NP_RELAY_NO_EXTENSION;
	if (SPI_processed == 0)
		return false;
	table = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	extension = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	namespace = get_rel_namespace(table);
	return refresh_table(owner);
}

/*
 * Begin a transaction with SPI.  *caller is the memory context that we were
 * in.  False: there is no outbox; the transaction is to be ended all the same.
 */
bool
np_outbox_begin(MemoryContext *caller)
{
	Oid			owner;

	*caller = CurrentMemoryContext;
	is_owner = false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (!find(&owner))
		return false;
	/* before we are somebody else; it may be looked up in the catalogs */
	session = np_current_session();
	np_user_become_owner(&worker, owner);
	is_owner = true;
	return true;
}

/* End it.  No trigger is deferred in a restricted operation, so nothing of the owner's is executed any more. */
void
np_outbox_commit(MemoryContext caller)
{
	SPI_finish();
	if (is_owner)
		np_user_return(&worker);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/* Is an error that has ended the last transaction one of the tables?  Else it is about where messages are to go. */
bool
np_outbox_was_begun(void)
{
	return is_owner;
}

/* See from now on what has been committed until now. */
void
np_outbox_refresh(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* ---- In a transaction ---------------------------------------------------------------- */

/* May its owner read and write the table?  Rights can be taken from an owner, too. */
bool
np_outbox_has_rights(void)
{
	const AclMode needed = ACL_SELECT | ACL_UPDATE | ACL_DELETE;

	return pg_class_aclmask(table, GetUserId(), needed, ACLMASK_ALL) == needed &&
		DatumGetBool(DirectFunctionCall2(has_schema_privilege_id, ObjectIdGetDatum(namespace), CStringGetTextDatum("USAGE")));
}

/* The table of the last transaction. */
Oid
np_outbox_table(void)
{
	return table;
}

/* A column of it, of this type; InvalidAttrNumber: somebody has changed that, and a statement is to say what is wrong. */
AttrNumber
np_outbox_column(const char *name, Oid type)
{
	AttrNumber	number = get_attnum(table, name);

	return number != InvalidAttrNumber && get_atttype(table, number) == type ? number : InvalidAttrNumber;
}

/* When np_outbox_begin() has said that there is no outbox: is it the extension that is not there, or only its table? */
NpRelayState
np_outbox_absent_as(void)
{
	return absent_as;
}

Oid
np_outbox_extension(void)
{
	return extension;
}

/*
 * A session would use ids that it took long before, and of which the relay
 * knows no transaction (id_horizon.c): not in their order, if at all.
 */
static void
check_cache(void)
{
	int64		cache = np_outbox_id_cache(sequence);

	if (cache > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s\" has CACHE " INT64_FORMAT ", with which messages would be published out of order or late",
						NP_OUTBOX_SEQUENCE, cache),
				 errhint("Set it to 1 with ALTER SEQUENCE %s.%s CACHE 1.", schema, NP_OUTBOX_SEQUENCE)));
}

/*
 * The last id that was given to a row of the table, which may never be seen; 0:
 * none was.  Raises 55000 if sessions keep some for later; that can't be altered
 * from then on until the transaction ends, as the sequence is locked.
 */
int64
np_outbox_last_given(void)
{
	LOCAL_FCINFO(call, 1);
	Datum		result;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = ObjectIdGetDatum(sequence);
	call->args[0].isnull = false;
	result = pg_sequence_last_value(call);
	check_cache();
	return call->isnull ? 0 : DatumGetInt64(result);
}

/* It is another one since the sequence was begun anew, with TRUNCATE or ALTER SEQUENCE; InvalidOid: there is no sequence. */
Oid
np_outbox_sequence_storage(void)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(sequence));
	Oid			storage = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		storage = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
		ReleaseSysCache(tuple);
	}
	return storage;
}

/* The session on which its messages go out. */
NpSession *
np_outbox_session(void)
{
	return session;
}

/* nulls may be NULL: none is. */
static ParamListInfo
make_parameters(const NpStatement *statement, const Datum *values, const bool *nulls)
{
	ParamListInfo parameters = makeParamList(statement->argument_count);

	for (int i = 0; i < statement->argument_count; i++)
		parameters->params[i] = (ParamExternData) {values[i], nulls != NULL && nulls[i], PARAM_FLAG_CONST, statement->types[i]};
	return parameters;
}

/* What triggers set in it is no more when it ends: the next one may be executed as somebody else. */
static void
execute(NpStatement *statement, const Datum *values, const bool *nulls, bool read_only, DestReceiver *receiver)
{
	SPIExecuteOptions options = {
		.params = make_parameters(statement, values, nulls),
		.read_only = read_only,
		.dest = receiver
	};
	int			level = NewGUCNestLevel();
	int			result = SPI_execute_plan_extended(np_statement_prepare(statement, schema), &options);

	AtEOXact_GUC(false, level);
	if (result < 0)
		elog(ERROR, "\"%s\" failed: %s", statement->text, SPI_result_code_string(result));
}

/* On nats_outbox, and no other relation; what it returns is SPI's. */
void
np_outbox_execute(NpStatement *statement, const Datum *values, bool read_only)
{
	execute(statement, values, NULL, read_only, NULL);
}

/*
 * On another relation of the extension, as its owner: there can be somebody
 * else's view or policy.  nulls may be NULL.
 */
void
np_outbox_execute_on(const char *relation, NpStatement *statement, const Datum *values, const bool *nulls, bool read_only)
{
	NpUser		before;

	np_user_become_owner(&before, np_statement_owner(namespace, relation));
	execute(statement, values, nulls, read_only, NULL);
	np_user_return(&before);
}

static NpStatement insert_dead = {
	.text = "INSERT INTO %s.nats_outbox_dead (id, subject, payload, headers, msg_id, created_at, attempts, last_error)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
	.argument_count = NP_DEAD_COLUMNS,
	.types = {INT8OID, TEXTOID, BYTEAOID, JSONBOID, TEXTOID, TIMESTAMPTZOID, INT4OID, TEXTOID}
};

/* Have a message in nats_outbox_dead, unless a trigger of its owner keeps it out. */
void
np_outbox_bury(const NpDead *dead)
{
	np_outbox_execute_on("nats_outbox_dead", &insert_dead, dead->values, dead->nulls, false);
}

/* The next id of the sequence. */
int64
np_outbox_next_id(void)
{
	return nextval_internal(sequence, true);
}

/* Rows are received as they are read, until one is not wanted any more. */
void
np_outbox_read(NpStatement *statement, const Datum *values, DestReceiver *receiver)
{
	execute(statement, values, NULL, true, receiver);
}

/* ---- Between transactions ------------------------------------------------------------ */

/* About how many rows wait to be tried again. */
int64
np_outbox_waiting(void)
{
	return waiting;
}

void
np_outbox_set_waiting(int64 count)
{
	waiting = count;
}
