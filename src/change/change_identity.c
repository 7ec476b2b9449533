/*-------------------------------------------------------------------------
 *
 * change_identity.c
 *	  The columns of a table's replica identity.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_index.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "change/change_identity.h"

/*
 * The columns of an index that is the replica identity, as members of a bitmap
 * of PostgreSQL's kind.  Unlike PostgreSQL's own function it takes no lock on
 * the index, for which who reads the WAL must not wait.
 */
Bitmapset *
np_change_identity(Relation relation)
{
	Oid			index = RelationGetReplicaIndex(relation);
	Bitmapset  *columns = NULL;
	HeapTuple	tuple;
	Form_pg_index form;

	if (!OidIsValid(index))
		return NULL;
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	for (int i = 0; i < form->indnkeyatts; i++)
		columns = bms_add_member(columns, form->indkey.values[i] - FirstLowInvalidHeapAttributeNumber);
	ReleaseSysCache(tuple);
	return columns;
}
