/*-------------------------------------------------------------------------
 *
 * change_trigger.h
 *	  The trigger function that publishes changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_TRIGGER_H
#define NP_CHANGE_TRIGGER_H

extern Oid	np_change_trigger_function(Oid schema);

#endif							/* NP_CHANGE_TRIGGER_H */
