/*-------------------------------------------------------------------------
 *
 * user.c
 *	  Being another user for a while.
 *
 * What the owner of a table has made a part of it (a condition of a trigger, a
 * cast or the output of a type) is his code.  Where it runs for who only reads
 * the table, it must not have his rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "base/user.h"

/*
 * Be the owner, who can do nothing that lasts longer; what he sets does not,
 * either.  The caller returns; an error that aborts the transaction or
 * subtransaction does, too.
 */
void
np_user_become_owner(NpUser *before, Oid owner)
{
	GetUserIdAndSecContext(&before->id, &before->context);
	SetUserIdAndSecContext(owner, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	before->nest_level = NewGUCNestLevel();
}

void
np_user_return(const NpUser *before)
{
	AtEOXact_GUC(false, before->nest_level);
	SetUserIdAndSecContext(before->id, before->context);
}
