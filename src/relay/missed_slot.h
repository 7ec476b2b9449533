/*-------------------------------------------------------------------------
 *
 * missed_slot.h
 *	  A replication slot that should be there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_MISSED_SLOT_H
#define NP_MISSED_SLOT_H

extern void np_missed_slot_look(void);

#endif							/* NP_MISSED_SLOT_H */
