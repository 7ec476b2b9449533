/*-------------------------------------------------------------------------
 *
 * relay_row.c
 *	  Rows of the outbox that the relay has in hand.
 *
 * From when it is read until what became of it is written down, a row is
 * here, known by id and msg_id: those that it is settled by, and by which it
 * is not taken twice.  Its payload is here only until it is sent; from then on
 * the session has it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/report.h"
#include "base/settings.h"
#include "relay/relay_row.h"
#include "stats/stats.h"

typedef struct Key
{
	int64		id;
	const char *msg_id;
} Key;

typedef struct Entry
{
	Key			key;			/* points into the row */
	NpRow	   *row;
	char		status;			/* simplehash's */
} Entry;

#define SH_PREFIX			row_table
#define SH_ELEMENT_TYPE		Entry
#define SH_KEY_TYPE			Key
#define SH_KEY				key
#define SH_HASH_KEY(t, k)	murmurhash32((uint32) (k).id)
#define SH_EQUAL(t, a, b)	((a).id == (b).id && strcmp((a).msg_id, (b).msg_id) == 0)
#define SH_SCOPE			static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* At rest, so much is kept for the next rows. */
#define KEPT_MEMORY		(2 * 1024 * 1024)

static MemoryContext row_context;	/* NULL: not used yet */
static row_table_hash *rows;
static int64 count;				/* of all rows */
static int64 bytes;				/* of their contents */
static int	released;			/* that are released by a probe, and have not come to their end */

static void
create_context(void)
{
	if (row_context != NULL)
		return;
	row_context = AllocSetContextCreate(TopMemoryContext, "nats_publish relay rows", ALLOCSET_DEFAULT_SIZES);
	rows = row_table_create(TopMemoryContext, 1024, NULL);
}

/* By which rows of one subject are found together; two subjects of one hash only wait for each other. */
uint64
np_subject_hash(NpSpan subject)
{
	return hash_bytes_extended((const unsigned char *) subject.data, subject.length, 0);
}

/*
 * A row without content that lives until np_row_free.  There must be none with this id and msg_id; without a msg_id (NULL) it is
 * not one of the table, and is not found by them.
 */
NpRow *
np_row_create(int64 id, const char *msg_id, NpSpan subject)
{
	size_t		length = msg_id == NULL ? 0 : strlen(msg_id) + 1;
	bool		found;
	NpRow	   *row;
	char	   *texts;

	create_context();
	row = MemoryContextAlloc(row_context, sizeof(NpRow) + length + subject.length);
	memset(row, 0, sizeof(NpRow));
	texts = (char *) (row + 1);
	row->id = id;
	if (msg_id != NULL)
	{
		row->msg_id = memcpy(texts, msg_id, length);
		row_table_insert(rows, (Key) {id, row->msg_id}, &found)->row = row;
	}
	if (subject.length > 0)
		memcpy(texts + length, subject.data, subject.length);
	row->message.subject = (NpSpan) {texts + length, subject.length};
	count++;
	return row;
}

/* The row with this id and msg_id, or NULL. */
NpRow *
np_row_find(int64 id, const char *msg_id)
{
	Entry	   *entry = rows == NULL ? NULL : row_table_lookup(rows, (Key) {id, msg_id});

	return entry == NULL ? NULL : entry->row;
}

static NpSpan
moved(NpSpan span, const char *from, const char *to)
{
	if (span.data != NULL)
		span.data = to + (span.data - from);
	return span;
}

/* Have a copy of the message, but for its subject. */
void
np_row_take(NpRow *row, const NpMessage *message)
{
	const char *headers = message->headers.data;
	NpSpan		subject = row->message.subject;

	row->length = message->headers.length + message->payload.length;
	row->content = MemoryContextAlloc(row_context, row->length + 1);
	row->message = *message;
	row->message.subject = subject;
	if (message->headers.length > 0)
		memcpy(row->content, headers, message->headers.length);
	if (message->payload.length > 0)
		memcpy(row->content + message->headers.length, message->payload.data, message->payload.length);
	row->message.headers = moved(message->headers, headers, row->content);
	row->message.id = moved(message->id, headers, row->content);
	row->message.expect_stream = moved(message->expect_stream, headers, row->content);
	row->message.payload.data = message->payload.data == NULL ? NULL : row->content + message->headers.length;
	bytes += row->length;
}

/* Give the content back: the row is on its way, or has ended. */
void
np_row_release(NpRow *row)
{
	if (row->content == NULL)
		return;
	pfree(row->content);
	bytes -= row->length;
	row->content = NULL;
	row->message.headers = row->message.payload = row->message.id = row->message.expect_stream = (NpSpan) {NULL, 0};
}

/* Whether it is released by a probe, and has not come to its end. */
void
np_row_set_released(NpRow *row, bool is_released)
{
	released += is_released - row->is_released;
	row->is_released = is_released;
}

/* How many are. */
int
np_rows_released(void)
{
	return released;
}

void
np_row_free(NpRow *row)
{
	np_row_release(row);
	np_row_set_released(row, false);
	if (row->error != NULL)
		pfree(row->error);
	if (row->msg_id != NULL)
		(void) row_table_delete(rows, (Key) {row->id, row->msg_id});
	pfree(row);
	count--;
}

/* Give back what many rows have needed, when there is none. */
void
np_rows_trim(void)
{
	if (row_context != NULL && count == 0 && MemoryContextMemAllocated(row_context, false) > KEPT_MEMORY)
		MemoryContextReset(row_context);
}

/* What the contents of all rows take. */
int64
np_rows_bytes(void)
{
	return bytes;
}

/* What they may take: one more is read as long as they take less. */
int64
np_rows_max_bytes(void)
{
	return (int64) np_max_pending_bytes * 1024;
}

/* ---- What becomes of it -------------------------------------------------------------- */

static bool
is_of_class(const char *sqlstate, const char *class)
{
	return strncmp(sqlstate, class, 2) == 0;
}

/* Is it the row's fault?  Else the connection's, the server's, or an interrupt. */
bool
np_row_is_to_blame(const char *sqlstate)
{
	return is_of_class(sqlstate, "22") || is_of_class(sqlstate, "54") || is_of_class(sqlstate, "0A") ||
		is_of_class(sqlstate, "42") || is_of_class(sqlstate, "40") || is_of_class(sqlstate, "23") ||
		is_of_class(sqlstate, "38") || is_of_class(sqlstate, "53");
}

/* What somebody can mend on the other side is waited for: a missing stream or permission, a full stream, a feature that is off. */
static bool
is_mended_elsewhere(const char *sqlstate)
{
	return is_of_class(sqlstate, "42") || is_of_class(sqlstate, "53") || is_of_class(sqlstate, "0A");
}

/* What was wrong with the row itself stays wrong. */
static bool
is_hopeless(const NpRow *row, const char *sqlstate)
{
	if (is_of_class(sqlstate, "22") || is_of_class(sqlstate, "54"))
		return true;
	return !is_mended_elsewhere(sqlstate) && row->attempts >= np_relay_max_attempts - 1;
}

static void
set_error(NpRow *row, const char *sqlstate, const char *error)
{
	if (row->error != NULL)
		pfree(row->error);
	strlcpy(row->sqlstate, sqlstate, sizeof(row->sqlstate));
	row->error = MemoryContextStrdup(row_context, error);
}

/* The row has failed: it is tried again, or dead. */
void
np_row_fail(NpRow *row, const char *sqlstate, const char *error)
{
	set_error(row, sqlstate, error);
	row->state = is_hopeless(row, sqlstate) ? NP_ROW_DEAD : NP_ROW_FAILED;
}

/* It has, and can't even be sent: so nobody else has counted it. */
void
np_row_refuse(NpRow *row, const char *sqlstate, const char *error)
{
	NpFailure	failure = np_failure(NP_FAULT_INPUT, "%s", error);

	np_stats_add_unsent(NP_STATS_OUTBOX, 1);
	np_stats_record_failure(NP_STATS_OUTBOX, (NpSpan) {NULL, 0}, &failure);
	np_row_fail(row, sqlstate, error);
}

/* Nobody takes it or, though the server is there, nobody answers: never its fault. */
void
np_row_wait_for_stream(NpRow *row, const NpFailure *failure)
{
	set_error(row, np_failure_sqlstate(failure), failure->text);
	row->in_doubt |= failure->fault == NP_FAULT_UNKNOWN;
	row->state = NP_ROW_FAILED;
	row->waits_for_stream = true;
}

/* It may be stored or not, by no fault of its own: it is tried again. */
void
np_row_put_off(NpRow *row, const NpFailure *failure)
{
	set_error(row, np_failure_sqlstate(failure), failure->text);
	row->in_doubt |= failure->fault == NP_FAULT_UNKNOWN;
	row->state = NP_ROW_FAILED;
	row->is_uncounted = true;
}

/* Has it failed for what would have others of its stream fail, too, until somebody mends it? */
bool
np_row_waits_for_others(const NpRow *row)
{
	return row->state == NP_ROW_FAILED && (row->waits_for_stream || is_mended_elsewhere(row->sqlstate));
}

/*
 * Has it failed, and no lane, as another row of its subject has that?  Until it
 * is written down, nothing but it tells that others wait for it.
 */
bool
np_row_holds_untold(const NpRow *row)
{
	return row->state == NP_ROW_FAILED && row->stream != NULL && row->lane == NULL;
}

/*
 * It may be stored, and nothing more will be heard of this attempt.  False:
 * that is known already.
 */
bool
np_row_doubt(NpRow *row, const NpFailure *failure)
{
	if (row->in_doubt)
		return false;
	set_error(row, np_failure_sqlstate(failure), failure->text);
	row->in_doubt = true;
	row->state = NP_ROW_DOUBTED;
	return true;
}

/* The last_error of a row in the table, palloc'd. */
char *
np_row_last_error(bool in_doubt, const char *sqlstate, const char *error)
{
	if (in_doubt && strcmp(sqlstate, NP_ROW_IN_DOUBT) != 0)
		return psprintf(NP_ROW_IN_DOUBT ": %s; an earlier attempt may have stored it", error);
	return psprintf("%s: %s", sqlstate, error);
}
