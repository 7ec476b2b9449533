/*-------------------------------------------------------------------------
 *
 * wal_visible.h
 *	  Whether others see by now what a transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_VISIBLE_H
#define NP_WAL_VISIBLE_H

#include "wal/wal_position.h"

extern bool np_others_see(NpWalTransaction *transaction);

#endif							/* NP_WAL_VISIBLE_H */
