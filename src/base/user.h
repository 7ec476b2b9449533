/*-------------------------------------------------------------------------
 *
 * user.h
 *	  Being another user for a while.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_USER_H
#define NP_USER_H

/* Who it was before. */
typedef struct NpUser
{
	Oid			id;
	int			context;
	int			nest_level;		/* of settings */
} NpUser;

extern void np_user_become_owner(NpUser *before, Oid owner);
extern void np_user_return(const NpUser *before);

#endif							/* NP_USER_H */
