/*-------------------------------------------------------------------------
 *
 * decoder.c
 *	  Reading the WAL of a database, transaction by transaction.
 *
 * Logical decoding as PostgreSQL has it for its walsenders and SQL functions,
 * in this process.  The plugin of the slot is pgoutput, and its callbacks are
 * replaced by ours in the decoding context, from where they are called.  So no
 * plugin of ours has to be permitted (output_plugin_libraries), no publication
 * is needed, and the slot is one that others can read, too.
 *
 * Two dangers of being a decoder and having ordinary transactions as well:
 *
 * - A process that decodes is marked (PROC_IN_LOGICAL_DECODING) so that nobody
 *   respects its snapshots; VACUUM then removes rows under its transactions.
 *   It is only marked when the context is made outside of a transaction, so
 *   that is made inside of one.
 * - While a transaction of the past is decoded, catalogs are read as they were
 *   then.  What they had in the caches is wrong for ordinary transactions, and
 *   the other way round; so all caches are emptied in between, which is dear:
 *   np_decoder_leave() is to be called before each transaction, and those are
 *   to be few.
 *
 * ReorderBuffer has transactions of its own, which it always aborts.  None of
 * ours is open then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/compat.h"
#include "wal/decoder.h"

static LogicalDecodingContext *decoding;	/* NULL: not open */
static MemoryContext context;	/* of it */
static MemoryContext scratch;	/* of one callback */
static ReadLocalXLogPageNoWaitPrivate reading;
static ResourceOwner owner;
static const NpDecoderEvents *events;
static NpDecodedTransaction current;
static bool caches_are_of_the_past;
static XLogRecPtr flushed;		/* up to where there is WAL, as far as is known */
static XLogRecPtr incomplete;	/* up to here, there is only a part of the next record */

/* ---- Callbacks ------------------------------------------------------------------------- */

/* A transaction id of the recent past with its epoch. */
static uint64
full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return epoch << 32 | xid;
}

static void
on_begin(LogicalDecodingContext *of, ReorderBufferTXN *transaction)
{
	current = (NpDecodedTransaction)
	{
		.xid = full_xid(transaction->xid),
			.commit_lsn = transaction->final_lsn,
			.end_lsn = transaction->end_lsn,
			.commit_time = np_compat_commit_time(transaction),
			.origin = transaction->origin_id
	};
}

static void
on_change(LogicalDecodingContext *of, ReorderBufferTXN *transaction, Relation relation, ReorderBufferChange *change)
{
	MemoryContext caller = MemoryContextSwitchTo(scratch);

	events->change(&current, relation, change);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scratch);
}

static void
on_truncate(LogicalDecodingContext *of, ReorderBufferTXN *transaction, int count, Relation relations[],
			ReorderBufferChange *change)
{
	MemoryContext caller = MemoryContextSwitchTo(scratch);

	events->truncate(&current, count, relations, change);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scratch);
}

static void
on_message(LogicalDecodingContext *of, ReorderBufferTXN *transaction, XLogRecPtr lsn, bool transactional,
		   const char *prefix, Size length, const char *data)
{
	MemoryContext caller;

	/* one that does not belong to its transaction is not ours */
	if (!transactional)
		return;
	caller = MemoryContextSwitchTo(scratch);
	events->message(&current, prefix, data, length);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scratch);
}

static void
on_commit(LogicalDecodingContext *of, ReorderBufferTXN *transaction, XLogRecPtr commit_lsn)
{
	MemoryContext caller = MemoryContextSwitchTo(scratch);

	events->commit(&current);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scratch);
}

/* ---- Opening and closing ---------------------------------------------------------------- */

static DefElem *
option(const char *name, const char *value)
{
	return makeDefElem(pstrdup(name), (Node *) makeString(pstrdup(value)), -1);
}

/* What pgoutput wants to be told; its own callbacks, which would look for the publication, are never called. */
static List *
options_of_plugin(void)
{
	return list_make3(option("proto_version", "1"), option("publication_names", "nats_publish"), option("messages", "true"));
}

static void
create_contexts(void)
{
	if (owner == NULL)
		owner = ResourceOwnerCreate(NULL, "nats_publish decoder");
	if (context == NULL)
	{
		context = AllocSetContextCreate(TopMemoryContext, "nats_publish decoder", ALLOCSET_DEFAULT_SIZES);
		scratch = AllocSetContextCreate(TopMemoryContext, "nats_publish decoded change", ALLOCSET_DEFAULT_SIZES);
	}
}

static void
create_decoding_context(void)
{
	XLogReaderRoutine routine = {
		.page_read = read_local_xlog_page_no_wait,
		.segment_open = wal_segment_open,
		.segment_close = wal_segment_close
	};

	decoding = CreateDecodingContext(InvalidXLogRecPtr, options_of_plugin(), false, &routine, NULL, NULL, NULL);
	decoding->reader->private_data = &reading;
	decoding->callbacks.begin_cb = on_begin;
	decoding->callbacks.change_cb = on_change;
	decoding->callbacks.truncate_cb = on_truncate;
	decoding->callbacks.message_cb = on_message;
	decoding->callbacks.commit_cb = on_commit;
	XLogBeginRead(decoding->reader, MyReplicationSlot->data.restart_lsn);
	incomplete = InvalidXLogRecPtr;
}

/*
 * Begin to decode where the slot is.  Raises 55006 when somebody else reads
 * the slot, 55000 when it has lost WAL; np_decoder_abort() is then to be called.
 */
void
np_decoder_open(const char *slot, const NpDecoderEvents *listener)
{
	MemoryContext caller = CurrentMemoryContext;

	create_contexts();
	events = listener;
	np_decoder_leave();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	np_compat_slot_acquire(slot);
	create_decoding_context();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

bool
np_decoder_is_open(void)
{
	return decoding != NULL;
}

static void
release(void)
{
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
	decoding = NULL;
	if (context != NULL)
	{
		MemoryContextReset(context);
		MemoryContextReset(scratch);
	}
	np_decoder_leave();
}

void
np_decoder_close(void)
{
	ResourceOwner previous = CurrentResourceOwner;

	if (decoding == NULL)
		return;
	CurrentResourceOwner = owner;
	FreeDecodingContext(decoding);
	CurrentResourceOwner = previous;
	release();
}

/*
 * The same after an error, when the transaction is aborted.  What it was about
 * is not known any more, so nothing of it is called; what is not memory is the
 * descriptor of the WAL, for spilled changes are removed when it begins again.
 */
void
np_decoder_abort(void)
{
	if (decoding != NULL)
		XLogReaderFree(decoding->reader);
	release();
}

/* ---- Reading ----------------------------------------------------------------------------- */

static void
enter_past(void)
{
	if (!caches_are_of_the_past)
		InvalidateSystemCaches();
	caches_are_of_the_past = true;
}

/* To be called before an ordinary transaction. */
void
np_decoder_leave(void)
{
	if (caches_are_of_the_past)
		InvalidateSystemCaches();
	caches_are_of_the_past = false;
}

/*
 * Is there flushed WAL that was not tried to be read?  An attempt in vain is
 * dear: the reader forgets the page, and opens the file again.
 */
bool
np_decoder_has_more(void)
{
	if (flushed <= Max(np_decoder_position(), incomplete))
		flushed = GetFlushRecPtr(NULL);
	return flushed > Max(np_decoder_position(), incomplete);
}

/*
 * Read one record of the WAL, which may end a transaction.  False: there is no
 * more that is flushed.
 */
bool
np_decoder_step(void)
{
	ResourceOwner previous = CurrentResourceOwner;
	MemoryContext caller = CurrentMemoryContext;
	char	   *error = NULL;
	XLogRecord *record;

	if (!np_decoder_has_more())
		return false;
	/* what the reader allocates when it first needs it, it keeps */
	MemoryContextSwitchTo(context);
	enter_past();
	CurrentResourceOwner = owner;
	reading.end_of_wal = false;
	record = XLogReadRecord(decoding->reader, &error);
	if (record != NULL)
		LogicalDecodingProcessRecord(decoding, decoding->reader);
	else if (error != NULL && !reading.end_of_wal)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read the WAL: %s", error)));
	else
		incomplete = flushed;
	CurrentResourceOwner = previous;
	MemoryContextSwitchTo(caller);
	return record != NULL;
}

/* Up to where it has read. */
XLogRecPtr
np_decoder_position(void)
{
	return decoding->reader->EndRecPtr;
}

/* ---- The slot ---------------------------------------------------------------------------- */

/* What is before this position is not needed any more. */
void
np_decoder_confirm(XLogRecPtr position)
{
	LogicalConfirmReceivedLocation(position);
}

/* Write the slot down; after a crash, decoding begins where it was written down last. */
void
np_decoder_save(void)
{
	ReplicationSlotMarkDirty();
	ReplicationSlotSave();
}
