/*-------------------------------------------------------------------------
 *
 * wal_message.c
 *	  Messages of the outbox in the WAL.
 *
 * A message is written as a logical decoding message of the transaction:
 *
 *		version | xid | the message (packed.c) | seal
 *
 * Anybody may call pg_logical_emit_message() with our prefix, and who may
 * publish, and to which subjects, is asked when our functions are called.  So
 * what counts is the seal: a code of all that is before it, with a secret of
 * the extension.  Whoever reads messages in the WAL can't write another one,
 * nor the same one again, for it is another transaction's then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/compat.h"
#include "base/report.h"
#include "base/settings.h"
#include "message/message_id.h"
#include "message/packed.h"
#include "message/protocol.h"
#include "outbox/statement.h"
#include "outbox/wal_message.h"
#include "outbox/wal_slot.h"

#define VERSION			1
#define HEADER_VERSION	"NATS/1.0\r\n"

/* How each begins. */
typedef struct Head
{
	uint32		version;
	TransactionId xid;			/* of the whole transaction */
} Head;

typedef uint64 Seal;

/* ---- The secret ------------------------------------------------------------------------ */

static NpStatement read_secret = {
	.text = "SELECT secret::pg_catalog.bytea, slot::pg_catalog.name, xmin::pg_catalog.xid FROM %s.nats_wal WHERE database OPERATOR(pg_catalog.=) $1",
	.argument_count = 1,
	.types = {TEXTOID}
};

/* What is in the table nats_wal, that is known. */
typedef struct Known
{
	Oid			table;			/* InvalidOid: none is */
	NpWalSecret secret;
	NameData	slot;			/* empty: none */
	bool		is_committed;	/* a rollback of this transaction can't take it back */
} Known;

static void
copy_row(Known *known)
{
	HeapTuple	row = SPI_tuptable->vals[0];
	TupleDesc	columns = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value = SPI_getbinval(row, columns, 1, &isnull);
	const bytea *secret = isnull ? NULL : DatumGetByteaPP(value);
	Datum		slot;

	if (isnull || VARSIZE_ANY_EXHDR(secret) != sizeof(known->secret.key))
		elog(ERROR, "the secret in nats_wal is not one");
	memcpy(known->secret.key, VARDATA_ANY(secret), sizeof(known->secret.key));
	slot = SPI_getbinval(row, columns, 2, &isnull);
	namestrcpy(&known->slot, isnull ? "" : NameStr(*DatumGetName(slot)));
	known->is_committed = !TransactionIdIsCurrentTransactionId(DatumGetTransactionId(SPI_getbinval(row, columns, 3, &isnull)));
}

/* False: it was never switched on here. */
static bool
read_table(Oid schema, Known *known)
{
	NpUser		caller;
	Datum		database = np_wal_database();
	bool		found;

	namestrcpy(&known->slot, "");
	np_statements_begin(&caller, schema, "nats_wal");
	found = np_statement_read(&read_secret, schema, &database, 1) > 0;
	if (found)
		copy_row(known);
	np_statements_end(&caller);
	return found;
}

/*
 * The secret of the extension in that schema.  It is made when the WAL is first
 * switched on, and never changes.  False: there is none yet.
 */
bool
np_wal_secret(Oid schema, NpWalSecret *secret)
{
	Known		known;

	if (!read_table(schema, &known))
		return false;
	*secret = known.secret;
	return true;
}

static Seal
seal_of(const NpWalSecret *secret, const char *data, size_t length)
{
	return np_siphash(secret->key, data, length);
}

/* ---- Writing --------------------------------------------------------------------------- */

NP_NORETURN static void
raise_unusable(const NpWalSlot *slot)
{
	const char *why = slot->state == NP_WAL_SLOT_MISSING ? "There is no replication slot \"%s\"." :
	slot->state == NP_WAL_SLOT_LOST ? "The replication slot \"%s\" has lost WAL that it needs." :
	"The replication slot \"%s\" was not made by nats_wal_enable().";

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot write to the outbox in the WAL"),
			 errdetail_internal(why, slot->name),
			 np_outbox_storage == NP_STORAGE_WAL ?
			 errhint("Call nats_wal_enable(), or set nats_publish.outbox_storage to \"table\".") :
			 errhint("Call nats_wal_enable().")));
}

/*
 * The secret to write with.  A message that nobody would read is lost; so there
 * must be a slot, and it must be the one of this extension, whose secret its
 * relay knows.  The lock, which lasts as long as the transaction, is what
 * nats_wal_disable() waits for.
 */
static const NpWalSecret *
require_slot(Oid schema)
{
	static Known known;
	Oid			table = get_relname_relid("nats_wal", schema);
	NpWalSlot	slot;

	LockRelationOid(table, RowExclusiveLock);
	slot = np_wal_slot(MyDatabaseId);
	if (slot.state != NP_WAL_SLOT_USABLE)
		raise_unusable(&slot);
	if (known.table == table)
		return &known.secret;
	(void) read_table(schema, &known);
	if (strcmp(NameStr(known.slot), slot.name) != 0)
	{
		slot.state = NP_WAL_SLOT_FOREIGN;
		raise_unusable(&slot);
	}
	/* who is about to switch the WAL on for the first time has a secret that may never be another's */
	known.table = known.is_committed ? table : InvalidOid;
	return &known.secret;
}

/* A message without an id gets one, before its other headers. */
static void
give_id(NpMessage *message)
{
	static const char start[] = HEADER_VERSION "Nats-Msg-Id: ";
	NpSpan		id = np_message_next_id();
	NpSpan		rest = message->headers;
	char	   *headers;

	if (rest.data == NULL)
		rest = (NpSpan) {HEADER_VERSION "\r\n", strlen(HEADER_VERSION "\r\n")};
	rest.data += strlen(HEADER_VERSION);
	rest.length -= strlen(HEADER_VERSION);
	headers = palloc(strlen(start) + id.length + 2 + rest.length);
	memcpy(headers, start, strlen(start));
	memcpy(headers + strlen(start), id.data, id.length);
	memcpy(headers + strlen(start) + id.length, "\r\n", 2);
	memcpy(headers + strlen(start) + id.length + 2, rest.data, rest.length);
	if (message->expect_stream.data != NULL)
		message->expect_stream.data = headers + strlen(start) + id.length + 2 + (message->expect_stream.data - rest.data);
	message->headers = (NpSpan) {headers, strlen(start) + id.length + 2 + rest.length};
	message->id = (NpSpan) {headers + strlen(start), id.length};
	message->has_automatic_id = true;
}

static void
check_length(const NpMessage *message)
{
	NpFailure	failure;

	if (message->payload.length <= NP_MAX_PAYLOAD_LENGTH)
		return;
	failure = np_failure(NP_FAULT_SIZE, "payload is %zu bytes long, and no NATS server takes more than %d",
						 message->payload.length, NP_MAX_PAYLOAD_LENGTH);
	np_raise(&failure);
}

/*
 * Write a message into the WAL, as a part of the transaction.  One without an
 * id gets one.
 *
 * Raises 25006 in a read-only transaction, 55000 when there is no usable slot,
 * 54000 when the payload is larger than any server takes.
 */
void
np_wal_write(Oid schema, const NpMessage *message)
{
	NpMessage	written = *message;
	const NpWalSecret *secret;
	Head		head = {.version = VERSION};
	Seal		seal;
	size_t		length;
	char	   *data;

	PreventCommandIfReadOnly("nats_publish_outbox()");
	check_length(message);
	secret = require_slot(schema);
	if (written.id.data == NULL)
		give_id(&written);
	head.xid = GetTopTransactionId();
	length = sizeof(head) + np_packed_size(&written);
	data = palloc(length + sizeof(seal));
	memcpy(data, &head, sizeof(head));
	np_packed_write(&written, data + sizeof(head));
	seal = seal_of(secret, data, length);
	memcpy(data + length, &seal, sizeof(seal));
	(void) np_compat_log_message(NP_WAL_PREFIX, data, length + sizeof(seal));
	pfree(data);
}

/* ---- Reading --------------------------------------------------------------------------- */

/*
 * Take a message of a transaction from the WAL; it points into the data.
 * False: none of our functions has written it there.
 */
bool
np_wal_read(const NpWalSecret *secret, TransactionId xid, const char *data, size_t length, NpMessage *message)
{
	Head		head;
	Seal		seal;

	if (length < sizeof(head) + sizeof(seal))
		return false;
	length -= sizeof(seal);
	memcpy(&head, data, sizeof(head));
	memcpy(&seal, data + length, sizeof(seal));
	if (seal != seal_of(secret, data, length) || head.version != VERSION || head.xid != xid ||
		!np_packed_is_valid(data + sizeof(head), length - sizeof(head)))
		return false;
	np_packed_read(message, data + sizeof(head));
	return true;
}
