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
#include "datatype/timestamp.h"
#include "utils/datetime.h"

typedef struct NpChangeTransaction
{
	FullTransactionId id;
	TimestampTz start;
	char		id_text[24];
	char		time[MAXDATELEN + 1];	/* in UTC, without the offset */
	char		json[MAXDATELEN + 64];	/* the end of an object */
} NpChangeTransaction;

extern const NpChangeTransaction *np_change_transaction(void);
extern int64 np_change_milliseconds(TimestampTz time);

#endif							/* NP_CHANGE_TRANSACTION_H */
