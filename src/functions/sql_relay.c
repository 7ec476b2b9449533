/*-------------------------------------------------------------------------
 *
 * sql_relay.c
 *	  The SQL functions about the outbox and its relay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/encoding.h"
#include "base/report.h"
#include "commit/transaction.h"
#include "message/message.h"
#include "message/protocol.h"
#include "outbox/outbox.h"
#include "outbox/outbox_retry.h"
#include "outbox/relay_pause.h"
#include "outbox/relay_state.h"
#include "outbox/statement.h"
#include "publish/policy.h"

PG_FUNCTION_INFO_V1(nats_outbox_check);
PG_FUNCTION_INFO_V1(nats_outbox_wake);
PG_FUNCTION_INFO_V1(nats_outbox_retry);
PG_FUNCTION_INFO_V1(nats_outbox_retry_all);
PG_FUNCTION_INFO_V1(nats_relay_pause);
PG_FUNCTION_INFO_V1(nats_relay_resume);
PG_FUNCTION_INFO_V1(nats_relay_status);
PG_FUNCTION_INFO_V1(nats_wal_relay_status);

/* The columns of nats_relay_status(), and what nats_wal_relay_status() has behind them. */
enum
{
	STATUS_DATNAME,
	STATUS_PID,
	STATUS_STATE,
	STATUS_URL,
	STATUS_PUBLISHED,
	STATUS_FAILED,
	STATUS_DEAD,
	STATUS_LAST_SUCCESS,
	STATUS_LAST_ERROR,
	STATUS_LAST_ERROR_AT,
	STATUS_BLOCKED_BY,
	STATUS_ORDERING,
	STATUS_SHARED_STREAM,
	STATUS_READ_LSN,
	STATUS_CONFIRMED_LSN,
	STATUS_QUEUED,
	STATUS_QUEUED_BYTES,
	STATUS_DECODING,
	STATUS_DECODED,
	STATUS_DIVERTED,
	STATUS_FORGED,
	STATUS_COLUMNS
};

/* ---- Triggers of the tables -------------------------------------------------------- */

/* The value of a column of a row that is being written.  Raises 42804 if the owner has made it one of another type. */
static Datum
get_value(HeapTuple row, TupleDesc columns, const char *name, Oid type, bool *isnull)
{
	int			number = SPI_fnumber(columns, name);

	if (number == SPI_ERROR_NOATTRIBUTE || !IsBinaryCoercible(SPI_gettypeid(columns, number), type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("nats_outbox has no column \"%s\" of type %s", name, format_type_be(type)),
				 errhint("Change the table back to what the extension has made.")));
	return SPI_getbinval(row, columns, number, isnull);
}

/* Likewise; NULL: it is. */
static text *
get_text(HeapTuple row, TupleDesc columns, const char *name)
{
	bool		isnull;
	Datum		value = get_value(row, columns, name, TEXTOID, &isnull);

	return isnull ? NULL : DatumGetTextPP(value);
}

/* Raises what publishing the row in this session would raise. */
static void
check_row(HeapTuple row, TupleDesc columns)
{
	NpMessageOptions options = {.headers = NULL};
	NpMessage	message;
	bool		isnull;
	Datum		headers = get_value(row, columns, "headers", JSONBOID, &isnull);

	if (!isnull)
		options.headers = DatumGetJsonbP(headers);
	options.msg_id = np_text_to_utf8(get_text(row, columns, "msg_id"));
	np_message_build(&message, np_text_to_utf8(get_text(row, columns, "subject")), (NpSpan) {NULL, 0}, &options);
	np_policy_check_message(&message);
}

static bool
is_null(HeapTuple row, TupleDesc columns, const char *name)
{
	bool		isnull;

	(void) SPI_getbinval(row, columns, SPI_fnumber(columns, name), &isnull);
	return isnull;
}

/* Raises 54000 for a payload that no NATS server takes; it is not read for that. */
static void
check_size(HeapTuple row, TupleDesc columns)
{
	bool		isnull;
	Datum		payload = get_value(row, columns, "payload", BYTEAOID, &isnull);
	NpFailure	failure;
	size_t		length;

	if (isnull)
		return;
	length = toast_raw_datum_size(payload) - VARHDRSZ;
	if (length <= NP_MAX_PAYLOAD_LENGTH)
		return;
	failure = np_failure(NP_FAULT_SIZE, "payload is %zu bytes long, and no NATS server takes more than %d", length,
						 NP_MAX_PAYLOAD_LENGTH);
	np_raise(&failure);
}

/* Does it say that it was tried before, and is not one for later? */
static bool
claims_to_have_failed(HeapTuple row, TupleDesc columns)
{
	bool		isnull;
	Datum		time = get_value(row, columns, "next_attempt_at", TIMESTAMPTZOID, &isnull);

	if (isnull)
		return false;
	return DatumGetTimestampTz(time) <= GetCurrentTimestamp() || !is_null(row, columns, "last_error") ||
		DatumGetInt32(get_value(row, columns, "attempts", INT4OID, &isnull)) > 0;
}

/*
 * A row that comes from nats_outbox_dead, or is tried again: what is wrong with it
 * is the relay's to say, and must not keep others from being tried again.  But
 * the relay does not know to what this session is bounded, and headers must be
 * understood for that.
 */
static bool
is_left_to_relay(HeapTuple row, TupleDesc columns)
{
	return claims_to_have_failed(row, columns) && (!np_policy_is_bounded() || is_null(row, columns, "headers"));
}

static void
raise_call(const char *text)
{
	NpFailure	failure = np_failure(NP_FAULT_TRIGGER, "%s", text);

	np_raise(&failure);
}

/* Is it the extension's table, whose columns we know?  Anybody may put the function on a table of his own. */
static bool
is_trigger_of(FunctionCallInfo fcinfo, const char *table)
{
	return CALLED_AS_TRIGGER(fcinfo) && RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation) ==
		get_relname_relid(table, get_func_namespace(fcinfo->flinfo->fn_oid));
}

static bool
is_outbox_row(FunctionCallInfo fcinfo)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;

	return is_trigger_of(fcinfo, "nats_outbox") && TRIGGER_FIRED_BEFORE(data->tg_event) &&
		TRIGGER_FIRED_FOR_ROW(data->tg_event) && !TRIGGER_FIRED_BY_DELETE(data->tg_event);
}

/* Whoever has called us, and not a trigger, was asked before he became the table's owner. */
static void
wake_relay(NpRelayWake whom)
{
	if (!np_statement_is_ours())
		np_transaction_refuse_restricted();
	np_transaction_wake_relay(whom);
}

/* nats_outbox_check(): before a row is written to nats_outbox, by whomever */
Datum
nats_outbox_check(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	HeapTuple	row;

	if (!is_outbox_row(fcinfo))
		raise_call("nats_outbox_check() is the trigger of nats_outbox, and of no other table");
	row = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
	/* it was checked when it was written into the WAL */
	if (np_outbox_is_diverting())
		return PointerGetDatum(row);
	wake_relay(NP_WAKE_TO_PUBLISH);
	if (!claims_to_have_failed(row, RelationGetDescr(data->tg_relation)))
		check_size(row, RelationGetDescr(data->tg_relation));
	if (!np_outbox_row_is_checked())
	{
		np_policy_check_outbox();
		if (is_left_to_relay(row, RelationGetDescr(data->tg_relation)))
			np_policy_check_subject(np_text_to_utf8(get_text(row, RelationGetDescr(data->tg_relation), "subject")));
		else
			check_row(row, RelationGetDescr(data->tg_relation));
	}
	return PointerGetDatum(row);
}

/* nats_outbox_wake(): after a change of nats_control, which the relay has to see, and a dump to have */
Datum
nats_outbox_wake(PG_FUNCTION_ARGS)
{
	const TriggerData *data = (const TriggerData *) fcinfo->context;

	if (!is_trigger_of(fcinfo, "nats_control") || !TRIGGER_FIRED_AFTER(data->tg_event))
		raise_call("nats_outbox_wake() is the trigger of nats_control, and of no other table");
	np_pause_mark(RelationGetRelid(data->tg_relation));
	wake_relay(NP_WAKE_TO_LOOK);
	return PointerGetDatum(NULL);
}

/* ---- What an operator does ------------------------------------------------------------- */

/* nats_outbox_retry(id): false: no message has that id */
Datum
nats_outbox_retry(PG_FUNCTION_ARGS)
{
	np_transaction_refuse_restricted();
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(np_outbox_retry(get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_INT64(0)));
}

/* nats_outbox_retry_all(): how many messages are dead or retrying */
Datum
nats_outbox_retry_all(PG_FUNCTION_ARGS)
{
	np_transaction_refuse_restricted();
	PG_RETURN_INT64(np_outbox_retry_all(get_func_namespace(fcinfo->flinfo->fn_oid)));
}

/* nats_relay_pause() */
Datum
nats_relay_pause(PG_FUNCTION_ARGS)
{
	np_transaction_refuse_restricted();
	np_pause_begin(get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_VOID();
}

/* nats_relay_resume() */
Datum
nats_relay_resume(PG_FUNCTION_ARGS)
{
	np_transaction_refuse_restricted();
	np_pause_end(get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_VOID();
}

/* ---- Status ----------------------------------------------------------------------------- */

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text[0] == '\0';
	if (!nulls[column])
		values[column] = CStringGetTextDatum(text);
}

static void
put_time(Datum *values, bool *nulls, int column, TimestampTz time)
{
	nulls[column] = time == 0;
	values[column] = TimestampTzGetDatum(time);
}

static void
put_position(Datum *values, bool *nulls, int column, XLogRecPtr position)
{
	nulls[column] = XLogRecPtrIsInvalid(position);
	values[column] = LSNGetDatum(position);
}

static void
fill_common(NpRelayStatus *status, Datum *values, bool *nulls)
{
	ArrayType  *blockers = np_relay_blocked_by(status);

	put_text(values, nulls, STATUS_DATNAME, status->name);
	nulls[STATUS_PID] = status->pid == 0;
	values[STATUS_PID] = Int32GetDatum(status->pid);
	put_text(values, nulls, STATUS_STATE, np_relay_state_name(status->state));
	put_text(values, nulls, STATUS_URL, status->url);
	values[STATUS_PUBLISHED] = Int64GetDatum(status->published);
	values[STATUS_FAILED] = Int64GetDatum(status->failed);
	values[STATUS_DEAD] = Int64GetDatum(status->dead);
	put_time(values, nulls, STATUS_LAST_SUCCESS, status->last_success);
	put_text(values, nulls, STATUS_LAST_ERROR, np_string_from_utf8(status->last_error));
	put_time(values, nulls, STATUS_LAST_ERROR_AT, status->last_error_at);
	nulls[STATUS_BLOCKED_BY] = blockers == NULL;
	values[STATUS_BLOCKED_BY] = PointerGetDatum(blockers);
	put_text(values, nulls, STATUS_ORDERING, status->pid == 0 ? "" : np_relay_order_name(status->order));
	put_text(values, nulls, STATUS_SHARED_STREAM, np_string_from_utf8(status->shared_stream));
}

static void
fill_progress(const NpWalProgress *progress, Datum *values, bool *nulls)
{
	put_position(values, nulls, STATUS_READ_LSN, progress->read);
	put_position(values, nulls, STATUS_CONFIRMED_LSN, progress->confirmed);
	values[STATUS_QUEUED] = Int64GetDatum(progress->queued);
	values[STATUS_QUEUED_BYTES] = Int64GetDatum(progress->queued_bytes);
	nulls[STATUS_DECODING] = progress->decoding == 0;
	values[STATUS_DECODING] = TransactionIdGetDatum(progress->decoding);
	values[STATUS_DECODED] = Int64GetDatum(progress->decoded);
	values[STATUS_DIVERTED] = Int64GetDatum(progress->diverted);
	values[STATUS_FORGED] = Int64GetDatum(progress->forged);
}

/* The relays in slots of shared memory, from one on. */
static Datum
put_relays(FunctionCallInfo fcinfo, int first)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < NP_MAX_RELAYS && np_relay_state_is_there(); i++)
	{
		NpRelayStatus status = np_relay_status(first + i);
		Datum		values[STATUS_COLUMNS] = {0};
		bool		nulls[STATUS_COLUMNS] = {false};

		if (status.name[0] == '\0')
			continue;
		fill_common(&status, values, nulls);
		fill_progress(&status.wal, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* nats_relay_status(): the relays of all databases; none when the library is not preloaded */
Datum
nats_relay_status(PG_FUNCTION_ARGS)
{
	return put_relays(fcinfo, 0);
}

/* nats_wal_relay_status(): the same of the relays of the WAL */
Datum
nats_wal_relay_status(PG_FUNCTION_ARGS)
{
	return put_relays(fcinfo, np_relay_wal_slot(0));
}
