/*-------------------------------------------------------------------------
 *
 * change_identity.h
 *	  The columns of a table's replica identity.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_IDENTITY_H
#define NP_CHANGE_IDENTITY_H

#include "nodes/bitmapset.h"
#include "utils/rel.h"

extern Bitmapset *np_change_identity(Relation relation);

#endif							/* NP_CHANGE_IDENTITY_H */
