/*-------------------------------------------------------------------------
 *
 * wal_annotations.h
 *	  Annotations of a transaction, for who reads its changes from the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_WAL_ANNOTATIONS_H
#define NP_WAL_ANNOTATIONS_H

#define NP_WAL_ANNOTATIONS_PREFIX	"nats_publish.annotations"

extern void np_wal_annotate(const char *text);

#endif							/* NP_WAL_ANNOTATIONS_H */
