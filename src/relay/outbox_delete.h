/*-------------------------------------------------------------------------
 *
 * outbox_delete.h
 *	  Rows of the outbox, deleted where they were read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_DELETE_H
#define NP_OUTBOX_DELETE_H

#include "relay/relay_row.h"

extern uint64 np_outbox_delete(NpRow *const *rows, int count);

#endif							/* NP_OUTBOX_DELETE_H */
