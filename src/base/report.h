/*-------------------------------------------------------------------------
 *
 * report.h
 *	  What can go wrong, and how it is reported.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_REPORT_H
#define NP_REPORT_H

#include "base/compat.h"
#include "base/types.h"

/* The rows of the error table in the README; report.c has their SQLSTATEs. */
typedef enum NpFault
{
	NP_FAULT_NONE,
	NP_FAULT_NULL,				/* a NULL where there must be a value */
	NP_FAULT_INPUT,				/* a bad subject, header, option; an unknown future */
	NP_FAULT_COLUMN,			/* an option names one that is not there */
	NP_FAULT_RELATION,			/* of a kind that has no changes to publish */
	NP_FAULT_TRIGGER,			/* a trigger function called in another way */
	NP_FAULT_IN_TRANSACTION,	/* called where nothing can be committed */
	NP_FAULT_RUN,				/* one of the same table is not finished */
	NP_FAULT_STOPPED,			/* by somebody, as he wanted */
	NP_FAULT_NOT_LOADED,		/* the library, when the server started */
	NP_FAULT_SIZE,				/* a message over a limit */
	NP_FAULT_FEATURE,			/* the server or the stream lacks it */
	NP_FAULT_UNREACHABLE,		/* no connection */
	NP_FAULT_NOT_AUTHORIZED,	/* authentication refused */
	NP_FAULT_NOT_PERMITTED,		/* the NATS user may not */
	NP_FAULT_UNTAKEN,			/* no stream takes the subject */
	NP_FAULT_NO_STREAM,			/* no such stream or message */
	NP_FAULT_NO_JETSTREAM,		/* it is not there, or not for us */
	NP_FAULT_DUPLICATE,			/* an id of an atomic batch is stored already */
	NP_FAULT_CONFLICT,			/* an expected stream or sequence did not hold */
	NP_FAULT_STREAM_FULL,
	NP_FAULT_RESOURCES,			/* of the account or of the server */
	NP_FAULT_LOST,				/* the connection, before the message was sent */
	NP_FAULT_UNANSWERED,		/* a request, in time */
	NP_FAULT_UNKNOWN,			/* sent, and no ack in time: stored or not */
	NP_FAULT_WINDOW_FULL,
	NP_FAULT_JETSTREAM			/* any other JetStream error */
} NpFault;

/* Of NP_FAULT_NO_JETSTREAM. */
#define NP_HINT_SWITCH_ON	"Switch JetStream on: put jetstream { store_dir: \"/var/lib/nats\" } into the server's configuration and restart it, or start it with nats-server -js."
#define NP_HINT_ELSEWHERE	"Create a stream on a server connected with it that has JetStream, or switch JetStream on there: put jetstream { store_dir: \"/var/lib/nats\" } into its configuration and restart it, or start it with nats-server -js."
#define NP_HINT_ACCOUNT		"Switch JetStream on for the account: put jetstream: enabled into its block of the server's configuration (or limits of JetStream into its JWT). Or log in as a user of an account that has it."
#define NP_HINT_STOPPED		"It was switched off, or has stopped, after the server had started: its log says why."

/*
 * One thing that went wrong.  The texts are in the database's encoding, palloc'd
 * or constant; np_failure_copy makes them outlive their context.
 */
typedef struct NpFailure
{
	NpFault		fault;
	const char *text;			/* a clause: "no stream takes this subject" */
	const char *detail;			/* a sentence, or NULL */
	const char *hint;			/* sentences, or NULL: the fault's own */
} NpFailure;

/* A failed message, for the report of a COMMIT. */
typedef struct NpFailedMessage
{
	uint64		token;
	char	   *subject;
	NpFailure	failure;
} NpFailedMessage;

/* What has become of the critical messages of a transaction. */
typedef struct NpTransactionReport
{
	const NpFailedMessage *list;	/* the first failed ones in the order of the calls */
	int			listed;
	int64		failed;
	int64		acked;
	int64		unsent;			/* held, and not sent because others failed */
} NpTransactionReport;

extern NpFailure np_failure(NpFault fault, const char *format, ...) pg_attribute_printf(2, 3);
extern NpFailure np_failure_from_server(int code, int error_code, const char *description);
extern NpFailure np_failure_copy(const NpFailure *failure, MemoryContext context);
extern void np_failure_free(NpFailure *failure);
extern const char *np_failure_sqlstate(const NpFailure *failure);

extern char *np_describe_transaction(const NpTransactionReport *report);

NP_NORETURN extern void np_raise(const NpFailure *failure);
NP_NORETURN extern void np_raise_fault(NpFault fault, const char *hint, const char *text);
NP_NORETURN extern void np_raise_input(const char *format, ...) pg_attribute_printf(1, 2);
NP_NORETURN extern void np_raise_message(const NpFailure *failure, const char *subject);
NP_NORETURN extern void np_raise_transaction(const NpTransactionReport *report);
extern void np_warn_messages(int elevel, const NpFailedMessage *first, int64 count);

#endif							/* NP_REPORT_H */
