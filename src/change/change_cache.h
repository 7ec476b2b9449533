/*-------------------------------------------------------------------------
 *
 * change_cache.h
 *	  The plans of the triggers that this backend has fired.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_CACHE_H
#define NP_CHANGE_CACHE_H

#include "change/change_plan.h"

/* Changes the options of a plan before it is made. */
typedef void (*NpChangeAdapter) (NpChangeOptions *options, const void *argument);

extern NpChangePlan *np_change_cache_find(Relation relation, const Trigger *trigger);
extern NpTriggerFacts np_trigger_facts(const Trigger *trigger);
extern NpChangePlan *np_change_cache_make(Relation relation, const Trigger *trigger, NpChangeAdapter adapt,
										  const void *argument);
extern void np_change_cache_release(NpChangePlan *plan);

#endif							/* NP_CHANGE_CACHE_H */
