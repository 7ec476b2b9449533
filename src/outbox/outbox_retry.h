/*-------------------------------------------------------------------------
 *
 * outbox_retry.h
 *	  Messages of the outbox that are to be tried again now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_RETRY_H
#define NP_OUTBOX_RETRY_H

extern bool np_outbox_retry(Oid schema, int64 id);
extern int64 np_outbox_retry_all(Oid schema);

#endif							/* NP_OUTBOX_RETRY_H */
