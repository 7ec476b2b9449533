/*-------------------------------------------------------------------------
 *
 * id_horizon.h
 *	  Up to which number no row of a table can appear any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ID_HORIZON_H
#define NP_ID_HORIZON_H

extern int64 np_id_horizon(Oid table, int64 last_given, bool *some_ended);

#endif							/* NP_ID_HORIZON_H */
