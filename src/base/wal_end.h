/*-------------------------------------------------------------------------
 *
 * wal_end.h
 *	  Where the WAL ends that was written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_END_H
#define NP_WAL_END_H

#include "access/xlogdefs.h"

extern XLogRecPtr np_wal_end(void);

#endif							/* NP_WAL_END_H */
