/*-------------------------------------------------------------------------
 *
 * change_counts.h
 *	  The changes of a transaction that are counted together, and the message
 *	  that ends it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_COUNTS_H
#define NP_CHANGE_COUNTS_H

#include "change/change_delivery.h"
#include "change/change_message.h"

typedef struct NpChangedTable
{
	const char *schema;			/* in the database's encoding */
	const char *name;
	int64		count;
} NpChangedTable;

/* The changes that are counted together. */
typedef struct NpChangeGroup
{
	const char *end;			/* subject, or "": no message ends them */
	NpDelivery	delivery;
	NpChangeFormat format;
	NpChangeWay way;
	Oid			schema;			/* of the extension */
	Oid			user;			/* who made it */
	const char *id;				/* of the transaction, as Debezium's; NULL: it is new */
	int64		count;
	List	   *tables;
	NpChangedTable *last;		/* that was found among them; NULL: none yet */
} NpChangeGroup;

typedef struct NpChangeCounts
{
	List	   *groups;
} NpChangeCounts;

extern NpChangeGroup *np_change_counts_find(NpChangeCounts *counts, const NpChangePlan *plan, const NpChangeWay *way, NpChangedTable **table);
extern NpChangePosition np_change_counts_add(NpChangeGroup *group, NpChangedTable *table);
extern bool np_change_group_has_end(const NpChangeGroup *group);
extern void np_change_group_build_end(NpMessage *message, const NpChangeGroup *group, const NpChangeTransaction *transaction, NpSpan id);

#endif							/* NP_CHANGE_COUNTS_H */
