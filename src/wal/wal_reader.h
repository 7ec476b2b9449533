/*-------------------------------------------------------------------------
 *
 * wal_reader.h
 *	  The slot of a database, read into the queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_READER_H
#define NP_WAL_READER_H

#include "base/wait.h"
#include "outbox/relay_state.h"
#include "outbox/wal_message.h"

/* Whose it is.  Both functions are called while a transaction is decoded: they must not look into tables. */
typedef struct NpReaderOwner
{
	const NpWalSecret *secret;	/* by which messages of the outbox are known */
	void		(*pump) (void); /* the queue is full, and more comes, or it takes long: send and receive */
	void		(*show) (void); /* much of a transaction was decoded */
} NpReaderOwner;

extern void np_reader_of(const NpReaderOwner *whose);
extern void np_reader_begin(void);
extern bool np_reader_open(void);
extern bool np_reader_abort(const ErrorData *error);
extern bool np_reader_may_read(void);
extern void np_reader_read(void);
extern void np_reader_confirm(void);
extern XLogRecPtr np_reader_awaited(NpTime *since);
extern void np_reader_save(void);
extern NpTime np_reader_next_save(void);
extern bool np_reader_is_asked(void);
extern NpTime np_reader_listen(void);
extern NpTime np_reader_quiet_until(void);
extern void np_reader_look(void);
extern uint32 np_reader_wakes(void);
extern void np_reader_show(NpWalProgress *progress);

#endif							/* NP_WAL_READER_H */
