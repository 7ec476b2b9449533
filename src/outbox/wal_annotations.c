/*-------------------------------------------------------------------------
 *
 * wal_annotations.c
 *	  Annotations of a transaction, for who reads its changes from the WAL.
 *
 * They stand where they were made, before the changes that have them; those of
 * a savepoint that is rolled back go with it.  Whoever writes such a message
 * by other means annotates his own transaction, which anybody may.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "replication/message.h"

#include "base/compat.h"
#include "outbox/wal_annotations.h"
#include "outbox/wal_slot.h"

/* Write annotations, as JSON or "", if somebody reads the WAL of this database and the transaction can have changes. */
void
np_wal_annotate(const char *text)
{
	if (!XactReadOnly && np_wal_slot(MyDatabaseId).state == NP_WAL_SLOT_USABLE)
		(void) np_compat_log_message(NP_WAL_ANNOTATIONS_PREFIX, text, strlen(text));
}
