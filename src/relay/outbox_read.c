/*-------------------------------------------------------------------------
 *
 * outbox_read.c
 *	  Rows of the outbox, read by a statement and handed to the lanes.
 *
 * A row becomes a message where the executor has it, without a copy of it in
 * between; when there is no more room, the executor is told to stop.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "mb/pg_wchar.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/catch.h"
#include "base/encoding.h"
#include "base/settings.h"
#include "outbox/relay_state.h"
#include "relay/lanes.h"
#include "relay/outbox_glance.h"
#include "relay/outbox_read.h"
#include "relay/outbox_table.h"
#include "relay/relay_worker.h"
#include "relay/settling.h"

/* NP_ROW_COLUMNS. */
enum
{
	READ_ID = 1,
	READ_SUBJECT,
	READ_PAYLOAD,
	READ_HEADERS,
	READ_MSG_ID,
	READ_ATTEMPTS,
	READ_IN_DOUBT,
	READ_IS_SUSPECT,
	READ_HAS_FAILED,
	READ_PLACE,
	READ_TIME,
	READ_IS_HELD,
	READ_UNBURIED
};

/* What can be headers takes less than this as jsonb. */
#define MAX_HEADERS		(1024 * 1024)

/* A way is read for so long at a time, which is looked at after so many rows. */
#define LONGEST_READ	NP_MILLISECONDS(100)
#define ROWS_PER_CHECK	64

/* Between two complaints about the same. */
#define COMPLAINT_INTERVAL	NP_MILLISECONDS(60000)

/* What rows may need in between. */
#define SCRATCH			(64 * 1024)

static MemoryContext scratch;	/* of some rows; NULL: not used yet */
static NpRow *entering;			/* that the lanes do not have yet; NULL: there is none */

/* ---- Columns -------------------------------------------------------------------------- */

/* One that is not NULL, of a row that is complete. */
static Datum
get(TupleTableSlot *row, int column)
{
	bool		isnull;

	return slot_getattr(row, column, &isnull);
}

static bool
is_null(TupleTableSlot *row, int column)
{
	bool		isnull;

	(void) slot_getattr(row, column, &isnull);
	return isnull;
}

/*
 * Does it have what the table's constraints, which somebody can have dropped,
 * make sure of?  Else it is left as it is, and told about.
 */
static bool
is_complete(TupleTableSlot *row)
{
	static NpTime next_complaint;

	if (!is_null(row, READ_ID) && !is_null(row, READ_SUBJECT) && !is_null(row, READ_MSG_ID))
		return true;
	if (np_now() < next_complaint)
		return false;
	next_complaint = np_now() + COMPLAINT_INTERVAL;
	np_relay_slot_set_error(np_worker_slot(), "rows of nats_outbox without id, subject or msg_id cannot be published");
	ereport(LOG,
			(errmsg("rows of nats_outbox without id, subject or msg_id cannot be published"),
			 errhint("Delete them, and set the columns NOT NULL again.")));
	return false;
}

/* The length of a value that need not be read for that; 0 for NULL. */
static size_t
length_of(TupleTableSlot *row, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column, &isnull);

	return isnull ? 0 : toast_raw_datum_size(value) - VARHDRSZ;
}

static NpSpan
get_payload(TupleTableSlot *row)
{
	bool		isnull;
	Datum		value = slot_getattr(row, READ_PAYLOAD, &isnull);
	bytea	   *payload;

	if (isnull)
		return (NpSpan) {NULL, 0};
	payload = DatumGetByteaPP(value);
	return (NpSpan) {VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload)};
}

/* ---- Messages ------------------------------------------------------------------------- */

/* A row of the table, and the one in hand that it becomes. */
typedef struct Building
{
	TupleTableSlot *from;
	NpRow	   *row;
} Building;

static void
build_message(void *argument)
{
	const Building *building = argument;
	NpRow	   *row = building->row;
	NpMessageOptions options = {.msg_id = np_to_utf8(row->msg_id, strlen(row->msg_id))};
	NpMessage	message;
	bool		isnull;
	NpSpan		subject = np_text_to_utf8(DatumGetTextPP(get(building->from, READ_SUBJECT)));
	Datum		headers = slot_getattr(building->from, READ_HEADERS, &isnull);

	if (length_of(building->from, READ_HEADERS) > MAX_HEADERS)
		np_raise_fault(NP_FAULT_SIZE, NULL, "headers are longer than nats-server takes");
	if (!isnull)
		options.headers = DatumGetJsonbP(headers);
	np_message_build(&message, subject, get_payload(building->from), &options);
	np_row_take(row, &message);
}

/* All but what others and an administrator do, or the lack of memory: one bad row is one bad row. */
static bool
is_about_row(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_OPERATOR_INTERVENTION &&
		ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_INSUFFICIENT_RESOURCES && !np_is_of_others(sqlstate);
}

/*
 * Have the message of a row.  What can't be published (the table's check can
 * be gone round) has failed.
 */
static void
take_message(TupleTableSlot *from, NpRow *row)
{
	Building	building = {from, row};
	const ErrorData *error = np_catch(build_message, &building, is_about_row);

	if (error != NULL)
		np_row_refuse(row, unpack_sql_state(error->sqlerrcode), error->message);
}

/* One that is dead already, for its last error.  False: it is not. */
static bool
take_dead(TupleTableSlot *from, NpRow *row)
{
	bool		isnull;
	Datum		value = slot_getattr(from, READ_UNBURIED, &isnull);
	char	   *error;

	if (isnull)
		return false;
	error = TextDatumGetCString(value);
	row->was_dead = true;
	/* as it was written: a SQLSTATE, a colon and a text */
	if (strlen(error) > 7 && error[5] == ':')
	{
		error[5] = '\0';
		np_row_refuse(row, error, error + 7);
	}
	else
		np_row_refuse(row, "22000", error);
	row->state = NP_ROW_DEAD;
	return true;
}

static void
fill_row(TupleTableSlot *from, const NpReading *reading, NpRow *row)
{
	row->attempts = DatumGetInt32(get(from, READ_ATTEMPTS));
	row->in_doubt = DatumGetBool(get(from, READ_IN_DOUBT));
	row->is_suspect = DatumGetBool(get(from, READ_IS_SUSPECT));
	row->has_failed = DatumGetBool(get(from, READ_HAS_FAILED));
	row->is_unread = length_of(from, READ_PAYLOAD) > reading->largest;
	if (row->is_unread)
		row->length = length_of(from, READ_PAYLOAD);
	if (!take_dead(from, row) && !row->is_unread)
		take_message(from, row);
}

/* ---- Rows ----------------------------------------------------------------------------- */

/* Who is given the rows. */
typedef struct Receiver
{
	DestReceiver base;
	const NpWay *way;
	NpReading  *reading;
	NpHolders  *holders;		/* of order; NULL: the statement keeps it, or nobody */
	NpTime		until;			/* it may go on */
	int			seen;
} Receiver;

/* The one before it is not in hand; if it is, so are all before that, for they were taken in this way, too. */
static bool
is_behind_failed(TupleTableSlot *from, const NpHolders *holders, int64 id)
{
	int64		earlier;
	char	   *msg_id;

	return np_glance_earlier(holders, get(from, READ_SUBJECT), id, &earlier, &msg_id) && np_row_find(earlier, msg_id) == NULL;
}

/* Has it to wait for another row of its subject in the table?  So has what comes behind one that is passed by. */
static bool
is_held(TupleTableSlot *from, const Receiver *receiver, NpSpan subject, int64 id)
{
	if (receiver->holders == NULL)
		return DatumGetBool(get(from, READ_IS_HELD));
	if (receiver->way->held_by == NP_HELD_BY_FAILED_ELSEWHERE)
		return is_behind_failed(from, receiver->holders, id);
	return np_lanes_have_passed(subject, id) || np_glance_is_held(receiver->holders, get(from, READ_SUBJECT), id);
}

/* An error came between, for want of memory: else it would be in hand for ever. */
static void
free_entering(void)
{
	if (entering != NULL)
		np_row_free(entering);
	entering = NULL;
}

/* One that can't be in the stream's encoding (the table's check can be gone round) is refused with its message. */
static NpSpan
subject_of(TupleTableSlot *from)
{
	const text *value = DatumGetTextPP(get(from, READ_SUBJECT));
	const char *somehow;

	if (GetDatabaseEncoding() == PG_UTF8)
		return np_text_to_utf8(value);
	somehow = np_to_utf8_somehow(text_to_cstring(value));
	return (NpSpan) {somehow, strlen(somehow)};
}

/* Take a row, unless it is in hand already, or has to wait. */
static bool
take_row(TupleTableSlot *from, const Receiver *receiver, int64 id)
{
	const NpWay *way = receiver->way;
	const NpReading *reading = receiver->reading;
	char	   *msg_id = text_to_cstring(DatumGetTextPP(get(from, READ_MSG_ID)));
	NpRow	   *row = np_row_find(id, msg_id);
	NpSpan		subject;

	if (row != NULL && !row->is_chained)
		return false;
	subject = subject_of(from);
	if (is_held(from, receiver, subject, id) || (reading->ordered && !way->is_due && np_settle_holds(subject, id)))
	{
		/* that of a chained row is for when it is refused; what is due is found again by its time */
		if (!way->is_due)
			np_lanes_pass(subject, id);
		return false;
	}
	if (row != NULL)
		return false;
	row = entering = np_row_create(id, msg_id, subject);
	row->is_due = way->is_due;
	row->place = *(ItemPointer) DatumGetPointer(get(from, READ_PLACE));
	if (way->taken != NULL)
		way->taken(row);
	if (!np_lanes_enter(row, reading->ordered))
	{
		free_entering();
		return false;
	}
	entering = NULL;
	fill_row(from, reading, row);
	return true;
}

static bool
has_room(const NpReading *reading)
{
	return reading->room > 0 && np_rows_bytes() < np_rows_max_bytes();
}

/* Rows that have to wait take no room, and there can be millions; answers are not received meanwhile. */
static bool
has_time(Receiver *receiver)
{
	return ++receiver->seen % ROWS_PER_CHECK != 0 || np_now() < receiver->until;
}

static void
stop_at(TupleTableSlot *row, int64 id, const Receiver *receiver)
{
	receiver->reading->is_full = true;
	receiver->reading->stopped_id = id;
	if (receiver->way->is_due)
		receiver->reading->stopped_at = DatumGetTimestampTz(get(row, READ_TIME));
}

/* False: no more. */
static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	Receiver   *receiver = (Receiver *) self;
	NpReading  *reading = receiver->reading;
	MemoryContext previous;
	int64		id;

	/* none is behind those of its time */
	id = is_null(row, READ_ID) ? PG_INT64_MAX : DatumGetInt64(get(row, READ_ID));
	if (!has_room(reading) || !has_time(receiver))
	{
		stop_at(row, id, receiver);
		return false;
	}
	if (receiver->way->seen != NULL)
		receiver->way->seen(reading, id);
	if (!is_complete(row))
		return true;
	previous = MemoryContextSwitchTo(scratch);
	if (take_row(row, receiver, id))
		reading->room--;
	MemoryContextSwitchTo(previous);
	/* not for each row: that costs more than what it takes */
	if (MemoryContextMemAllocated(scratch, false) > SCRATCH)
		MemoryContextReset(scratch);
	return true;
}

/*
 * Read rows in a way, to its end or as long as there is room and time, and have
 * the lanes take them.  Raises what reading a table raises.
 */
void
np_read_rows(NpWay *way, bool in_order, const Datum *values, NpReading *reading)
{
	Receiver	receiver = {.base = *None_Receiver,.way = way,.reading = reading,.until = np_now() + LONGEST_READ};

	if (scratch == NULL)
		scratch = AllocSetContextCreate(TopMemoryContext, "nats_publish relay row", ALLOCSET_DEFAULT_SIZES);
	receiver.base.receiveSlot = receive_row;
	reading->is_full = false;
	free_entering();
	if (in_order && way->held_by != NP_HELD_BY_STATEMENT)
		receiver.holders = np_glance_open_holders();
	np_outbox_read(&way->statements[in_order && receiver.holders == NULL ? 1 : 0], values, &receiver.base);
	if (receiver.holders != NULL)
		np_glance_close_holders(receiver.holders);
}
