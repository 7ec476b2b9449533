/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  The messages that a transaction holds until it commits.
 *
 * The messages are written one after the other into a log.  What a
 * subtransaction that is rolled back has added is the end of it (levels.c), so
 * the log is cut off where it was before, whatever was behind that.
 *
 * The end of the log is in memory.  When that reaches work_mem it is moved to
 * a temporary file (temp_file_limit applies), so the log is the file and
 * then the memory:
 *
 *		0 ........ file_end | 0 ........ used
 *		     the file       |    memory
 *
 * All is allocated in the transaction's context; nothing that is called at
 * the transaction's end throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "ledger/queue.h"

#define INITIAL_MEMORY	(8 * 1024)
#define READ_SIZE		(64 * 1024)
#define MAX_WRITE		(64 * 1024 * 1024)

/* Before the bytes of each message in the log: subject, headers, payload. */
typedef struct Record
{
	uint32		subject_length;
	uint32		headers_length;
	uint32		payload_length;
	uint32		id_offset;		/* in the headers */
	uint32		id_length;		/* 0: none */
	uint32		stream_offset;	/* likewise, the expected stream */
	uint32		stream_length;
	uint8		session;
	bool		has_headers;
	bool		has_automatic_id;
	bool		has_ttl;
} Record;

/* Of the current transaction; a backend has one. */
static NpQueueSummary summary;

static char *memory;
static size_t memory_size;
static size_t used;
static File file = -1;			/* -1: not spilled */
static uint64 file_end;			/* what is behind it in the file is cut off */

/* Where np_queue_next reads, and the part of the file that it has at hand. */
static uint64 reading;
static char *read_buffer;
static size_t read_buffer_size;
static uint64 buffered_from;
static size_t buffered;

/* ---- The log ------------------------------------------------------------- */

/* The file belongs to the transaction, in whatever subtransaction it is needed. */
static void
open_file(void)
{
	ResourceOwner previous = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	file = OpenTemporaryFile(false);
	CurrentResourceOwner = previous;
}

static void
raise_file_error(const char *what)
{
	/* a short write or read sets no error number */
	if (errno == 0)
		errno = ENOSPC;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s the temporary file of held messages: %m", what)));
}

/*
 * Move what is in memory to the file.  When that fails, the log is what it
 * was: an error can be caught, and what is held still be committed.
 */
static void
spill(void)
{
	size_t		written = 0;

	if (file < 0)
		open_file();
	while (written < used)
	{
		int			length = (int) Min(used - written, MAX_WRITE);

		errno = 0;
		if (FileWrite(file, memory + written, length, (off_t) (file_end + written),
					  WAIT_EVENT_BUFFILE_WRITE) != length)
			raise_file_error("write");
		written += length;
	}
	file_end += used;
	used = 0;
}

/* Room for the next message at the end of the log. */
static char *
append(size_t length)
{
	size_t		limit = (size_t) work_mem * 1024;

	if (used > 0 && used + length > limit)
		spill();
	if (used + length > memory_size)
	{
		size_t		size = Max(used + length, Min(Max(memory_size * 2, INITIAL_MEMORY), limit));

		if (memory == NULL)
			memory = MemoryContextAllocHuge(TopTransactionContext, size);
		else
			memory = repalloc_huge(memory, size);
		memory_size = size;
	}
	used += length;
	return memory + used - length;
}

static void
truncate_log(uint64 length)
{
	if (length >= file_end)
		used = length - file_end;
	else
	{
		file_end = length;
		used = 0;
	}
}

/* ---- Adding ---------------------------------------------------------------- */

static char *
put(char *to, NpSpan span)
{
	if (span.length > 0)
		memcpy(to, span.data, span.length);
	return to + span.length;
}

/*
 * Hold a copy of the message, to go out on the session of this number; the
 * subtransaction has a level.  ERROR when out of memory or of disk.
 */
void
np_queue_add(const NpMessage *message, int session)
{
	Record		record = {
		.subject_length = message->subject.length,
		.headers_length = message->headers.length,
		.payload_length = message->payload.length,
		.id_length = message->id.length,
		.stream_length = message->expect_stream.length,
		.session = session,
		.has_headers = message->headers.data != NULL,
		.has_automatic_id = message->has_automatic_id,
		.has_ttl = message->has_ttl
	};
	size_t		content = message->headers.length + message->payload.length;
	char	   *to;

	if (message->id.data != NULL)
		record.id_offset = message->id.data - message->headers.data;
	if (message->expect_stream.data != NULL)
		record.stream_offset = message->expect_stream.data - message->headers.data;

	to = append(sizeof(record) + message->subject.length + content);
	memcpy(to, &record, sizeof(record));
	to = put(to + sizeof(record), message->subject);
	to = put(to, message->headers);
	put(to, message->payload);
	summary.count++;
	summary.largest = Max(summary.largest, content);
	summary.has_ttl |= message->has_ttl;
	summary.sessions |= UINT64CONST(1) << session;
}

NpQueueSummary
np_queue_summary(void)
{
	return summary;
}

bool
np_queue_holds_for(const NpQueueSummary *held, int session)
{
	return (held->sessions >> session & 1) != 0;
}

/* Do all messages that are held go out on one session? */
bool
np_queue_only_session(const NpQueueSummary *held, int *session)
{
	if (pg_popcount64(held->sessions) != 1)
		return false;
	*session = pg_rightmost_one_pos64(held->sessions);
	return true;
}

/* ---- Reading ---------------------------------------------------------------- */

/* Have length bytes of the file from a position on at hand, and more. */
static char *
read_file(uint64 position, size_t length)
{
	int			wanted;

	if (position >= buffered_from && position + length <= buffered_from + buffered)
		return read_buffer + (position - buffered_from);
	if (length > read_buffer_size)
	{
		size_t		size = Max(length, READ_SIZE);

		if (read_buffer == NULL)
			read_buffer = MemoryContextAllocHuge(TopTransactionContext, size);
		else
			read_buffer = repalloc_huge(read_buffer, size);
		read_buffer_size = size;
	}
	wanted = (int) Min(read_buffer_size, file_end - position);
	buffered = 0;
	errno = 0;
	if (FileRead(file, read_buffer, wanted, (off_t) position, WAIT_EVENT_BUFFILE_READ) != wanted)
		raise_file_error("read");
	buffered_from = position;
	buffered = wanted;
	return read_buffer;
}

static size_t
body_length(const Record *record)
{
	return (size_t) record->subject_length + record->headers_length + record->payload_length;
}

/* Start over with the first message. */
void
np_queue_rewind(void)
{
	reading = 0;
	buffered = 0;
}

/*
 * The next message in the order of the calls; false at the end.  It points
 * into the queue's memory, until the next call.
 */
bool
np_queue_next(NpMessage *message)
{
	Record		record;
	char	   *body;

	if (reading < file_end)
	{
		memcpy(&record, read_file(reading, sizeof(record)), sizeof(record));
		body = read_file(reading, sizeof(record) + body_length(&record)) + sizeof(record);
		reading += sizeof(record) + body_length(&record);
	}
	else if (reading < file_end + used)
	{
		memcpy(&record, memory + (reading - file_end), sizeof(record));
		body = memory + (reading - file_end) + sizeof(record);
		reading += sizeof(record) + body_length(&record);
	}
	else
		return false;

	memset(message, 0, sizeof(*message));
	message->subject = (NpSpan) {body, record.subject_length};
	body += record.subject_length;
	if (record.has_headers)
		message->headers = (NpSpan) {body, record.headers_length};
	if (record.id_length > 0)
		message->id = (NpSpan) {body + record.id_offset, record.id_length};
	if (record.stream_length > 0)
		message->expect_stream = (NpSpan) {body + record.stream_offset, record.stream_length};
	body += record.headers_length;
	message->payload = (NpSpan) {body, record.payload_length};
	message->session = record.session;
	message->has_automatic_id = record.has_automatic_id;
	message->has_ttl = record.has_ttl;
	return true;
}

/* ---- Ends -------------------------------------------------------------------- */

/* What is held now, for np_queue_cut. */
NpQueueMark
np_queue_mark(void)
{
	NpQueueMark mark = {.length = file_end + used,.summary = summary};

	return mark;
}

/* What was added since is gone. */
void
np_queue_cut(const NpQueueMark *mark)
{
	truncate_log(mark->length);
	summary = mark->summary;
}

/* Free what a successful transaction must not leave to its resource owner. */
void
np_queue_close(void)
{
	if (file >= 0)
		FileClose(file);
	file = -1;
	file_end = 0;
	used = 0;
	memset(&summary, 0, sizeof(summary));
}

/* The transaction has ended; its context takes the memory, its owner the file. */
void
np_queue_reset(void)
{
	memset(&summary, 0, sizeof(summary));
	memory = read_buffer = NULL;
	memory_size = read_buffer_size = used = 0;
	file = -1;
	file_end = reading = 0;
	buffered = 0;
}
