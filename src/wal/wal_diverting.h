/*-------------------------------------------------------------------------
 *
 * wal_diverting.h
 *	  When messages of the WAL are moved to nats_outbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_DIVERTING_H
#define NP_WAL_DIVERTING_H

#include "base/wait.h"
#include "wal/wal_divert.h"

extern void np_diverting_progressed(void);
extern void np_diverting_excuse(NpTime duration);
extern bool np_diverting_is_done(void);
extern bool np_diverting_has_more_to_end(void);
extern bool np_diverting_is_time(bool may_publish);
extern void np_diverting_begin(void);
extern void np_diverting_end(void);
extern bool np_diverting_is_on(void);
extern bool np_diverting_may_end(bool has_more);
extern bool np_diverting_may_write(void);
extern NpTime np_diverting_next_write(void);
extern void np_diverting_write(NpDiverted *diverted);
extern bool np_diverting_is_stuck(void);
extern void np_diverting_look(void);
extern bool np_diverting_failed(const ErrorData *error);

#endif							/* NP_WAL_DIVERTING_H */
