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

/* The current one, of which it is found out once; it has an id then. */
const NpChangeTransaction *
np_change_transaction(void)
{
	static NpChangeTransaction current;
	FullTransactionId id = GetTopFullTransactionId();
	const int	utc = 0;

	if (FullTransactionIdEquals(id, current.id))
		return &current;
	current.id = id;
	current.start = GetCurrentTransactionStartTimestamp();
	snprintf(current.id_text, sizeof(current.id_text), UINT64_FORMAT, U64FromFullTransactionId(id));
	JsonEncodeDateTime(current.time, TimestampTzGetDatum(current.start), TIMESTAMPTZOID, &utc);
	current.time[strlen(current.time) - strlen("+00:00")] = '\0';
	snprintf(current.json, sizeof(current.json), ",\"xid\":%s,\"ts\":\"%s+00:00\"}", current.id_text, current.time);
	return &current;
}

/* Since 1970. */
int64
np_change_milliseconds(TimestampTz time)
{
	return time / 1000 + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (SECS_PER_DAY * INT64CONST(1000));
}
