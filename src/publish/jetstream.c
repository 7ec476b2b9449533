/*-------------------------------------------------------------------------
 *
 * jetstream.c
 *	  Why nobody takes a message, or answers a request.
 *
 * A server without JetStream says of a message what it says of one that no
 * stream takes: 503, no responders.  So when that is heard, while the message
 * waits to be sent again, $JS.API.INFO is asked and, if nobody answers there
 * either, the server's INFO is looked at:
 *
 *	  nothing ──► wanted ──► asked ──► nobody is there ──► known
 *							   │ ──► known: there, or not for the account
 *							   └ ──► not permitted, no answer, lost: nothing
 *
 * What is found out is kept with the session, for the texts that its messages
 * fail with (np_delivery_untaken).  Answers come to replies.c.  Nothing that
 * goes wrong here is an error: then nothing more is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/json.h"
#include "publish/jetstream.h"
#include "wire/server_info.h"

/* When there is something to do, in a wait. */
NpTime
np_jetstream_when_to_look(const NpSession *session)
{
	switch (session->look)
	{
		case NP_LOOK_WANTED:
			return session->looked_at == 0 ? 0 : session->looked_at + NP_LOOK_TIME;
		case NP_LOOK_NOBODY:
			return 0;
		default:
			return NP_FOREVER;
	}
}

/* ---- The server's INFO ------------------------------------------------------------------ */

/* Nobody answers at $JS.API: whose fault is that? */
static NpAbsence
find_absence(NpSession *session, NpTime deadline)
{
	Jsonb	   *info = np_server_try_info(session->connection, deadline);

	if (info == NULL || np_json_is_true(info, "jetstream"))
		return NP_ABSENT_NOT_KNOWN;
	/* a leaf node alone has its own name for that of a cluster */
	return np_json_text(info, "cluster") != NULL ? NP_ABSENT_HERE : NP_ABSENT_OFF;
}

static void
look_at_server(NpSession *session, NpTime deadline)
{
	MemoryContext previous = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(previous, "nats_publish look", ALLOCSET_SMALL_SIZES);

	session->look = NP_LOOK_NONE;
	MemoryContextSwitchTo(scratch);
	session->absence = find_absence(session, deadline);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
}

/* ---- Looking ------------------------------------------------------------------------------ */

/*
 * Do what is to be done now, on an open connection: ask, which takes no time, or
 * look at the server, until the deadline.  Interrupts as in np_wait.
 */
void
np_jetstream_look_on(NpSession *session, NpTime deadline)
{
	if (session->look == NP_LOOK_NOBODY)
		look_at_server(session, deadline);
	else
	{
		session->look = NP_LOOK_ASKED;
		session->looked_at = np_now();
		np_connection_ask(session->connection, NP_QUESTION_SUBJECT);
		np_connection_send(session->connection);
	}
}

/*
 * Find it all out now, on an open connection, for who has no time to wait for a
 * message that is sent again.  Takes NP_LOOK_TIME at most.
 */
void
np_jetstream_look(NpSession *session)
{
	NpTime		deadline = np_now() + NP_LOOK_TIME;

	np_jetstream_look_on(session, deadline);
	while (session->look == NP_LOOK_ASKED && np_connection_is_open(session->connection) && np_now() < deadline)
		np_connection_wait(session->connection, NP_WAIT_ACK, deadline);
	if (session->look == NP_LOOK_NOBODY && np_connection_is_open(session->connection))
		np_jetstream_look_on(session, deadline);
}
