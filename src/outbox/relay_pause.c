/*-------------------------------------------------------------------------
 *
 * relay_pause.c
 *	  A pause of the relay, as it gets into a dump.
 *
 * nats_control says whether the relay is paused.  Where a dump is restored, it
 * must be known before the messages are there, and pg_restore -j loads tables
 * in any order, an extension's even against their foreign keys.  What comes
 * before all tables, and is the extension's, is its comment: that is marked
 * while the relay is paused, and counts as well as nats_control.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/extension.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "outbox/relay_pause.h"
#include "outbox/statement.h"

#define MARK	" (its relay is paused)"

/* ---- The mark ------------------------------------------------------------------------ */

/* The comment of the extension, palloc'd; "": none. */
static char *
get_comment(Oid extension)
{
	char	   *comment = GetComment(extension, ExtensionRelationId, 0);

	return comment == NULL ? pstrdup("") : comment;
}

static bool
has_mark(const char *comment)
{
	size_t		length = strlen(comment);

	return length >= strlen(MARK) && strcmp(comment + length - strlen(MARK), MARK) == 0;
}

/* Does the comment of the extension say that the relay is paused?  In a transaction. */
bool
np_pause_is_marked(Oid extension)
{
	return has_mark(get_comment(extension));
}

/* Does a row of nats_control pause the relay?  False: it has no such column any more. */
bool
np_pause_is_in(Relation control, Snapshot snapshot, bool *paused)
{
	AttrNumber	column = get_attnum(RelationGetRelid(control), "paused");
	SysScanDesc scan;
	HeapTuple	row;
	bool		isnull;

	if (column == InvalidAttrNumber || get_atttype(RelationGetRelid(control), column) != BOOLOID)
		return false;
	*paused = false;
	scan = systable_beginscan(control, InvalidOid, false, snapshot, 0, NULL);
	while (!*paused && HeapTupleIsValid(row = systable_getnext(scan)))
		*paused = DatumGetBool(heap_getattr(row, column, RelationGetDescr(control), &isnull)) && !isnull;
	systable_endscan(scan);
	return true;
}

/* Whoever has written the table need not be able to read it. */
static bool
is_paused(Oid control)
{
	Relation	relation = table_open(control, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		paused = false;

	if (!np_pause_is_in(relation, snapshot, &paused))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("table nats_control has no column \"paused\" of type boolean")));
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return paused;
}

/*
 * Have the comment say what is in the table nats_control, which has just been
 * written.  Waits for others who do so, until their transactions end.
 */
void
np_pause_mark(Oid control)
{
	Oid			extension = get_extension_oid("nats_publish", false);
	char	   *comment;
	bool		paused;

	LockDatabaseObject(ExtensionRelationId, extension, 0, ShareUpdateExclusiveLock);
	CommandCounterIncrement();
	paused = is_paused(control);
	comment = get_comment(extension);
	if (paused == has_mark(comment))
		return;
	if (paused)
		comment = psprintf("%s%s", comment, MARK);
	else
		comment[strlen(comment) - strlen(MARK)] = '\0';
	CreateComments(extension, ExtensionRelationId, 0, comment);
}

/* ---- The table ----------------------------------------------------------------------- */

/* All rows: those of other databases, which replication brings, pause it too. */
static NpStatement set_paused =
{
	.text = "WITH known AS (UPDATE %1$s.nats_control SET paused = true RETURNING id)"
	" INSERT INTO %1$s.nats_control (paused) SELECT true WHERE NOT EXISTS (SELECT FROM known)"
};

static NpStatement set_resumed =
{
	.text = "UPDATE %s.nats_control SET paused = false WHERE paused"
};

static void
write_control(NpStatement *statement, Oid schema)
{
	NpUser		caller;

	np_statements_begin(&caller, schema, "nats_control");
	(void) np_statement_write(statement, schema, NULL, NULL);
	np_statements_end(&caller);
}

/* Pause the relay of the extension in that schema, from this transaction's commit on; its trigger marks that. */
void
np_pause_begin(Oid schema)
{
	write_control(&set_paused, schema);
}

/* Let it go on, likewise. */
void
np_pause_end(Oid schema)
{
	write_control(&set_resumed, schema);
}
