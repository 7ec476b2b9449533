/*-------------------------------------------------------------------------
 *
 * settled.h
 *	  Up to which number no row of a table can appear any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SETTLED_H
#define NP_SETTLED_H

extern int64 np_settled(Oid table, int64 last_given, bool *some_ended);

#endif							/* NP_SETTLED_H */
