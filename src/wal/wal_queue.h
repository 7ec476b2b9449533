/*-------------------------------------------------------------------------
 *
 * wal_queue.h
 *	  Messages that were decoded, until they have come to their end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_QUEUE_H
#define NP_WAL_QUEUE_H

#include "message/message.h"
#include "wal/wal_change.h"
#include "wal/wal_position.h"

/* One of them: its place in the queue, until it has ended. */
typedef struct NpWalRecord NpWalRecord;

extern void np_wal_queue_add(NpWalTransaction *transaction, const NpMessage *message, const NpWalError *error);
extern NpWalRecord *np_wal_queue_peek(void);
extern void np_wal_queue_take(void);
extern void np_wal_queue_put_aside(NpWalRecord *record);
extern NpWalRecord *np_wal_queue_set_apart(NpWalRecord *record);
extern void np_wal_queue_return_all(void);
extern void np_wal_queue_end(NpWalRecord *record);

extern NpWalTransaction *np_wal_record_transaction(const NpWalRecord *record);
extern int64 np_wal_record_number(const NpWalRecord *record);
extern NpMessage np_wal_record_message(const NpWalRecord *record);
extern void np_wal_record_doubt(NpWalRecord *record);
extern bool np_wal_record_is_doubted(const NpWalRecord *record);
extern bool np_wal_record_error(const NpWalRecord *record, NpWalError *error);

extern int64 np_wal_queue_count(void);
extern int64 np_wal_queue_bytes(void);
extern bool np_wal_queue_is_full(void);

#endif							/* NP_WAL_QUEUE_H */
