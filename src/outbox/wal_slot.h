/*-------------------------------------------------------------------------
 *
 * wal_slot.h
 *	  The replication slot by which a database's WAL is published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_SLOT_H
#define NP_WAL_SLOT_H

#include "access/xlogdefs.h"

/* Its plugin, whose callbacks are replaced by ours (wal/decoder.c). */
#define NP_WAL_PLUGIN	"pgoutput"

typedef enum NpWalSlotState
{
	NP_WAL_SLOT_MISSING,
	NP_WAL_SLOT_USABLE,
	NP_WAL_SLOT_LOST,			/* WAL that it needs is gone (max_slot_wal_keep_size, ...) */
	NP_WAL_SLOT_FOREIGN			/* it is of another kind, plugin or database */
} NpWalSlotState;

typedef struct NpWalSlot
{
	char		name[NAMEDATALEN];
	NpWalSlotState state;
	XLogRecPtr	restart;		/* WAL is kept from here on; invalid: none is */
	XLogRecPtr	confirmed;		/* as far as it is known, or was before it was lost */
	bool		has_failover;	/* it is kept up to date on standbys */
} NpWalSlot;

extern void np_wal_slot_name(Oid database, char *name);
extern NpWalSlot np_wal_slot(Oid database);
extern bool np_standbys_have_slots(void);
extern Datum np_wal_database(void);

#endif							/* NP_WAL_SLOT_H */
