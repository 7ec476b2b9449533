/*-------------------------------------------------------------------------
 *
 * wal_trouble.h
 *	  Transactions in which an error was met because of which they are decoded
 *	  again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_TROUBLE_H
#define NP_WAL_TROUBLE_H

#include "access/xlogdefs.h"

#include "base/wait.h"

extern void np_wal_trouble_expect(XLogRecPtr commit);
extern bool np_wal_trouble_was_severe(XLogRecPtr commit);
extern bool np_wal_trouble_ends(XLogRecPtr commit, int sqlstate, NpTime took, bool is_by_others);
extern bool np_wal_trouble_ended(XLogRecPtr commit, const ErrorData *error);
extern const char *np_wal_trouble_error(XLogRecPtr commit, int *sqlstate);
extern void np_wal_trouble_limit(XLogRecPtr commit, int canceled_after, int patience);
extern void np_wal_trouble_no_limit(void);
extern bool np_wal_trouble_was_endless(XLogRecPtr commit);
extern bool np_wal_trouble_has_no_room(XLogRecPtr confirmed);

#endif							/* NP_WAL_TROUBLE_H */
