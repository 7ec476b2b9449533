/*-------------------------------------------------------------------------
 *
 * id_horizon.h
 *	  Up to which number no row of a table can appear any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ID_HORIZON_H
#define NP_ID_HORIZON_H

extern int64 np_id_horizon(Oid table, int64 last_given, int64 look, int64 *ended_since);
extern void np_id_horizon_forget(void);

#endif							/* NP_ID_HORIZON_H */
