/*-------------------------------------------------------------------------
 *
 * change_transaction.h
 *	  What messages say of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_TRANSACTION_H
#define NP_CHANGE_TRANSACTION_H

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"

typedef struct NpChangeTransaction
{
	FullTransactionId id;
	TimestampTz at;				/* its start; of one that is read from the WAL, its commit */
	Jsonb	   *annotations;	/* of one that is read from the WAL, where it was read so far; or NULL */
	XLogRecPtr	commit_lsn;		/* of one that is read from the WAL; else invalid */
	char		id_text[24];
	char		time[MAXDATELEN + 1];	/* in UTC, without the offset */
	char		json[MAXDATELEN + 64];	/* the end of an object */
} NpChangeTransaction;

extern const NpChangeTransaction *np_change_transaction(void);
extern void np_change_transaction_fill(NpChangeTransaction *transaction, FullTransactionId id, TimestampTz at, XLogRecPtr commit_lsn);
extern bool np_change_is_decoded(const NpChangeTransaction *transaction);
extern int64 np_change_milliseconds(TimestampTz time);

#endif							/* NP_CHANGE_TRANSACTION_H */
