/*-------------------------------------------------------------------------
 *
 * log.h
 *	  Records of a transaction, one behind the other, however many.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LOG_H
#define NP_LOG_H

#include "storage/fd.h"

typedef struct NpLog
{
	const char *what;			/* the records, for an error */

	char	   *memory;
	size_t		memory_size;
	size_t		used;
	File		file;			/* -1: not spilled */
	uint64		file_end;		/* what is behind it in the file is cut off */

	/* the part of the file that is at hand */
	char	   *buffer;
	size_t		buffer_size;
	uint64		buffered_from;
	size_t		buffered;
} NpLog;

extern char *np_log_append(NpLog *log, size_t length);
extern uint64 np_log_length(const NpLog *log);
extern const char *np_log_read(NpLog *log, uint64 position, size_t length);
extern void np_log_cut(NpLog *log, uint64 length);
extern void np_log_close(NpLog *log);
extern void np_log_reset(NpLog *log);

#endif							/* NP_LOG_H */
