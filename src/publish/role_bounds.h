/*-------------------------------------------------------------------------
 *
 * role_bounds.h
 *	  What a role may publish that has no session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROLE_BOUNDS_H
#define NP_ROLE_BOUNDS_H

typedef struct NpRoleBounds
{
	char	   *subjects;		/* allowed_subjects, perhaps a bad one */
	bool		needs_server;	/* server_required */
} NpRoleBounds;

extern NpRoleBounds np_role_bounds(Oid role);

#endif							/* NP_ROLE_BOUNDS_H */
