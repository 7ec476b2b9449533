/*-------------------------------------------------------------------------
 *
 * outbox_glance.c
 *	  What is asked of the outbox at each look, and for each row.
 *
 * Is the relay paused, what waits for its time, and does a row wait for another
 * one?  Each answer is one entry of an index, or none.  A statement costs ten
 * times as much as to read that, and may be planned for another index, by
 * statistics that are those of a queue at another time.  So it is read as the
 * catalogs are, as who the transaction works as, with its snapshot.  A
 * statement asks where that is not what a SELECT would do: there are policies
 * or tables that inherit, or the index is not there or is another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "outbox/outbox.h"
#include "outbox/relay_pause.h"
#include "relay/outbox_glance.h"
#include "relay/outbox_table.h"

/* Of a subject, in the index nats_outbox_waiting. */
#define INDEXED_LENGTH	500

#define FIRST	"SELECT next_attempt_at::timestamptz FROM %1$s.nats_outbox WHERE next_attempt_at >= $1 ORDER BY next_attempt_at, id LIMIT 1"
#define LAST	"SELECT next_attempt_at::timestamptz FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") " ORDER BY next_attempt_at DESC LIMIT 1"

static NpStatement read_times = {
	.text = "SELECT (" FIRST "), (" LAST ")",
	.argument_count = 1,
	.types = {TIMESTAMPTZOID}
};

static NpStatement read_pause = {.text = "SELECT EXISTS (SELECT FROM %s.nats_control WHERE paused)"};

static NpStatement read_after = {
	.text = "SELECT next_attempt_at::timestamptz FROM %1$s.nats_outbox WHERE next_attempt_at > $1 ORDER BY next_attempt_at, id LIMIT 1",
	.argument_count = 1,
	.types = {TIMESTAMPTZOID}
};

/* A column of the only row that a statement has returned.  False: NULL. */
static bool
get_time(int column, TimestampTz *time)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	if (!isnull)
		*time = DatumGetTimestampTz(value);
	return !isnull;
}

/* ---- Tables and indexes --------------------------------------------------------------- */

/* A table that is read, and one of its indexes. */
typedef struct Source
{
	Relation	table;
	Relation	index;
} Source;

/* Would a SELECT of this role read this table, all of it and nothing else, and may it?  Else it says what is wrong. */
static bool
is_plain(Relation table, Oid role)
{
	Form_pg_class form = table->rd_rel;
	bool		has_policies = form->relrowsecurity && (form->relforcerowsecurity || form->relowner != role);

	return form->relkind == RELKIND_RELATION && form->relam == HEAP_TABLE_AM_OID && !form->relhassubclass && !has_policies &&
		pg_class_aclcheck(RelationGetRelid(table), role, ACL_SELECT) == ACLCHECK_OK;
}

static AttrNumber
column_of(const Source *source, const char *name)
{
	return get_attnum(RelationGetRelid(source->table), name);
}

/* Is its definition the one that it has to have? */
static bool
is_defined_so(Oid index, const char *expected)
{
	const char *definition = TextDatumGetCString(DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(index)));
	const char *method = strstr(definition, " USING ");

	return method != NULL && strcmp(method, expected) == 0;
}

/*
 * An index that the extension makes on nats_outbox.  Somebody can have made
 * another one of its name; what an index is made of does not change.
 */
typedef struct KnownIndex
{
	const char *name;
	const char *definition;
	Oid			checked;		/* the index that was found to be that; InvalidOid: none */
} KnownIndex;

#define WHERE_FAILED	" WHERE ((next_attempt_at IS NOT NULL) AND ((last_error IS NOT NULL) OR (attempts > 0)))"

static KnownIndex index_due = {
	.name = "nats_outbox_due",.definition = " USING btree (next_attempt_at, id) WHERE (next_attempt_at IS NOT NULL)"
};
static KnownIndex index_failed = {
	.name = "nats_outbox_failed",.definition = " USING btree (next_attempt_at)" WHERE_FAILED
};
static KnownIndex index_waiting = {
	.name = "nats_outbox_waiting",.definition = " USING btree (\"left\"(subject, 500) COLLATE \"C\", id)" WHERE_FAILED
};

/* Has it those that are read here? */
static bool
has_columns(void)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[] = {{"id", INT8OID}, {"subject", TEXTOID}, {"msg_id", TEXTOID}, {"next_attempt_at", TIMESTAMPTZOID}};

	for (int i = 0; i < lengthof(columns); i++)
		if (np_outbox_column(columns[i].name, columns[i].type) == InvalidAttrNumber)
			return false;
	return true;
}

static bool
is_index(const Source *source, KnownIndex *known)
{
	Form_pg_index index = source->index->rd_index;

	if (index->indrelid != RelationGetRelid(source->table) || !index->indisvalid || index->indcheckxmin || !has_columns())
		return false;
	if (known->checked != index->indexrelid)
		known->checked = is_defined_so(index->indexrelid, known->definition) ? index->indexrelid : InvalidOid;
	return known->checked != InvalidOid;
}

static void
close_source(Source *source)
{
	if (source->index != NULL)
		relation_close(source->index, AccessShareLock);
	table_close(source->table, AccessShareLock);
}

/* False: a statement is to read it. */
static bool
open_source(Source *source, KnownIndex *known)
{
	Oid			index;

	source->index = NULL;
	source->table = table_open(np_outbox_table(), AccessShareLock);
	index = get_relname_relid(known->name, RelationGetNamespace(source->table));
	if (is_plain(source->table, GetUserId()) && OidIsValid(index))
		source->index = try_relation_open(index, AccessShareLock);
	if (source->index != NULL && source->index->rd_rel->relkind == RELKIND_INDEX && is_index(source, known))
		return true;
	close_source(source);
	return false;
}

/* ---- What waits for its time ------------------------------------------------------------ */

/* The time of the first row from one end of an index of times on, or that one's key has this relation to.  False: none. */
static bool
find_time(const Source *source, ScanKey key, ScanDirection direction, TimestampTz *time)
{
	SysScanDesc scan = systable_beginscan_ordered(source->table, source->index, GetActiveSnapshot(), key == NULL ? 0 : 1, key);
	HeapTuple	row = systable_getnext_ordered(scan, direction);
	bool		isnull = true;

	if (HeapTupleIsValid(row))
		*time = DatumGetTimestampTz(heap_getattr(row, column_of(source, "next_attempt_at"),
												 RelationGetDescr(source->table), &isnull));
	systable_endscan_ordered(scan);
	return !isnull;
}

/* False: a statement is to ask. */
static bool
find_first(StrategyNumber strategy, RegProcedure procedure, TimestampTz from, bool *any, TimestampTz *first)
{
	Source		source;
	ScanKeyData key;

	if (!open_source(&source, &index_due))
		return false;
	ScanKeyInit(&key, column_of(&source, "next_attempt_at"), strategy, procedure, TimestampTzGetDatum(from));
	*any = find_time(&source, &key, ForwardScanDirection, first);
	close_source(&source);
	return true;
}

static bool
find_last_failed(bool *any, TimestampTz *last)
{
	Source		source;

	if (!open_source(&source, &index_failed))
		return false;
	*any = find_time(&source, NULL, BackwardScanDirection, last);
	close_source(&source);
	return true;
}

/* What waits for its time, from this floor on. */
void
np_glance(TimestampTz floor, NpWaiting *waiting)
{
	Datum		value = TimestampTzGetDatum(floor);

	if (find_first(BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE, floor, &waiting->any, &waiting->first) &&
		find_last_failed(&waiting->any_failed, &waiting->last))
		return;
	np_outbox_execute(&read_times, &value, true);
	waiting->any = get_time(1, &waiting->first);
	waiting->any_failed = get_time(2, &waiting->last);
}

/* ---- Is it paused? ----------------------------------------------------------------------- */

/* False: a statement is to ask. */
static bool
find_pause(bool *paused)
{
	Oid			oid = get_relname_relid("nats_control", get_rel_namespace(np_outbox_table()));
	Relation	control = OidIsValid(oid) ? try_relation_open(oid, AccessShareLock) : NULL;
	bool		is_found = control != NULL && is_plain(control, control->rd_rel->relowner) &&
	np_pause_is_in(control, GetActiveSnapshot(), paused);

	if (control != NULL)
		relation_close(control, AccessShareLock);
	return is_found;
}

/* Is the relay paused by a row of nats_control? */
bool
np_glance_is_paused(void)
{
	bool		paused;
	bool		isnull;

	if (find_pause(&paused))
		return paused;
	np_outbox_execute_on("nats_control", &read_pause, NULL, NULL, true);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* The first time behind this one for which a row waits.  False: none does. */
bool
np_glance_after(TimestampTz time, TimestampTz *next)
{
	Datum		value = TimestampTzGetDatum(time);
	bool		any;

	if (find_first(BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, time, &any, next))
		return any;
	np_outbox_execute(&read_after, &value, true);
	return SPI_processed > 0 && get_time(1, next);
}

/* ---- Who waits for another row --------------------------------------------------------- */

struct NpHolders
{
	Source		source;
	AttrNumber	subject;
	AttrNumber	id;
	AttrNumber	msg_id;
};

/*
 * The rows that others wait for, to be asked about in this transaction;
 * palloc'd.  NULL: the statement that reads the rows is to ask (NP_ROW_WAITS_FOR).
 */
NpHolders *
np_glance_open_holders(void)
{
	Source		source;
	NpHolders  *holders;

	if (!open_source(&source, &index_waiting))
		return NULL;
	holders = palloc(sizeof(NpHolders));
	holders->source = source;
	holders->subject = column_of(&source, "subject");
	holders->id = column_of(&source, "id");
	holders->msg_id = column_of(&source, "msg_id");
	return holders;
}

void
np_glance_close_holders(NpHolders *holders)
{
	close_source(&holders->source);
	pfree(holders);
}

/* Somebody may have dropped the constraint that keeps it from being NULL. */
static Datum
column(const NpHolders *holders, HeapTuple row, AttrNumber number, Datum instead_of_null)
{
	bool		isnull;
	Datum		value = heap_getattr(row, number, RelationGetDescr(holders->source.table), &isnull);

	return isnull ? instead_of_null : value;
}

/* The rows of this subject with a lower id that are tried again, and of others that begin alike. */
static SysScanDesc
begin_earlier(const NpHolders *holders, Datum subject, int64 id)
{
	const Source *source = &holders->source;
	ScanKeyData keys[2];

	/* the number of an expression is 0 in indkey, where these are looked up */
	ScanKeyEntryInitialize(&keys[0], 0, 0, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   DirectFunctionCall2(text_left, subject, Int32GetDatum(INDEXED_LENGTH)));
	ScanKeyInit(&keys[1], holders->id, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(id));
	return systable_beginscan_ordered(source->table, source->index, GetActiveSnapshot(), lengthof(keys), keys);
}

/* The next one of them that is of this subject; NULL: there is none. */
static HeapTuple
next_of_subject(const NpHolders *holders, SysScanDesc scan, ScanDirection direction, Datum subject)
{
	Datum		nothing = CStringGetTextDatum("");
	HeapTuple	row = systable_getnext_ordered(scan, direction);

	while (HeapTupleIsValid(row) &&
		   !DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, column(holders, row, holders->subject, nothing), subject)))
		row = systable_getnext_ordered(scan, direction);
	return row;
}

/* Does a row of this subject wait for an earlier one that is tried again?  What NP_ROW_WAITS_FOR("") says. */
bool
np_glance_is_held(const NpHolders *holders, Datum subject, int64 id)
{
	SysScanDesc scan = begin_earlier(holders, subject, id);
	bool		found = HeapTupleIsValid(next_of_subject(holders, scan, ForwardScanDirection, subject));

	systable_endscan_ordered(scan);
	return found;
}

/* The last row of this subject before this one that is tried again; its msg_id is palloc'd.  False: none is. */
bool
np_glance_earlier(const NpHolders *holders, Datum subject, int64 id, int64 *earlier, char **msg_id)
{
	SysScanDesc scan = begin_earlier(holders, subject, id);
	HeapTuple	row = next_of_subject(holders, scan, BackwardScanDirection, subject);

	if (HeapTupleIsValid(row))
	{
		*earlier = DatumGetInt64(column(holders, row, holders->id, Int64GetDatum(0)));
		*msg_id = TextDatumGetCString(column(holders, row, holders->msg_id, CStringGetTextDatum("")));
	}
	systable_endscan_ordered(scan);
	return HeapTupleIsValid(row);
}
