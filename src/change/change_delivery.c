/*-------------------------------------------------------------------------
 *
 * change_delivery.c
 *	  The ways in which messages about changes are published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "change/change_delivery.h"
#include "commit/transaction.h"
#include "outbox/outbox.h"
#include "outbox/wal_message.h"
#include "publish/current_session.h"
#include "publish/policy.h"
#include "publish/publisher.h"
#include "publish/sessions.h"

static const NpStatsMode counted_as[] = {
	[NP_DELIVER_ON_COMMIT] = NP_STATS_ON_COMMIT,
	[NP_DELIVER_ASYNC] = NP_STATS_ASYNC,
	[NP_DELIVER_SYNC] = NP_STATS_SYNC,
	[NP_DELIVER_OUTBOX] = NP_STATS_OUTBOX,
	[NP_DELIVER_WAL] = NP_STATS_OUTBOX,
};

/*
 * Publish a message by a delivery, unless the session publishes nothing; schema
 * is that of the extension.  Raises what publishing raises.
 */
void
np_change_deliver(Oid schema, NpDelivery delivery, const NpMessage *message)
{
	NpResult	result;
	int64		id;

	if (!np_policy_admits(message, counted_as[delivery]))
		return;
	switch (delivery)
	{
		case NP_DELIVER_ON_COMMIT:
			np_publish_on_commit(message);
			break;
		case NP_DELIVER_ASYNC:
			(void) np_publish_async(message, true);
			break;
		case NP_DELIVER_SYNC:
			np_publish(message, &result);
			break;
		case NP_DELIVER_OUTBOX:
			(void) np_outbox_insert(schema, message, NP_AT_ONCE, &id);
			break;
		case NP_DELIVER_WAL:
			/* not of a change, which is there already */
			np_wal_write(schema, message);
			break;
	}
}

/*
 * The same for a row that is only read, with a message that need not wait for
 * COMMIT: it is true, whatever becomes of the transaction.  So one that is
 * held otherwise goes out while the next rows are read.  In all else it is as
 * one that was held: COMMIT waits for it, and if that fails what is on its way
 * must not arrive, as then the row can be changed.
 */
void
np_change_deliver_read(Oid schema, NpDelivery delivery, NpMessage *message)
{
	if (delivery != NP_DELIVER_ON_COMMIT)
	{
		np_change_deliver(schema, delivery, message);
		return;
	}
	if (!np_policy_admits(message, NP_STATS_ON_COMMIT))
		return;
	message->session = np_current_session()->number;
	np_publish_held(message);
}

/* ---- The end of a transaction -------------------------------------------------- */

/* The way of what is published here and now.  Raises what np_current_session raises. */
NpChangeWay
np_change_way(NpDelivery delivery)
{
	NpChangeWay way = {.publishing = np_publishing};

	if (np_publishing != NP_PUBLISHING_ON)
		return way;
	if (delivery == NP_DELIVER_ON_COMMIT)
		way.session = np_current_session()->number;
	else
		way.storage = delivery == NP_DELIVER_WAL ? NP_STORAGE_WAL : np_outbox_storage;
	return way;
}

bool
np_change_way_equal(const NpChangeWay *a, const NpChangeWay *b)
{
	return a->publishing == b->publishing && a->session == b->session && a->storage == b->storage;
}

/*
 * Publish what ends changes, by the way that they went, which may have been
 * another than that of COMMIT.  Who made them was allowed to publish it.
 * Raises what publishing raises.
 */
void
np_change_deliver_end(Oid schema, NpDelivery delivery, const NpChangeWay *way, const NpMessage *message)
{
	int64		id;

	if (way->publishing != NP_PUBLISHING_ON)
		np_stats_of(counted_as[delivery])->suppressed++;
	else if (delivery == NP_DELIVER_ON_COMMIT)
		np_publish_on_commit_over(np_sessions_get(way->session), message);
	else if (way->storage == NP_STORAGE_WAL)
		np_wal_write(schema, message);
	else
		(void) np_outbox_insert_row(schema, message, NP_AT_ONCE, &id);
}
