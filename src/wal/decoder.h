/*-------------------------------------------------------------------------
 *
 * decoder.h
 *	  Reading the WAL of a database, transaction by transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_DECODER_H
#define NP_DECODER_H

#include "wal/wal_change.h"

/*
 * Who hears of what was decoded, of each committed transaction in one go, in
 * the order of their commits.  All are called within np_decoder_step(), under
 * the snapshot of the past: they must not look at tables, nor end
 * transactions.  They may raise errors: then decoding is to begin again.
 */
typedef struct NpDecoderEvents
{
	void		(*change) (NpDecodedTransaction *transaction, Relation relation, ReorderBufferChange *change);
	void		(*truncate) (NpDecodedTransaction *transaction, int count, Relation *relations, ReorderBufferChange *change);
	void		(*message) (NpDecodedTransaction *transaction, const char *prefix, const char *data, size_t length);
	void		(*commit) (NpDecodedTransaction *transaction);
} NpDecoderEvents;

extern void np_decoder_open(const char *slot, const NpDecoderEvents *events);
extern bool np_decoder_is_open(void);
extern void np_decoder_close(void);
extern void np_decoder_abort(void);
extern bool np_decoder_has_more(void);
extern bool np_decoder_step(void);
extern void np_decoder_leave(void);
extern XLogRecPtr np_decoder_position(void);
extern void np_decoder_confirm(XLogRecPtr position);
extern void np_decoder_save(void);

#endif							/* NP_DECODER_H */
