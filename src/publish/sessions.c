/*-------------------------------------------------------------------------
 *
 * sessions.c
 *	  All sessions of this backend.
 *
 * They live as long as the backend; one that nothing waits for can become that
 * of another foreign server or role (current_session.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "publish/replies.h"
#include "publish/sessions.h"

static NpSession *sessions[NP_MAX_SESSIONS];
static int	count;

/* The session of a number; NULL: there are not so many. */
NpSession *
np_sessions_get(int number)
{
	return number < count ? sessions[number] : NULL;
}

/* The session that calls with a foreign server and role use, or NULL. */
NpSession *
np_sessions_find(Oid server_id, Oid role)
{
	for (int i = 0; i < count; i++)
		if (sessions[i]->server_id == server_id && sessions[i]->role == role && !sessions[i]->is_retired)
			return sessions[i];
	return NULL;
}

/* One more, of the settings until its owner says otherwise; NULL: there can be no more. */
NpSession *
np_sessions_add(void)
{
	NpSession  *session;

	if (count == NP_MAX_SESSIONS)
		return NULL;
	session = MemoryContextAllocZero(TopMemoryContext, sizeof(NpSession));
	np_delivery_begin(session, &np_reply_events);
	session->number = count;
	sessions[count++] = session;
	return session;
}
