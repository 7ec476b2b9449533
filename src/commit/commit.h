/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  What becomes of a transaction's messages when it ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_COMMIT_H
#define NP_COMMIT_H

extern void np_commit_finish_transaction(void);
extern void np_commit_prepare_transaction(void);
extern void np_commit_settle_subtransactions(int nest_level);
extern void np_commit_reset(void);
extern void np_commit_abort_subtransaction(int nest_level);
extern void np_commit_release_memory(void);
extern void np_commit_warn_unasked(void);
extern void np_commit_exit(void);

#endif							/* NP_COMMIT_H */
