/*-------------------------------------------------------------------------
 *
 * wal_divert.c
 *	  Moving messages of the WAL to nats_outbox.
 *
 * WAL is never kept for NATS' sake.  What can't be published now is moved to
 * nats_outbox, where it has the rules of that table: it is tried again, or is
 * dead; what can never be published goes to nats_outbox_dead at once.  If that
 * does not take it, it waits in nats_outbox until it does, and if that does not
 * take it, either, here: it keeps the WAL, as it must not be lost, but others do
 * not wait for it, unless they are of its subject.
 *
 * In order, later messages of a subject follow those that were moved, until
 * the last of these has left the table: it leaves as the last one.  A worker
 * that begins takes all that the table has for such, for it does not know
 * which of it an earlier one has moved; and so does one to which order was of
 * no interest until now.
 *
 * As long as nothing is wrong with what was moved, it will soon have left, and
 * all messages wait for that: otherwise those of a busy subject would follow
 * each other for ever.  But nobody waits for a row that has failed, nor for
 * those behind it, nor for a table which nothing leaves: somebody has locked
 * what comes next there, or it is not answered, or nobody publishes.  Such
 * subjects are followed, by none but their own messages, until the table has
 * kept up with them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/catch.h"
#include "base/encoding.h"
#include "base/patience.h"
#include "base/settings.h"
#include "base/subtransaction.h"
#include "base/wait.h"
#include "outbox/outbox.h"
#include "outbox/relay_state.h"
#include "relay/outbox_read.h"
#include "relay/outbox_table.h"
#include "wal/wal_divert.h"
#include "wal/wal_queue.h"

/* So many rows are written in a transaction. */
#define BATCH	1000

/* So many that no table takes are tried again in one: each of them takes some transaction ids. */
#define MOST_REFUSED	100

/* For so long errors that can pass may keep all from being moved: somebody's trigger can raise them for a row each time. */
#define MOST_HELD_UP	NP_MILLISECONDS(30000)

/* So many subjects are known; when there are more, all are taken to have messages there, until the last one of these has left. */
#define MAX_SUBJECTS	10000

#define ALL		0

/* So long a table is waited for which nothing leaves. */
#define STANDSTILL	NP_MILLISECONDS(1000)

/* A subject of which the table has messages. */
typedef struct Subject
{
	uint64		hash;			/* 0: of all */
	int64		last_id;		/* of the last one */
	int64		looked_id;		/* which that was at the last look; 0: there was none */
	bool		is_leaving;		/* nothing is wrong with them, and all others wait until they have left */
} Subject;

static HTAB *subjects;			/* NULL: never were any */
static dlist_head rows = DLIST_STATIC_INIT(rows);	/* that are to be moved, ... */
static dlist_head kept_rows = DLIST_STATIC_INIT(kept_rows); /* ... and those that no table has taken, in the
															 * order in which they are tried again */
static int	waiting;			/* in both */
static int	kept;				/* in the latter */
static int	leaving;			/* of the subjects, those that are */
static int64 next_to_leave;		/* the first row that waits for nothing but the relay of the table; 0: not
								 * known */
static NpTime last_left;		/* since when it is that one */
static NpPatience patience;		/* with errors that can pass ... */
static bool is_held_up;			/* ... of which there was one since something was moved */
static bool has_waited;			/* for others, in this transaction; not once more */
static XLogRecPtr moved_until;	/* where the last commit of moved messages ends */

/* Arguments of both. */
#define ARGUMENTS	6

#define INSERT(next_attempt_at) \
	"INSERT INTO %s.nats_outbox (subject, payload, headers, msg_id, last_error, attempts, next_attempt_at)" \
	" VALUES ($1, $2, nullif($3, '{}'), $4, nullif($5, ''), $6, " next_attempt_at ") RETURNING id::int8"

/* The error is empty for a message that only follows others, or has not been tried. */
static NpStatement insert_row = {
	.text = INSERT("CASE WHEN $5 <> '' THEN now() + interval '1 second' END"),
	.argument_count = ARGUMENTS,
	.types = {TEXTOID, BYTEAOID, JSONBOID, TEXTOID, TEXTOID, INT4OID}
};

/* It is not in nats_outbox_dead, into which its relay tries to move it now and then. */
static NpStatement insert_unburied = {
	.text = INSERT("now() + interval '10 seconds'"),
	.argument_count = ARGUMENTS,
	.types = {TEXTOID, BYTEAOID, JSONBOID, TEXTOID, TEXTOID, INT4OID}
};


/* But for what is scheduled: no message of the WAL is, and it holds up nobody. */
static NpStatement find_subjects = {
	.text = "SELECT subject::text, max(id)::int8, bool_and(attempts = 0 AND last_error IS NULL), (SELECT max(id)::int8 FROM %1$s.nats_outbox)"
	" FROM %1$s.nats_outbox WHERE next_attempt_at IS NULL OR last_error IS NOT NULL OR attempts > 0 GROUP BY subject LIMIT $1",
	.argument_count = 1,
	.types = {INT8OID}
};

/* Which are still there, and whether it, or one before it of its subject, has failed; and if it stands for all subjects, any. */
static NpStatement find_left = {
	.text = "SELECT o.id::int8, any_failed AND (o.id = $2 OR " NP_OUTBOX_FAILED("o.") " OR " NP_ROW_WAITS_FOR("") ")"
	" FROM %1$s.nats_outbox AS o, (SELECT EXISTS (SELECT FROM %1$s.nats_outbox WHERE " NP_OUTBOX_FAILED("") ") AS any_failed OFFSET 0) AS failed"
	" WHERE o.id = ANY ($1)",
	.argument_count = 2,
	.types = {INT8ARRAYOID, INT8OID}
};

/* From an id on, so that what has left is not read again and again. */
static NpStatement find_next_to_leave = {
	.text = "SELECT o.id::int8 FROM %1$s.nats_outbox AS o WHERE o.id >= $1 AND o.next_attempt_at IS NULL"
	" AND " NP_ROW_IS_FREE("") " ORDER BY o.id LIMIT 1",
	.argument_count = 1,
	.types = {INT8OID}
};

/* ---- Subjects --------------------------------------------------------------------------- */

static Subject *
find_subject(uint64 hash)
{
	return subjects == NULL ? NULL : hash_search(subjects, &hash, HASH_FIND, NULL);
}

/* By which it is known, or all are. */
static Subject *
known_as(NpSpan subject)
{
	Subject    *all = find_subject(ALL);

	return all != NULL ? all : find_subject(np_subject_hash(subject));
}

/* Are all to wait until what the table has of it has left? */
static void
set_leaving(Subject *subject, bool is_leaving)
{
	if (subject->is_leaving == is_leaving)
		return;
	subject->is_leaving = is_leaving;
	leaving += is_leaving ? 1 : -1;
	if (is_leaving && leaving == 1)
		last_left = np_now();
}

static void
enter_subject(NpSpan subject, bool is_leaving)
{
	HASHCTL		control = {.keysize = sizeof(uint64),.entrysize = sizeof(Subject),.hcxt = TopMemoryContext};
	uint64		hash = np_subject_hash(subject);
	Subject    *entry;

	if (subjects == NULL)
		subjects = hash_create("nats_publish diverted subjects", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (known_as(subject) != NULL)
		return;
	if (hash_get_num_entries(subjects) >= MAX_SUBJECTS)
		hash = ALL;
	entry = hash_search(subjects, &hash, HASH_ENTER, NULL);
	entry->last_id = 0;
	entry->looked_id = 0;
	entry->is_leaving = false;
	set_leaving(entry, is_leaving);
}

/* Have earlier messages of the subject been moved, so that later ones have to follow? */
bool
np_divert_holds(NpSpan subject)
{
	return !np_divert_is_empty() && known_as(subject) != NULL;
}

/*
 * Is it better that all wait until what was moved has left the table than to
 * have others of its subjects follow it?
 */
bool
np_divert_holds_all(void)
{
	return leaving > 0;
}

/* ---- Writing ---------------------------------------------------------------------------- */

static void
add_row(NpRow *row, bool is_leaving)
{
	np_wal_queue_put_aside(row->source);
	if (np_relay_ordering != NP_RELAY_RELAXED && row->state != NP_ROW_DEAD)
		enter_subject(row->message.subject, is_leaving);
	dlist_push_tail(&rows, &row->node);
	waiting++;
}

/* A row that has failed, or follows one, is to be moved, in the order of these calls; its record is put aside. */
void
np_divert_later(NpRow *row)
{
	add_row(row, false);
}

/* The same for a row with which nothing is wrong. */
void
np_divert_untried(NpRow *row)
{
	add_row(row, true);
}

/* How many rows are to be moved. */
int
np_divert_waiting(void)
{
	return waiting;
}

/* How many of these no table has taken when that was tried last. */
int
np_divert_kept(void)
{
	return kept;
}

/* More is not to wait, while it can't be moved; but what no table takes does not keep others from being. */
bool
np_divert_is_full(void)
{
	return waiting - kept >= BATCH;
}

/* What becomes of a row in a transaction, and is so only when that is committed; until then the row itself is left as it was. */
typedef struct Move
{
	NpRow	   *row;
	bool		was_kept;		/* it has been tried before */
	const char *sqlstate;		/* why it has failed ... */
	const char *error;			/* ... or is dead; NULL: it has not */
	bool		is_unburied;	/* that is not taken by nats_outbox_dead ... */
	bool		is_kept;		/* ... nor by nats_outbox: it is to be moved later */
	int64		id;				/* of the row in nats_outbox; 0: there is none */
} Move;

static Datum
make_error(const Move *move)
{
	bool		in_doubt = move->row->in_doubt;
	NpWalError	error;

	if (move->error == NULL)
		return CStringGetTextDatum(in_doubt ? NP_ROW_IN_DOUBT ": an earlier attempt may have stored it" : "");
	return CStringGetTextDatum(psprintf("%s%s%s", move->is_unburied ? NP_ROW_UNBURIED : "",
										np_row_last_error(in_doubt, move->sqlstate, move->error),
										np_wal_record_error(move->row->source, &error) ? NP_OUTBOX_NO_MESSAGE : ""));
}

static int
attempts_of(const Move *move)
{
	return move->error != NULL && !move->row->is_uncounted && !move->row->waits_for_stream ? 1 : 0;
}

static int64
execute(NpStatement *statement, const Move *move)
{
	NpMessage	message = np_wal_record_message(move->row->source);
	Datum		values[ARGUMENTS];
	bool		isnull;

	values[0] = CStringGetTextDatum(np_from_utf8(message.subject));
	values[1] = np_outbox_make_payload(message.payload);
	values[2] = np_outbox_make_headers(&message, &isnull);
	if (isnull)
		values[2] = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	values[3] = CStringGetTextDatum(np_from_utf8(message.id));
	values[4] = make_error(move);
	values[5] = Int32GetDatum(attempts_of(move));
	np_outbox_execute(statement, values, false);
	if (SPI_processed != 1)
		return 0;				/* a trigger of the administrator keeps it out */
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static void
insert(void *argument)
{
	Move	   *move = argument;

	move->id = execute(&insert_row, move);
}

static void
bury(void *argument)
{
	const Move *move = argument;
	NpMessage	message = np_wal_record_message(move->row->source);
	NpDead		dead = {.nulls = {false}};

	dead.values[NP_DEAD_ID] = Int64GetDatum(np_outbox_next_id());
	dead.values[NP_DEAD_SUBJECT] = CStringGetTextDatum(np_from_utf8(message.subject));
	dead.values[NP_DEAD_PAYLOAD] = np_outbox_make_payload(message.payload);
	dead.values[NP_DEAD_HEADERS] = np_outbox_make_headers(&message, &dead.nulls[NP_DEAD_HEADERS]);
	dead.values[NP_DEAD_MSG_ID] = CStringGetTextDatum(np_from_utf8(message.id));
	dead.values[NP_DEAD_CREATED_AT] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	dead.values[NP_DEAD_ATTEMPTS] = Int32GetDatum(attempts_of(move));
	dead.values[NP_DEAD_ERROR] = make_error(move);
	np_outbox_bury(&dead);
}

static void
insert_as_unburied(void *argument)
{
	Move	   *move = argument;

	move->id = execute(&insert_unburied, move);
}

/*
 * Is an error perhaps over when all of them are tried again?  The table itself
 * is not to blame, for we have it; but it can be that the server has no space
 * left, or that a row's trigger waits for others.
 */
static bool
can_pass(int sqlstate)
{
	bool		was_held_up = is_held_up;

	if (!np_is_of_server(sqlstate))
		return false;
	is_held_up = true;
	return !np_patience_ends(&patience, np_now(), MOST_HELD_UP, was_held_up);
}

/*
 * In a subtransaction, for what is wrong with one is not the others' affair.
 * NULL: it is done; else the table does not take it, and this is its error:
 * one that is dead can be retried, while one that is waited for would keep all
 * of the WAL.  An error that can pass is raised.
 */
static const char *
try_alone(void (*function) (void *argument), Move *move)
{
	ErrorData  *data = np_try_subtransaction(function, move);

	if (data == NULL)
		return NULL;
	if (can_pass(data->sqlerrcode))
		ReThrowError(data);
	has_waited |= np_is_of_others(data->sqlerrcode);
	return psprintf("%s: %s", unpack_sql_state(data->sqlerrcode), data->message);
}

/* Likewise.  Its error is why the table does not take it, if that is so. */
static bool
try_insert(Move *move)
{
	const char *error = try_alone(insert, move);

	if (error == NULL)
		return true;
	move->sqlstate = "22000";
	move->error = error;
	return false;
}

/* One that is dead.  The table of these has triggers, too. */
static const char *
write_dead(Move *move, NpDiverted *diverted)
{
	const char *error = try_alone(bury, move);

	if (error == NULL)
	{
		diverted->dead++;
		return move->error;
	}
	move->is_unburied = true;
	move->is_kept = try_alone(insert_as_unburied, move) != NULL;
	return psprintf("nats_outbox_dead does not take a message: %s", error);
}

/* One that the table does not take is dead, with the reason.  Returns the error to be shown; NULL: there is none. */
static const char *
write_row(Move *move, NpDiverted *diverted)
{
	return move->row->state != NP_ROW_DEAD && try_insert(move) ? move->error : write_dead(move, diverted);
}

/* Returns whether it was not yet. */
static bool
set_apart(NpRow *row)
{
	NpSpan		subject = row->message.subject;
	NpWalRecord *record = np_wal_queue_set_apart(row->source);

	if (record == row->source)
		return false;
	row->source = record;
	row->message = np_wal_record_message(record);
	row->message.subject = subject;
	return true;
}

/*
 * What is to be moved may wait for long, and is to keep nothing else in memory.
 * To be called when nobody looks at a message that was given to be moved.
 */
void
np_divert_set_apart(void)
{
	dlist_iter	iter;

	/* the last ones were not, if any */
	dlist_reverse_foreach(iter, &rows)
		if (!set_apart(dlist_container(NpRow, node, iter.cur)))
		break;
}

/* Those of a list, until so many of them are kept; count: of all before them.  Returns the count with them. */
static int
write_list(dlist_head *list, int most_kept, Move *moves, int count, NpDiverted *diverted, MemoryContext caller)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		NpRow	   *row = dlist_container(NpRow, node, iter.cur);
		Move	   *move = &moves[count];
		const char *error;

		if (count >= BATCH || most_kept == 0 || has_waited)
			break;
		*move = (Move) {.row = row,.was_kept = list == &kept_rows,.sqlstate = row->sqlstate,.error = row->error};
		error = write_row(move, diverted);
		if (error != NULL && diverted->error == NULL)
			diverted->error = MemoryContextStrdup(caller, error);
		diverted->kept += move->is_kept;
		most_kept -= move->is_kept;
		count++;
	}
	return count;
}

static int
write_rows(Move *moves, NpDiverted *diverted, MemoryContext caller)
{
	int			count;

	LockRelationOid(np_outbox_table(), RowExclusiveLock);
	count = write_list(&rows, BATCH, moves, 0, diverted, caller);
	return write_list(&kept_rows, MOST_REFUSED, moves, count, diverted, caller);
}

/* A row is where it was moved. */
static void
finish(NpRow *row, int64 id)
{
	Subject    *subject = known_as(row->message.subject);

	if (id != 0 && subject != NULL)
		subject->last_id = id;
	dlist_delete(&row->node);
	waiting--;
	np_wal_queue_end(row->source);
	np_row_free(row);
}

/* It may never leave: only its subject waits for that. */
static void
keep(NpRow *row)
{
	Subject    *subject = known_as(row->message.subject);

	if (subject != NULL)
		set_leaving(subject, false);
	dlist_delete(&row->node);
	dlist_push_tail(&kept_rows, &row->node);
	kept++;
}

static void
finish_moved(const Move *moves, int count)
{
	for (int i = 0; i < count; i++)
	{
		kept -= moves[i].was_kept;
		if (moves[i].is_kept)
			keep(moves[i].row);
		else
			finish(moves[i].row, moves[i].id);
	}
}

/*
 * Move what is to be moved, a batch of it, in a transaction.  Nothing is done
 * when there is no outbox.  Raises what that raises, and what is no row's
 * fault: the transaction is then the caller's to abort, and all of it is to be
 * moved again.
 */
void
np_divert_write(NpDiverted *diverted)
{
	MemoryContext caller;
	Move	   *moves = palloc(sizeof(Move) * BATCH);
	int			written = 0;

	memset(diverted, 0, sizeof(*diverted));
	has_waited = false;
	np_outbox_set_diverting(true);
	if (np_outbox_begin(&caller))
		written = write_rows(moves, diverted, caller);
	np_outbox_commit(caller);
	is_held_up = false;
	moved_until = XactLastCommitEnd;
	np_outbox_set_diverting(false);
	np_relay_wake(MyDatabaseId, NP_WAKE_TO_PUBLISH);
	diverted->moved = written - diverted->kept;
	finish_moved(moves, written);
	pfree(moves);
}

/* Who has the WAL up to here has all that was moved; 0: nothing was. */
XLogRecPtr
np_divert_moved_until(void)
{
	return moved_until;
}

/* ---- What was moved before ---------------------------------------------------------------- */

static Datum
found(uint64 row, int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
}

static void
remember(uint64 row)
{
	const char *subject = np_to_utf8_somehow(TextDatumGetCString(found(row, 1)));
	NpSpan		span = {subject, strlen(subject)};
	Subject    *entry;

	enter_subject(span, DatumGetBool(found(row, 3)));
	entry = known_as(span);
	entry->last_id = DatumGetInt64(found(row, entry->hash == ALL ? 4 : 2));
}

static void
remember_subjects(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		const NpRow *row = dlist_container(NpRow, node, iter.cur);

		if (row->state != NP_ROW_DEAD)
			enter_subject(row->message.subject, false);
	}
}

/* Those that are not in the table yet, either. */
static void
remember_waiting(void)
{
	remember_subjects(&rows);
	remember_subjects(&kept_rows);
}

static void
find_all_subjects(void)
{
	Datum		limit = Int64GetDatum(MAX_SUBJECTS + 1);

	np_outbox_execute(&find_subjects, &limit, true);
}

static void
remember_found(void)
{
	for (uint64 row = 0; row < SPI_processed; row++)
		remember(row);
	remember_waiting();
}

/* Have later messages follow all that the table has, or is about to have, in a transaction of the outbox. */
void
np_divert_remember(void)
{
	find_all_subjects();
	remember_found();
}

/* ---- When subjects are free again --------------------------------------------------------- */

/* Has the table nothing that later messages have to wait for? */
bool
np_divert_is_empty(void)
{
	return subjects == NULL || hash_get_num_entries(subjects) == 0;
}

/* Of each subject the last id, and the one that was the last one when it was looked last. */
static Datum
all_ids(void)
{
	HASH_SEQ_STATUS scan;
	Subject    *subject;
	Datum	   *ids = palloc(sizeof(Datum) * 2 * hash_get_num_entries(subjects));
	int			count = 0;

	hash_seq_init(&scan, subjects);
	while ((subject = hash_seq_search(&scan)) != NULL)
	{
		ids[count++] = Int64GetDatum(subject->last_id);
		if (subject->looked_id != 0 && subject->looked_id != subject->last_id)
			ids[count++] = Int64GetDatum(subject->looked_id);
	}
	return PointerGetDatum(construct_array(ids, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* A row that is still in the table. */
typedef struct Left
{
	int64		id;
	bool		has_failed;		/* or waits for one that has */
} Left;

static int
compare(const void *a, const void *b)
{
	int64		first = ((const Left *) a)->id;
	int64		second = ((const Left *) b)->id;

	return first < second ? -1 : first > second;
}

/* What the last statement has found, in order. */
static Left *
found_rows(void)
{
	Left	   *left = palloc(sizeof(Left) * Max(SPI_processed, 1));

	for (uint64 i = 0; i < SPI_processed; i++)
		left[i] = (Left) {DatumGetInt64(found(i, 1)), DatumGetBool(found(i, 2))};
	qsort(left, SPI_processed, sizeof(Left), compare);
	return left;
}

static const Left *
find_row(const Left *left, uint64 count, int64 id)
{
	Left		key = {.id = id};

	return bsearch(&key, left, count, sizeof(Left), compare);
}

static void
forget(Subject *subject)
{
	set_leaving(subject, false);
	(void) hash_search(subjects, &subject->hash, HASH_REMOVE, NULL);
}

/* When what was the last one a look ago has left, so will what has come since then. */
static void
judge(Subject *subject, const Left *last, bool has_kept_up)
{
	if (last == NULL)
	{
		forget(subject);
		return;
	}
	if (last->has_failed)
		set_leaving(subject, false);
	else if (has_kept_up)
		set_leaving(subject, true);
	subject->looked_id = subject->last_id;
}

static void
judge_all(const Left *left, uint64 count)
{
	HASH_SEQ_STATUS scan;
	Subject    *subject;

	hash_seq_init(&scan, subjects);
	while ((subject = hash_seq_search(&scan)) != NULL)
		judge(subject, find_row(left, count, subject->last_id),
			  subject->looked_id != 0 && find_row(left, count, subject->looked_id) == NULL);
}

/* Has nothing left the table for so long that it makes no sense to wait for it? */
static bool
stands_still(void)
{
	Datum		from = Int64GetDatum(next_to_leave);
	int64		next = 0;

	np_outbox_execute(&find_next_to_leave, &from, true);
	if (SPI_processed > 0)
		next = DatumGetInt64(found(0, 1));
	if (next != next_to_leave)
		last_left = np_now();
	next_to_leave = next;
	return np_now() > last_left + STANDSTILL;
}

/* None is waited for, until the table has kept up with it again. */
void
np_divert_stop_waiting(void)
{
	HASH_SEQ_STATUS scan;
	Subject    *subject;

	if (np_divert_is_empty())
		return;
	hash_seq_init(&scan, subjects);
	while ((subject = hash_seq_search(&scan)) != NULL)
		set_leaving(subject, false);
}

/*
 * The last row of all subjects has left, but others that came before it need
 * not have, and of which subjects these are is not known: the table says it.
 * Until it does, what is known remains.
 */
static void
learn_anew(void)
{
	HASH_SEQ_STATUS scan;
	Subject    *subject;

	find_all_subjects();
	hash_seq_init(&scan, subjects);
	while ((subject = hash_seq_search(&scan)) != NULL)
		forget(subject);
	remember_found();
}

/*
 * Look, in a transaction of the outbox, of which subjects the table has nothing
 * any more, and which of the others are to be waited for; all are written that
 * can be.
 */
void
np_divert_look(void)
{
	Subject    *all;
	Datum		arguments[2];
	Left	   *left;
	uint64		count;

	if (np_divert_is_empty() || waiting > kept)
		return;
	all = find_subject(ALL);
	arguments[0] = all_ids();
	arguments[1] = Int64GetDatum(all == NULL ? 0 : all->last_id);
	np_outbox_execute(&find_left, arguments, true);
	left = found_rows();
	count = SPI_processed;
	if (all != NULL && find_row(left, count, all->last_id) == NULL)
		learn_anew();
	else
	{
		judge_all(left, count);
		remember_waiting();
	}
	if (leaving > 0 && stands_still())
		np_divert_stop_waiting();
}
