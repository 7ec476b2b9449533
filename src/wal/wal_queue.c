/*-------------------------------------------------------------------------
 *
 * wal_queue.c
 *	  Messages that were decoded, until they have come to their end.
 *
 * A transaction is decoded in one go, and has as many messages as it has,
 * while NATS takes its time.  They are in blocks:
 *
 *		being read ── in memory ── ... ── in the file ── ... ── being filled
 *
 * From when its first message is taken until all of its messages have ended a
 * block is in memory.  One that is filled when there are enough in memory goes
 * into a temporary file, and comes back when its turn has come.  The file has
 * no holes to be filled: it begins anew when nothing is in it any more, which
 * it is before the next transaction is decoded (np_wal_queue_is_full).
 *
 * What waits for long is set apart: it has a block of its own, and keeps no
 * other message in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "message/packed.h"
#include "wal/wal_queue.h"

/* A block for messages that are not larger. */
#define BLOCK_SIZE		(256 * 1024)

/* So much may be in memory before more goes into the file. */
#define MEMORY_LIMIT	(24 * 1024 * 1024)

/* So much is enough: the next transaction can wait in the WAL. */
#define ENOUGH			(8 * 1024 * 1024)

/* And so much of what is set apart, for which nothing else waits until then. */
#define ENOUGH_APART	(32 * 1024 * 1024)

typedef struct Block
{
	dlist_node	node;
	char	   *data;			/* NULL: it is in the file */
	size_t		size;			/* of the memory */
	size_t		used;
	off_t		offset;			/* in the file */
	int			left;			/* messages that have not ended */
	bool		was_read;		/* others may point into it */
	bool		is_apart;		/* it is of one message, and not in the list */
} Block;

struct NpWalRecord
{
	uint32		length;			/* with all that belongs to it, aligned */
	uint32		error_length;	/* with its zero; 0: none.  Behind it comes the message. */
	Block	   *block;
	NpWalTransaction *transaction;
	int64		number;			/* from 1 on, over all */
	bool		is_aside;		/* it has ended, or somebody else sees to that */
	bool		in_doubt;		/* it may be stored */
	char		sqlstate[6];
};

static MemoryContext context;	/* NULL: not used yet */
static dlist_head blocks = DLIST_STATIC_INIT(blocks);
static Block *reading;			/* where the next message is taken; NULL: at the first one */
static size_t position;			/* in it */
static File file = -1;
static off_t file_end;
static int	blocks_in_file;
static size_t memory;			/* of blocks */
static int64 bytes;				/* of messages that have not ended, ... */
static int64 bytes_apart;		/* ... but for those that are set apart, which have these */
static int64 count;				/* of them */
static int64 last_number;

/* ---- Blocks ----------------------------------------------------------------------------- */

static void
raise_file_error(const char *access)
{
	/* a short write or read sets no error number */
	if (errno == 0)
		errno = ENOSPC;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s the temporary file of decoded messages: %m", access)));
}

static Block *
last_block(void)
{
	return dlist_is_empty(&blocks) ? NULL : dlist_tail_element(Block, node, &blocks);
}

static char *
allocate(size_t size)
{
	char	   *data = MemoryContextAllocHuge(context, size);

	memory += size;
	return data;
}

static void
release(Block *block)
{
	pfree(block->data);
	block->data = NULL;
	memory -= block->size;
}

static void
add_block(size_t size)
{
	Block	   *block;

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "nats_publish decoded messages", ALLOCSET_DEFAULT_SIZES);
	block = MemoryContextAllocZero(context, sizeof(Block));
	block->size = Max(size, BLOCK_SIZE);
	block->data = allocate(block->size);
	dlist_push_tail(&blocks, &block->node);
}

static void
spill(Block *block)
{
	if (file < 0)
		file = OpenTemporaryFile(true);
	errno = 0;
	if (FileWrite(file, block->data, block->used, file_end, WAIT_EVENT_BUFFILE_WRITE) != block->used)
		raise_file_error("write");
	block->offset = file_end;
	file_end += block->used;
	blocks_in_file++;
	release(block);
}

static void
leave_file(void)
{
	if (--blocks_in_file > 0)
		return;
	FileClose(file);
	file = -1;
	file_end = 0;
}

static void
load(Block *block)
{
	block->size = block->used;
	block->data = allocate(block->size);
	errno = 0;
	if (FileRead(file, block->data, block->used, block->offset, WAIT_EVENT_BUFFILE_READ) != block->used)
	{
		release(block);
		raise_file_error("read");
	}
	leave_file();
}

/* Nobody needs it any more. */
static void
free_block(Block *block)
{
	dlist_delete(&block->node);
	if (block->data != NULL)
		release(block);
	pfree(block);
}

/* If nothing of it is left, and it is neither read nor filled. */
static void
free_if_done(Block *block)
{
	if (block->left == 0 && block != reading && block != last_block())
		free_block(block);
}

static void
read_at(Block *block)
{
	Block	   *left = reading;

	reading = block;
	position = 0;
	if (block != NULL)
		block->was_read = true;
	if (left != NULL && left != block)
		free_if_done(left);
}

/* ---- Adding ----------------------------------------------------------------------------- */

static Block *
find_room(size_t length)
{
	Block	   *last = last_block();

	if (last != NULL && last->data != NULL && last->used + length <= last->size)
		return last;
	if (last != NULL && last->data != NULL && last->left > 0 && !last->was_read && memory > MEMORY_LIMIT)
		spill(last);
	add_block(length);
	if (last != NULL)
		free_if_done(last);
	return last_block();
}

/*
 * Add a copy of a message of a transaction.  ERROR when out of memory or of
 * disk; the queue is then what it was.
 */
void
np_wal_queue_add(NpWalTransaction *transaction, const NpMessage *message, const NpWalError *error)
{
	NpWalRecord record = {.transaction = transaction,.number = last_number + 1};
	Block	   *block;
	char	   *to;

	if (error != NULL)
	{
		memcpy(record.sqlstate, error->sqlstate, sizeof(record.sqlstate));
		record.error_length = strlen(error->text) + 1;
	}
	record.length = MAXALIGN(sizeof(record) + record.error_length + np_packed_size(message));
	block = record.block = find_room(record.length);
	to = block->data + block->used;
	memcpy(to, &record, sizeof(record));
	if (error != NULL)
		memcpy(to + sizeof(record), error->text, record.error_length);
	np_packed_write(message, to + sizeof(record) + record.error_length);
	block->used += record.length;
	block->left++;
	last_number++;
	count++;
	bytes += record.length;
	np_position_add(transaction);
}

/* ---- Taking ----------------------------------------------------------------------------- */

static NpWalRecord *
record_at(const Block *block, size_t offset)
{
	return (NpWalRecord *) (block->data + offset);
}

/* The next message that has not been taken; NULL: there is none. */
NpWalRecord *
np_wal_queue_peek(void)
{
	if (reading == NULL && !dlist_is_empty(&blocks))
		read_at(dlist_head_element(Block, node, &blocks));
	while (reading != NULL)
	{
		if (reading->data == NULL)
			load(reading);
		while (position < reading->used && record_at(reading, position)->is_aside)
			position += record_at(reading, position)->length;
		if (position < reading->used)
			return record_at(reading, position);
		if (!dlist_has_next(&blocks, &reading->node))
			break;
		read_at(dlist_container(Block, node, dlist_next_node(&blocks, &reading->node)));
	}
	return NULL;
}

/* It is taken. */
void
np_wal_queue_take(void)
{
	position += record_at(reading, position)->length;
}

/* It will not be taken again, though it has not ended. */
void
np_wal_queue_put_aside(NpWalRecord *record)
{
	record->is_aside = true;
}

/* What was taken is to be taken again, but for what has ended or is put aside. */
void
np_wal_queue_return_all(void)
{
	read_at(NULL);
}

/* Nothing of it is left in its block. */
static void
leave_block(NpWalRecord *record)
{
	Block	   *block = record->block;

	if (block->is_apart)
	{
		bytes_apart -= record->length;
		pfree(block);
		return;
	}
	bytes -= record->length;
	record->is_aside = true;
	block->left--;
	free_if_done(block);
}

/*
 * A message that is put aside will wait for long.  Returns the record in its
 * new place; nobody may point into the old one any more.
 */
NpWalRecord *
np_wal_queue_set_apart(NpWalRecord *record)
{
	Block	   *block;
	NpWalRecord *to;

	if (record->block->is_apart)
		return record;
	block = MemoryContextAllocHuge(context, MAXALIGN(sizeof(Block)) + record->length);
	*block = (Block) {.data = (char *) block + MAXALIGN(sizeof(Block)),.left = 1,.is_apart = true};
	to = record_at(block, 0);
	memcpy(to, record, record->length);
	to->block = block;
	bytes_apart += record->length;
	leave_block(record);
	return to;
}

/* A message that was taken has come to its end. */
void
np_wal_queue_end(NpWalRecord *record)
{
	count--;
	np_position_end_message(record->transaction);
	leave_block(record);
}

/* ---- A message --------------------------------------------------------------------------- */

NpWalTransaction *
np_wal_record_transaction(const NpWalRecord *record)
{
	return record->transaction;
}

/* Its number, which only grows. */
int64
np_wal_record_number(const NpWalRecord *record)
{
	return record->number;
}

/* It points into the queue, until it has ended. */
NpMessage
np_wal_record_message(const NpWalRecord *record)
{
	NpMessage	message;

	np_packed_read(&message, (const char *) (record + 1) + record->error_length);
	return message;
}

/* It may be stored, though nothing more will be heard of that. */
void
np_wal_record_doubt(NpWalRecord *record)
{
	record->in_doubt = true;
}

bool
np_wal_record_is_doubted(const NpWalRecord *record)
{
	return record->in_doubt;
}

/* False: it can be sent. */
bool
np_wal_record_error(const NpWalRecord *record, NpWalError *error)
{
	if (record->error_length == 0)
		return false;
	memcpy(error->sqlstate, record->sqlstate, sizeof(error->sqlstate));
	error->text = (const char *) (record + 1);
	return true;
}

/* ---- All of them ------------------------------------------------------------------------- */

/* How many messages have not ended. */
int64
np_wal_queue_count(void)
{
	return count;
}

int64
np_wal_queue_bytes(void)
{
	return bytes + bytes_apart;
}

/* Is there enough to be sent, so that the next transaction need not be decoded yet? */
bool
np_wal_queue_is_full(void)
{
	return bytes >= ENOUGH || bytes_apart >= ENOUGH_APART || blocks_in_file > 0;
}
