/*-------------------------------------------------------------------------
 *
 * jetstream.c
 *	  Why nobody takes a message, or answers a request.
 *
 * A server without JetStream says of a message what it says of one that no
 * stream takes: 503, no responders.  So when that is heard, while the message
 * waits to be sent again, $JS.API.INFO is asked and, if nobody answers there
 * either, the server's INFO is looked at.  What is found out is kept with the
 * session, for the texts that its messages fail with (np_delivery_untaken).
 *
 * Nothing that goes wrong here is an error: then nothing more is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/json.h"
#include "publish/jetstream.h"
#include "wire/server_info.h"

#define ERROR_NOT_FOR_ACCOUNT	10039
#define ERROR_NOT_ENABLED		10076

/* When it is to be found out: not again before what is known is old. */
NpTime
np_jetstream_when_to_look(const NpSession *session)
{
	return session->wants_look ? session->looked_at + NP_LOOK_TIME : NP_FOREVER;
}

/* ---- JetStream's API ------------------------------------------------------------------ */

typedef struct Question
{
	bool		has_ended;
	bool		nobody;			/* is there to answer */
	int			error_code;		/* of JetStream; 0: none */
} Question;

static void
on_answer(void *owner, const NpOperation *operation)
{
	Question   *question = owner;
	NpReply		reply;

	question->has_ended = true;
	if (operation == NULL)
		return;
	np_reply_parse(operation, &reply);
	question->nobody = reply.kind == NP_REPLY_NO_RESPONDERS;
	question->error_code = reply.error_code;
}

/* It has no token: one may be about to be used. */
static void
ask(Question *question, NpSession *session, NpTime deadline)
{
	session->question = (NpProbeListener) {on_answer, question};
	PG_TRY();
	{
		np_connection_ask(session->connection, NP_QUESTION_SUBJECT);
		np_connection_send(session->connection);
		while (!question->has_ended && np_connection_is_open(session->connection) && np_now() < deadline)
			np_connection_wait(session->connection, NP_WAIT_ACK, deadline);
	}
	PG_FINALLY();
	{
		session->question = (NpProbeListener) {0};
	}
	PG_END_TRY();
}

/* ---- The server's INFO ------------------------------------------------------------------ */

/* NULL: it can't be had. */
static Jsonb *
try_info(NpSession *session, NpTime deadline)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile info = NULL;

	PG_TRY();
	{
		info = np_server_info_until(session->connection, deadline);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_SYSTEM_ERROR)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return info;
}

/* Nobody answers at $JS.API: whose fault is that? */
static NpAbsence
absence_at_server(NpSession *session, NpTime deadline)
{
	Jsonb	   *info = np_connection_is_open(session->connection) ? try_info(session, deadline) : NULL;

	if (info == NULL || np_json_is_true(info, "jetstream"))
		return NP_ABSENT_NOT_KNOWN;
	/* a leaf node alone has its own name for that of a cluster */
	return np_json_text(info, "cluster") != NULL ? NP_ABSENT_HERE : NP_ABSENT_OFF;
}

static NpAbsence
find_absence(NpSession *session, NpTime deadline)
{
	Question	question = {0};

	ask(&question, session, deadline);
	if (question.nobody)
		return absence_at_server(session, deadline);
	switch (question.error_code)
	{
		case ERROR_NOT_FOR_ACCOUNT:
			return NP_ABSENT_FOR_ACCOUNT;
		case ERROR_NOT_ENABLED:
			return NP_ABSENT_STOPPED;
		default:
			return NP_ABSENT_NOT_KNOWN;
	}
}

/*
 * Find out whether JetStream is there for the session, whose connection is
 * open.  May be called in a wait of the session; takes no longer than
 * NP_LOOK_TIME, nor beyond the deadline.  Interrupts as in np_wait.
 */
void
np_jetstream_look(NpSession *session, NpTime deadline)
{
	MemoryContext previous = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(previous, "nats_publish look", ALLOCSET_SMALL_SIZES);

	session->wants_look = false;
	session->looked_at = np_now();
	deadline = Min(deadline, session->looked_at + NP_LOOK_TIME);
	MemoryContextSwitchTo(scratch);
	session->absence = find_absence(session, deadline);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
}
