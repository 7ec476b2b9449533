/*-------------------------------------------------------------------------
 *
 * wal_standby.h
 *	  What standbys have, and a failover does not take back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_STANDBY_H
#define NP_WAL_STANDBY_H

#include "access/xlogdefs.h"

extern bool np_standbys_have(XLogRecPtr position);
extern void np_standbys_report(XLogRecPtr position);

#endif							/* NP_WAL_STANDBY_H */
