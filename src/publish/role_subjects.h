/*-------------------------------------------------------------------------
 *
 * role_subjects.h
 *	  To which subjects a role may publish that has no session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ROLE_SUBJECTS_H
#define NP_ROLE_SUBJECTS_H

extern char *np_role_subjects(Oid role);

#endif							/* NP_ROLE_SUBJECTS_H */
