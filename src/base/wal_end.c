/*-------------------------------------------------------------------------
 *
 * wal_end.c
 *	  Where the WAL ends that was written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"

#include "base/wal_end.h"

/*
 * Behind the last record, flushed or not.  Where the next one will begin can be
 * behind the header of a page that is not there yet, up to which nothing can
 * be flushed or read; no record ends there.
 */
XLogRecPtr
np_wal_end(void)
{
	XLogRecPtr	next = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(next, wal_segment_size) == SizeOfXLogLongPHD)
		return next - SizeOfXLogLongPHD;
	if (next % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return next - SizeOfXLogShortPHD;
	return next;
}
