/*-------------------------------------------------------------------------
 *
 * relay_worker.h
 *	  What the relays of a database, of its table and of its WAL, have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_WORKER_H
#define NP_RELAY_WORKER_H

#include "outbox/relay_state.h"
#include "publish/delivery.h"

extern void np_worker_start(int slot, const char *database);
extern int	np_worker_slot(void);
extern void np_worker_show_state(NpRelayState state);
extern NpRelayState np_worker_shown_state(void);
extern void np_worker_show_order(void);
extern bool np_worker_is_connected(const NpSession *session);
extern void np_worker_report_problem(const NpSession *session, const char *problem);
extern void np_worker_report_error(const NpSession *session, const ErrorData *error);
extern void np_worker_report_table_error(const NpSession *session, const ErrorData *error);
extern void np_worker_report_works(void);
extern void np_worker_report_success(const NpSession *session);
extern bool np_worker_keep_connection(NpSession *session, const char **problem);
extern bool np_worker_has_problem(void);
extern NpTime np_worker_next_try(void);
extern void np_worker_end_pause(void);
extern bool np_worker_reload(void);
extern NpTime np_worker_try_round(NpTime (*round) (void), void (*failed) (const ErrorData *error));
extern void np_worker_end_round(NpSession *session);
extern void np_worker_pause(NpTime until);
extern void np_worker_rest(NpTime until, uint32 wakes_seen);

#endif							/* NP_RELAY_WORKER_H */
