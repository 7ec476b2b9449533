/*-------------------------------------------------------------------------
 *
 * outbox_review.h
 *	  Rows of the outbox that have been read, and of which nothing is known any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTBOX_REVIEW_H
#define NP_OUTBOX_REVIEW_H

extern void np_review_again(void);
extern bool np_review_begins(void);
extern bool np_review_is_under_way(void);
extern int64 np_review_step(int64 position, bool ordered);

#endif							/* NP_OUTBOX_REVIEW_H */
