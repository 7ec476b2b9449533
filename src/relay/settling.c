/*-------------------------------------------------------------------------
 *
 * settling.c
 *	  Writing down what became of the rows of the outbox.
 *
 * What is stored is deleted first, where it was read or by one statement, in a
 * transaction of its own, which nothing that is wrong with other rows can undo.
 * Then come those that are dead, each in a subtransaction, and those that wait
 * or are in doubt, in one statement.
 *
 * A row is settled if it is still that row, by id and msg_id: an id can be
 * another message's by now, and a message that was edited is another one.
 * What somebody has locked stays in hand, and is written later; it is not
 * published again meanwhile.  So does a row that meets an error of its own (a
 * constraint, somebody's trigger): then each is written in a subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/catch.h"
#include "base/subtransaction.h"
#include "publish/delivery.h"
#include "relay/lanes.h"
#include "relay/outbox_delete.h"
#include "relay/outbox_table.h"
#include "relay/settling.h"
#include "stats/stats.h"

/* The longest time between two attempts, seconds. */
#define LAST_DELAY		30

/*
 * What waits for a stream is tried so often, in all, per second, and each after
 * so many seconds at the latest.  The probes find a stream that is there again;
 * this is for what they can't know, and each time writes a row.
 */
#define STREAM_RATE		4
#define STREAM_DELAY	(3 * SECS_PER_DAY)

/* When a row that could not be buried is tried again, seconds; when they are many, so many per second are. */
#define BURIAL_DELAY	10
#define BURIAL_RATE		100

/* So many rows may meet an error in a transaction: each of them takes a transaction id. */
#define MOST_ERRORS		100

/* By the database's clock, a row is due at the time that we have for it, or a little later. */
#define CLOCK_MARGIN	NP_MILLISECONDS(5)

static dlist_head ended = DLIST_STATIC_INIT(ended);
static int	waiting;			/* rows in it, but for ... */
static dlist_head kept = DLIST_STATIC_INIT(kept);	/* ... those that others have locked, or that met an
													 * error, ... */
static int	kept_count;			/* so many, and ... */
static int	kept_error;			/* ... some of them for such an error; 0: none */
static int	holders;			/* rows of both that hold up their subject, and nothing tells it but they */

static void
count_holder(NpRow *row, bool is_holder)
{
	holders += is_holder - row->is_holder;
	row->is_holder = is_holder;
}

/* A row has come to its end; it is the settling's from now on. */
void
np_settle_later(NpRow *row)
{
	np_row_release(row);
	dlist_push_tail(&ended, &row->node);
	waiting++;
	count_holder(row, np_row_holds_untold(row));
}

/* How many rows have ended, and can be settled. */
int
np_settle_waiting(void)
{
	return waiting;
}

/* ---- Statements --------------------------------------------------------------------- */

/*
 * Not o.id = s.id: with that a planner that takes the table for small, as it is
 * when a plan is made that is kept, may go through all of it, and through all
 * of these for each row.  Without it there is no other way than by the index.
 */
#define SAME_ROW_AS(s)	"o.id BETWEEN " s ".id AND " s ".id AND o.msg_id = " s ".msg_id"
#define SAME_ROW		SAME_ROW_AS("s")
#define UNLOCKED	"(SELECT s.* FROM %1$s.nats_outbox AS o JOIN s ON " SAME_ROW " FOR UPDATE OF o SKIP LOCKED) AS u"

static NpStatement delete_rows = {
	.text = "DELETE FROM %1$s.nats_outbox AS o USING unnest($1, $2) AS s (id, msg_id) WHERE " SAME_ROW,
	.argument_count = 2,
	.types = {INT8ARRAYOID, TEXTARRAYOID}
};

static NpStatement delete_unlocked = {
	.text = "WITH s AS (SELECT * FROM unnest($1, $2) AS s (id, msg_id)) DELETE FROM %1$s.nats_outbox AS o USING " UNLOCKED
	" WHERE " SAME_ROW_AS("u"),
	.argument_count = 2,
	.types = {INT8ARRAYOID, TEXTARRAYOID}
};

/* The delay is NULL for a row that is only in doubt. */
static NpStatement put_off_rows = {
	.text = "WITH s AS (SELECT * FROM unnest($1, $2, $3, $4, $5) AS s (id, msg_id, counted, error, delay)) UPDATE %1$s.nats_outbox AS o"
	" SET attempts = least(attempts::bigint + counted, 2147483647)::int, last_error = error,"
	" next_attempt_at = CASE WHEN delay IS NULL THEN next_attempt_at ELSE now() + delay * interval '1 second' END FROM " UNLOCKED
	" WHERE " SAME_ROW_AS("u") " RETURNING u.id, u.msg_id",
	.argument_count = 5,
	.types = {INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID}
};

/* Of a row that was not read for its length, it has that length still, or -1: somebody may have made it a smaller one. */
#define DEAD_ROW	"%1$s.nats_outbox WHERE id = $1 AND msg_id = $2 AND ($4 < 0 OR octet_length(payload) = $4)"

/* In the order of NpDead. */
static NpStatement take_dead = {
	.text = "DELETE FROM " DEAD_ROW " RETURNING id::int8, subject::text, payload::bytea, headers::jsonb, msg_id::text,"
	" created_at::timestamptz, least(attempts::bigint + 1, 2147483647)::int4, $3",
	.argument_count = 4,
	.types = {INT8OID, TEXTOID, TEXTOID, INT8OID}
};

static NpStatement find_dead = {
	.text = "SELECT $3 FROM " DEAD_ROW,
	.argument_count = 4,
	.types = {INT8OID, TEXTOID, TEXTOID, INT8OID}
};

static NpStatement lock_unlocked = {
	.text = "SELECT o.id, o.msg_id FROM %1$s.nats_outbox AS o JOIN unnest($1, $2) AS s (id, msg_id) ON " SAME_ROW " FOR UPDATE OF o SKIP LOCKED",
	.argument_count = 2,
	.types = {INT8ARRAYOID, TEXTARRAYOID}
};

static NpStatement find_left = {
	.text = "SELECT o.id, o.msg_id FROM %1$s.nats_outbox AS o JOIN unnest($1, $2) AS s (id, msg_id) ON " SAME_ROW,
	.argument_count = 2,
	.types = {INT8ARRAYOID, TEXTARRAYOID}
};

/* ---- Arguments ----------------------------------------------------------------------- */

/* The rows of a transaction. */
typedef struct Rows
{
	NpRow	  **list;
	int			count;
} Rows;

static Rows
collect(bool (*belongs) (const NpRow *row))
{
	Rows		rows = {palloc(sizeof(NpRow *) * Max(waiting, 1)), 0};
	dlist_iter	iter;

	dlist_foreach(iter, &ended)
	{
		NpRow	   *row = dlist_container(NpRow, node, iter.cur);

		if (belongs(row))
			rows.list[rows.count++] = row;
	}
	return rows;
}

static void
mark(const Rows *rows, bool is_written)
{
	for (int i = 0; i < rows->count; i++)
		rows->list[i]->is_written = is_written;
}

static bool
is_stored(const NpRow *row)
{
	return row->state == NP_ROW_STORED;
}

static bool
is_dead(const NpRow *row)
{
	return row->state == NP_ROW_DEAD;
}

static bool
is_unstored(const NpRow *row)
{
	return !is_stored(row);
}

static bool
is_put_off(const NpRow *row)
{
	return row->state == NP_ROW_FAILED || row->state == NP_ROW_DOUBTED;
}

/* The last_error of a row, palloc'd. */
static char *
describe(const NpRow *row)
{
	char	   *error = np_row_last_error(row->in_doubt, row->sqlstate, row->error);

	return row->was_dead && row->state != NP_ROW_DEAD ? psprintf(NP_ROW_UNBURIED "%s", error) : error;
}

/*
 * In how many seconds it is tried again.  Rows that wait for a stream together
 * are tried together: they lie side by side, and what is written of a page
 * behind a checkpoint, which is all of it, is written once for all its rows.
 */
static double
delay_of(const NpRow *row)
{
	double		delay = row->attempts < 5 ? 1 << row->attempts : LAST_DELAY;

	if (np_row_waits_for_others(row))
		return Min(Max(delay, (double) np_outbox_waiting() / STREAM_RATE), STREAM_DELAY);
	if (row->is_unburied)
		delay = Max(BURIAL_DELAY, (double) np_outbox_waiting() / BURIAL_RATE);
	return np_jittered((NpTime) (delay * USECS_PER_SEC)) / (double) USECS_PER_SEC;
}

static Datum
value_of(const NpRow *row, int argument, bool *isnull)
{
	*isnull = false;
	switch (argument)
	{
		case 0:
			return Int64GetDatum(row->id);
		case 1:
			return CStringGetTextDatum(row->msg_id);
		case 2:
			return Int32GetDatum(row->state == NP_ROW_FAILED && !row->is_uncounted ? 1 : 0);
		case 3:
			return CStringGetTextDatum(describe(row));
		default:
			*isnull = row->state == NP_ROW_DOUBTED;
			return Float8GetDatum(row->delay);
	}
}

static Datum
array_of(const Rows *rows, int argument, Oid type)
{
	Datum	   *values = palloc(sizeof(Datum) * rows->count);
	bool	   *nulls = palloc(sizeof(bool) * rows->count);
	int			lower_bound = 1;
	int16		length;
	bool		by_value;
	char		align;

	for (int i = 0; i < rows->count; i++)
		values[i] = value_of(rows->list[i], argument, &nulls[i]);
	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, (int *) &rows->count, &lower_bound, type, length, by_value, align));
}

/* Execute a statement of ours for the rows; returns how many rows it has found. */
static uint64
execute_for(NpStatement *statement, const Rows *rows)
{
	Datum		values[lengthof(statement->types)] = {0};	/* cppcheck 2.17 does not see that all are set */

	for (int i = 0; i < statement->argument_count; i++)
		values[i] = array_of(rows, i, get_element_type(statement->types[i]));
	np_outbox_execute(statement, values, false);
	return SPI_processed;
}

/* ---- The end of rows -------------------------------------------------------------------- */

/* About how many rows wait in the table, until they are counted again. */
static void
count_waiting(const NpRow *row)
{
	if (row->state == NP_ROW_FAILED && !row->has_failed)
		np_outbox_set_waiting(np_outbox_waiting() + 1);
	else if (row->state != NP_ROW_FAILED && row->has_failed)
		np_outbox_set_waiting(Max(np_outbox_waiting() - 1, 0));
}

/* It is written down, or nothing has to be. */
static void
finish(NpRow *row, NpSettled *settled)
{
	count_waiting(row);
	count_holder(row, false);
	dlist_delete(&row->node);
	waiting--;
	settled->has_returned |= row->state == NP_ROW_DOUBTED;
	if (row->state == NP_ROW_FAILED)
		np_lanes_give_up(row);
	else if (row->has_failed && row->state != NP_ROW_DOUBTED)
	{
		settled->has_let_go = true;
		np_lanes_let_go(row->message.subject);
	}
	np_row_free(row);
}

/* What has not been tried comes before what has, when they are tried again. */
static void
keep(NpRow *row, bool was_tried)
{
	dlist_delete(&row->node);
	waiting--;
	if (was_tried)
		dlist_push_tail(&kept, &row->node);
	else
		dlist_push_head(&kept, &row->node);
	kept_count++;
}

/* How many rows have ended, and could not be written down: they are locked, or met an error. */
int
np_settle_kept(void)
{
	return kept_count;
}

static bool
have_holder(dlist_head *rows, NpSpan subject, int64 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, rows)
	{
		const NpRow *row = dlist_container(NpRow, node, iter.cur);

		if (row->is_holder && row->id < id && np_span_equals(row->message.subject, subject))
			return true;
	}
	return false;
}

/*
 * Does a failed row hold up a later one of its subject, which is not written
 * down yet: as somebody has locked it, or as it was answered after the others
 * were, when the transaction began in which that one is read?
 */
bool
np_settle_holds(NpSpan subject, int64 id)
{
	return holders > 0 && (have_holder(&kept, subject, id) || have_holder(&ended, subject, id));
}

/* The rows that the last statement has told of, by id and msg_id; one of which it has told twice (of a child table) once. */
static Rows
returned_rows(void)
{
	Rows		rows = {palloc(sizeof(NpRow *) * Max(SPI_processed, 1)), 0};

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *id = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		char	   *msg_id = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		NpRow	   *row = np_row_find(pg_strtoint64(id), msg_id);

		if (row == NULL || row->is_told)
			continue;
		row->is_told = true;
		rows.list[rows.count++] = row;
	}
	for (int i = 0; i < rows.count; i++)
		rows.list[i]->is_told = false;
	return rows;
}

/* Which of the rows, that a statement has not found, are there all the same? */
static Rows
find_rows_left(const Rows *rows, uint64 not_found, NpSettled *settled)
{
	Rows		left;

	/* not read-only: it is to see what the statement before it has done */
	(void) execute_for(&find_left, rows);
	left = returned_rows();
	settled->is_changed |= left.count < not_found;
	return left;
}

NP_NORETURN static void
raise_unwritten(const NpRow *row)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 row->state == NP_ROW_STORED || row->state == NP_ROW_DEAD ?
			 errmsg("message " INT64_FORMAT " could not be deleted from nats_outbox", row->id) :
			 errmsg("message " INT64_FORMAT " could not be updated in nats_outbox", row->id),
			 errhint("Find the trigger or rule of nats_outbox that keeps its rows as they are.")));
}

/* Those of the rows that others have locked.  Raises 27000 if some of them are there, and could be written. */
static Rows
find_locked(const Rows *rows, uint64 not_found, NpSettled *settled)
{
	Rows		left = find_rows_left(rows, not_found, settled);

	if (left.count > 0 && execute_for(&lock_unlocked, &left) > 0)
		raise_unwritten(left.list[0]);
	return left;
}

/* It could not be written down. */
static void
keep_unwritten(NpRow *row, NpSettled *settled, bool was_tried)
{
	/* one that is only in doubt is read again, and must not be in hand then */
	if (row->state == NP_ROW_DOUBTED)
		settled->is_changed = true;
	else
		keep(row, was_tried);
}

static void
keep_all_locked(const Rows *rows, NpSettled *settled)
{
	for (int i = 0; i < rows->count; i++)
		keep_unwritten(rows->list[i], settled, true);
}

static void
record_error(NpSettled *settled, const char *error, MemoryContext context)
{
	if (settled->error == NULL)
		settled->error = MemoryContextStrdup(context, error);
}

/* ---- Each alone ----------------------------------------------------------------------- */

static bool has_table;			/* we have it locked, so that no error is for others who have */
static bool is_careful;			/* rows that we write were locked lately */
static bool is_alone;			/* one of them meets an error: each is written in a subtransaction */
static int	errors_left;		/* so many more of those that are written, or buried, may meet one */

/* As np_outbox_begin(), with the table locked.  Raises 55P03 if others have locked it for longer. */
static bool
begin_to_write(MemoryContext *caller)
{
	has_table = false;
	if (!np_outbox_begin(caller))
		return false;
	LockRelationOid(np_outbox_table(), RowExclusiveLock);
	return has_table = true;
}

/*
 * What is to be done otherwise when an error has ended it; false: that would
 * not help.  Whatever its SQLSTATE is, a trigger of one row may have raised it.
 */
static bool
become_careful(int sqlstate)
{
	if (is_alone || !has_table)
		return false;
	if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE && !is_careful)
		return is_careful = true;
	return is_alone = true;
}

/* A row has met an error.  After one of a lock no other row waits for that, too. */
static void
count_error(int sqlstate)
{
	errors_left = np_is_of_others(sqlstate) ? 0 : errors_left - 1;
}

typedef struct Writing
{
	Rows		row;			/* one */
	NpStatement *statement;
	bool		is_locked;
	NpSettled  *settled;
} Writing;

static void
write_row(void *argument)
{
	Writing    *writing = argument;

	if (execute_for(&lock_unlocked, &writing->row) == 0)
	{
		writing->is_locked = find_rows_left(&writing->row, 1, writing->settled).count > 0;
		return;
	}
	if (execute_for(writing->statement, &writing->row) == 0)
		raise_unwritten(writing->row.list[0]);
}

/* What keeps one row from being written is not the others' affair.  Raises what is about all of them. */
static void
write_alone(NpStatement *statement, NpRow *row, NpSettled *settled, MemoryContext caller)
{
	Writing		writing = {{&row, 1}, statement, false, settled};
	ErrorData  *error = np_try_subtransaction(write_row, &writing);

	row->is_written = error == NULL && !writing.is_locked;
	if (row->is_written)
		return;
	if (error != NULL && !np_outbox_has_rights())
		ReThrowError(error);
	if (error != NULL)
	{
		count_error(error->sqlerrcode);
		record_error(settled, error->message, caller);
		/* one that is only in doubt is not kept */
		if (row->state != NP_ROW_DOUBTED)
			kept_error = error->sqlerrcode;
	}
	keep_unwritten(row, settled, true);
}

static void
write_each(NpStatement *statement, const Rows *rows, NpSettled *settled, MemoryContext caller)
{
	errors_left = MOST_ERRORS;
	for (int i = 0; i < rows->count; i++)
		if (errors_left > 0)
			write_alone(statement, rows->list[i], settled, caller);
		else
		{
			rows->list[i]->is_written = false;
			keep_unwritten(rows->list[i], settled, false);
		}
}

/* ---- What is stored ------------------------------------------------------------------ */

static bool
is_stored_unwritten(const NpRow *row)
{
	return is_stored(row) && !row->is_written;
}

static bool
is_stored_written(const NpRow *row)
{
	return is_stored(row) && row->is_written;
}

/* Returns those that are still there, for they are locked. */
static Rows
delete_by_statement(Rows rows, NpSettled *settled)
{
	uint64		found = execute_for(is_careful ? &delete_unlocked : &delete_rows, &rows);
	Rows		left = {NULL, 0};

	if (found < rows.count)
		left = find_locked(&rows, rows.count - found, settled);
	mark(&rows, true);
	mark(&left, false);
	return left;
}

/* Beginning the transaction may leave a connection, which receives answers first: so what is stored is collected again. */
static void
delete_stored(NpSettled *settled)
{
	Rows		rows = collect(is_stored);
	Rows		left = {NULL, 0};
	MemoryContext caller;

	if (rows.count == 0)
		return;
	if (!begin_to_write(&caller))
		mark(&rows, true);
	else if (is_alone)
		write_each(&delete_rows, &rows, settled, caller);
	else if (np_outbox_delete(rows.list, rows.count) < rows.count)
		left = delete_by_statement(collect(is_stored_unwritten), settled);
	keep_all_locked(&left, settled);
	np_outbox_commit(caller);
	rows = collect(is_stored_written);
	settled->published += rows.count;
	for (int i = 0; i < rows.count; i++)
		finish(rows.list[i], settled);
}

/* ---- What is not --------------------------------------------------------------------- */

typedef struct Burial
{
	const NpRow *row;
	bool		is_done;		/* else the row is gone, or another one */
} Burial;

/* As the owner of the other table: each owner's triggers are executed. */
static void
bury_taken(void)
{
	SPITupleTable *taken = SPI_tuptable;
	uint64		count = SPI_processed;
	NpDead		dead;

	for (uint64 i = 0; i < count; i++)
	{
		for (int column = 0; column < NP_DEAD_COLUMNS; column++)
			dead.values[column] = SPI_getbinval(taken->vals[i], taken->tupdesc, column + 1, &dead.nulls[column]);
		np_outbox_bury(&dead);
	}
}

static void
bury(void *argument)
{
	Burial	   *burial = argument;
	const NpRow *row = burial->row;
	Datum		values[4];

	values[0] = Int64GetDatum(row->id);
	values[1] = CStringGetTextDatum(row->msg_id);
	values[2] = CStringGetTextDatum(describe(row));
	values[3] = Int64GetDatum(row->is_unread ? (int64) row->length : -1);
	np_outbox_execute(&take_dead, values, false);
	burial->is_done = SPI_processed > 0;
	if (burial->is_done)
	{
		bury_taken();
		return;
	}
	np_outbox_execute(&find_dead, values, false);
	if (SPI_processed > 0)
		raise_unwritten(row);
}

/* It is tried again. */
static void
leave_unburied(NpRow *row, bool failed)
{
	row->state = NP_ROW_FAILED;
	row->is_uncounted = true;
	row->is_unburied = failed;
	count_holder(row, np_row_holds_untold(row));
}

/* What keeps one row from being buried is not the others' affair. */
static void
bury_alone(NpRow *row, NpSettled *settled, MemoryContext caller)
{
	Burial		burial = {.row = row};
	ErrorData  *error = np_try_subtransaction(bury, &burial);

	if (error != NULL)
	{
		count_error(error->sqlerrcode);
		record_error(settled, error->message, caller);
		leave_unburied(row, true);
	}
	else if (!burial.is_done && row->is_unread)
		leave_unburied(row, false);
	else if (!burial.is_done)
		row->is_gone = settled->is_changed = true;
}

static void
bury_dead(NpSettled *settled, MemoryContext caller)
{
	Rows		dead = collect(is_dead);

	errors_left = MOST_ERRORS;
	for (int i = 0; i < dead.count; i++)
		if (errors_left > 0)
			bury_alone(dead.list[i], settled, caller);
		else
			leave_unburied(dead.list[i], true);
}

static bool
is_unwritten(const NpRow *row)
{
	return is_put_off(row) && !row->is_written;
}

static void
put_off_together(Rows rows, NpSettled *settled)
{
	Rows		written;

	mark(&rows, false);
	if (execute_for(&put_off_rows, &rows) == rows.count)
		return;
	written = returned_rows();
	mark(&written, true);
	rows = collect(is_unwritten);
	rows = find_locked(&rows, rows.count, settled);
	keep_all_locked(&rows, settled);
}

static void
put_off(NpSettled *settled, MemoryContext caller)
{
	Rows		rows = collect(is_put_off);

	for (int i = 0; i < rows.count; i++)
		rows.list[i]->delay = delay_of(rows.list[i]);
	if (is_alone)
		write_each(&put_off_rows, &rows, settled, caller);
	else if (rows.count > 0)
		put_off_together(rows, settled);
}

/* What is put off for longer may be for the probes to find, which are told of it by a look. */
static NpTime
due_time(const NpRow *row)
{
	return np_now() + Min((NpTime) (row->delay * USECS_PER_SEC), NP_LONG_DELAY) + CLOCK_MARGIN;
}

/* It has been written down. */
static void
count_and_finish(NpRow *row, NpSettled *settled)
{
	if (row->state == NP_ROW_FAILED)
		settled->next_due = Min(settled->next_due, due_time(row));
	if (row->state == NP_ROW_DEAD && !row->is_gone)
		settled->dead++;
	if (row->state == NP_ROW_FAILED && !row->is_uncounted)
		settled->failed++;
	if (row->state != NP_ROW_DOUBTED && !row->is_gone)
		record_error(settled, row->error, CurrentMemoryContext);
	finish(row, settled);
}

static void
write_failed(NpSettled *settled)
{
	MemoryContext caller;
	Rows		written;

	if (waiting == 0)
		return;
	if (begin_to_write(&caller))
	{
		bury_dead(settled, caller);
		put_off(settled, caller);
	}
	np_outbox_commit(caller);
	/* not what was stored when the transaction began */
	written = collect(is_unstored);
	for (int i = 0; i < written.count; i++)
		count_and_finish(written.list[i], settled);
}

static void
try_kept_again(void)
{
	while (!dlist_is_empty(&kept))
	{
		dlist_push_tail(&ended, dlist_pop_head_node(&kept));
		waiting++;
	}
	kept_count = 0;
	is_alone = kept_error != 0;
	kept_error = 0;
}

/* A transaction; again, if an error ends it, and more care may help. */
static void
write_carefully(void (*write) (NpSettled *settled), NpSettled *settled)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool again = false;

	PG_TRY();
	{
		write(settled);
	}
	PG_CATCH();
	{
		if (!become_careful(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		again = true;
	}
	PG_END_TRY();
	if (again)
		write_carefully(write, settled);
}

/*
 * Write down what became of the rows that have ended; kept_too: also of those
 * that could not be written when that was tried last.
 *
 * Raises what writing a table raises; the transaction is then the caller's to
 * abort, and what is not written is kept.
 */
void
np_settle(NpSettled *settled, bool kept_too)
{
	memset(settled, 0, sizeof(*settled));
	settled->next_due = NP_FOREVER;
	is_alone = false;
	if (kept_too)
		try_kept_again();
	write_carefully(delete_stored, settled);
	write_carefully(write_failed, settled);
	settled->sqlerrcode = kept_error;
	is_careful = kept_count > 0;
}
