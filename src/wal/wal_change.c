/*-------------------------------------------------------------------------
 *
 * wal_change.c
 *	  Messages of the changes that are decoded from the WAL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "wal/wal_change.h"

/* A row of a table has changed. */
void
np_wal_change(const NpDecodedTransaction *transaction, Relation relation, ReorderBufferChange *change,
			  NpWalTake take, void *argument)
{
}

/* Tables were truncated. */
void
np_wal_truncate(const NpDecodedTransaction *transaction, int count, Relation *relations,
				ReorderBufferChange *change, NpWalTake take, void *argument)
{
}

/* All changes of a transaction that has any were decoded. */
void
np_wal_change_end(const NpDecodedTransaction *transaction, NpWalTake take, void *argument)
{
}
