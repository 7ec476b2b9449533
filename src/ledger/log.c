/*-------------------------------------------------------------------------
 *
 * log.c
 *	  Records of a transaction, one behind the other, however many.
 *
 * The end of the log is in memory.  When that reaches work_mem it is moved to
 * a temporary file (temp_file_limit applies), so the log is the file and
 * then the memory:
 *
 *		0 ........ file_end | 0 ........ used
 *		     the file       |    memory
 *
 * A record is in one or the other.  All is allocated in the transaction's
 * context; nothing that is called at the transaction's end throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "ledger/log.h"

#define INITIAL_MEMORY	(8 * 1024)
#define READ_SIZE		(64 * 1024)
#define MAX_WRITE		(64 * 1024 * 1024)

/* The file belongs to the transaction, in whatever subtransaction it is needed. */
static void
open_file(NpLog *log)
{
	ResourceOwner previous = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	log->file = OpenTemporaryFile(false);
	CurrentResourceOwner = previous;
}

static void
raise_file_error(const NpLog *log, const char *access)
{
	/* a short write or read sets no error number */
	if (errno == 0)
		errno = ENOSPC;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s the temporary file of %s: %m", access, log->what)));
}

/*
 * Move what is in memory to the file.  When that fails, the log is what it
 * was: an error can be caught, and what is there still be used.
 */
static void
spill(NpLog *log)
{
	size_t		written = 0;

	if (log->file < 0)
		open_file(log);
	while (written < log->used)
	{
		int			length = (int) Min(log->used - written, MAX_WRITE);

		errno = 0;
		if (FileWrite(log->file, log->memory + written, length, (off_t) (log->file_end + written),
					  WAIT_EVENT_BUFFILE_WRITE) != length)
			raise_file_error(log, "write");
		written += length;
	}
	log->file_end += log->used;
	log->used = 0;
}

/*
 * Room for a record at the end of the log, which the caller fills at once.
 * ERROR when out of memory or of disk; the log is then what it was.
 */
char *
np_log_append(NpLog *log, size_t length)
{
	size_t		limit = (size_t) work_mem * 1024;

	if (log->used > 0 && log->used + length > limit)
		spill(log);
	if (log->used + length > log->memory_size)
	{
		size_t		size = Max(log->used + length, Min(Max(log->memory_size * 2, INITIAL_MEMORY), limit));

		if (log->memory == NULL)
			log->memory = MemoryContextAllocHuge(TopTransactionContext, size);
		else
			log->memory = repalloc_huge(log->memory, size);
		log->memory_size = size;
	}
	log->used += length;
	return log->memory + log->used - length;
}

/* Where the next record will be. */
uint64
np_log_length(const NpLog *log)
{
	return log->file_end + log->used;
}

/* Have length bytes of the file from a position on at hand, and more. */
static const char *
read_file(NpLog *log, uint64 position, size_t length)
{
	int			wanted;

	if (position >= log->buffered_from && position + length <= log->buffered_from + log->buffered)
		return log->buffer + (position - log->buffered_from);
	if (length > log->buffer_size)
	{
		size_t		size = Max(length, READ_SIZE);

		if (log->buffer == NULL)
			log->buffer = MemoryContextAllocHuge(TopTransactionContext, size);
		else
			log->buffer = repalloc_huge(log->buffer, size);
		log->buffer_size = size;
	}
	wanted = (int) Min(log->buffer_size, log->file_end - position);
	log->buffered = 0;
	errno = 0;
	if (FileRead(log->file, log->buffer, wanted, (off_t) position, WAIT_EVENT_BUFFILE_READ) != wanted)
		raise_file_error(log, "read");
	log->buffered_from = position;
	log->buffered = wanted;
	return log->buffer;
}

/*
 * The bytes of a record, or its first ones, from its position on; they are there until the
 * next call for this log.
 */
const char *
np_log_read(NpLog *log, uint64 position, size_t length)
{
	if (position < log->file_end)
		return read_file(log, position, length);
	return log->memory + (position - log->file_end);
}

/* Take off the end of the log what is behind a position. */
void
np_log_cut(NpLog *log, uint64 length)
{
	if (length >= log->file_end)
	{
		log->used = length - log->file_end;
		return;
	}
	log->file_end = length;
	log->used = 0;
	/* the file is written again from there on */
	log->buffered = 0;
}

/* Free what a successful transaction must not leave to its resource owner; the log is empty then. */
void
np_log_close(NpLog *log)
{
	if (log->file >= 0)
		FileClose(log->file);
	log->file = -1;
	log->file_end = 0;
	log->used = log->buffered = 0;
}

/* The transaction has ended; its context takes the memory, its owner the file. */
void
np_log_reset(NpLog *log)
{
	*log = (NpLog) {.what = log->what,.file = -1};
}
