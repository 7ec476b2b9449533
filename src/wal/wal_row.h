/*-------------------------------------------------------------------------
 *
 * wal_row.h
 *	  The rows of a change that is decoded from the WAL, and what they lack.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_ROW_H
#define NP_WAL_ROW_H

#include "access/htup.h"

#include "change/change_message.h"

extern void np_wal_row_put(const NpChangePlan *plan, NpChange *change, HeapTuple old, HeapTuple new);
extern void np_wal_row_clear(const NpChangePlan *plan);
extern void np_wal_row_check(const NpChangePlan *plan, const NpChange *change);
extern void np_wal_row_check_filter(const NpChangePlan *plan, const NpChange *change);
extern void np_wal_row_check_message(const NpChangePlan *plan, const NpChange *change);

#endif							/* NP_WAL_ROW_H */
