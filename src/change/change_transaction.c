/*-------------------------------------------------------------------------
 *
 * change_transaction.c
 *	  What messages say of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "change/change_transaction.h"

void
np_change_transaction_fill(NpChangeTransaction *transaction, FullTransactionId id, TimestampTz at, XLogRecPtr commit_lsn)
{
	const int	utc = 0;

	transaction->id = id;
	transaction->at = at;
	transaction->commit_lsn = commit_lsn;
	snprintf(transaction->id_text, sizeof(transaction->id_text), UINT64_FORMAT, U64FromFullTransactionId(id));
	JsonEncodeDateTime(transaction->time, TimestampTzGetDatum(at), TIMESTAMPTZOID, &utc);
	transaction->time[strlen(transaction->time) - strlen("+00:00")] = '\0';
	snprintf(transaction->json, sizeof(transaction->json), ",\"xid\":%s,\"ts\":\"%s+00:00\"}", transaction->id_text,
			 transaction->time);
}

/* Is it one that is read from the WAL, and not the current one? */
bool
np_change_is_decoded(const NpChangeTransaction *transaction)
{
	return !XLogRecPtrIsInvalid(transaction->commit_lsn);
}

/* The current one, of which it is found out once; it has an id then. */
const NpChangeTransaction *
np_change_transaction(void)
{
	static NpChangeTransaction current;
	FullTransactionId id = GetTopFullTransactionId();

	if (!FullTransactionIdEquals(id, current.id))
		np_change_transaction_fill(&current, id, GetCurrentTransactionStartTimestamp(), InvalidXLogRecPtr);
	return &current;
}

/* Since 1970. */
int64
np_change_milliseconds(TimestampTz time)
{
	return time / 1000 + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (SECS_PER_DAY * INT64CONST(1000));
}
