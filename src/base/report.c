/*-------------------------------------------------------------------------
 *
 * report.c
 *	  What can go wrong, and how it is reported.
 *
 * Every ERROR and WARNING of the extension about NATS is made here, from a
 * fault that decides its SQLSTATE and a clause that says what happened.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "base/report.h"

/* Of what somebody else has given, a bad value or a description, in an error; bytes. */
#define MAX_QUOTED_TEXT	1000

typedef struct FaultKind
{
	int			sqlstate;
	const char *hint;
} FaultKind;

static const FaultKind fault_kinds[] = {
	[NP_FAULT_NONE] = {ERRCODE_INTERNAL_ERROR, NULL},
	[NP_FAULT_NULL] = {ERRCODE_NULL_VALUE_NOT_ALLOWED, NULL},
	[NP_FAULT_INPUT] = {ERRCODE_INVALID_PARAMETER_VALUE, NULL},
	[NP_FAULT_COLUMN] = {ERRCODE_UNDEFINED_COLUMN, NULL},
	[NP_FAULT_RELATION] = {ERRCODE_WRONG_OBJECT_TYPE, NULL},
	[NP_FAULT_TRIGGER] = {ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, NULL},
	[NP_FAULT_IN_TRANSACTION] = {ERRCODE_ACTIVE_SQL_TRANSACTION,
	"Call it alone, outside of a transaction block and of functions."},
	[NP_FAULT_RUN] = {ERRCODE_OBJECT_IN_USE, NULL},
	[NP_FAULT_STOPPED] = {ERRCODE_QUERY_CANCELED, "Repeat the same call to go on where this one ended."},
	[NP_FAULT_NOT_LOADED] = {ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
	"Add it to shared_preload_libraries in postgresql.conf and restart the server; PostgreSQL 17 and later do not need that."},
	[NP_FAULT_SIZE] = {ERRCODE_PROGRAM_LIMIT_EXCEEDED, NULL},
	[NP_FAULT_FEATURE] = {ERRCODE_FEATURE_NOT_SUPPORTED, NULL},
	[NP_FAULT_UNREACHABLE] = {ERRCODE_SYSTEM_ERROR,
	"Check that nats-server runs, and the setting nats_publish.url or the option url of the foreign server."},
	[NP_FAULT_NOT_AUTHORIZED] = {ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
	"Check the credentials in the settings, or in the user mapping of the foreign server."},
	[NP_FAULT_NOT_PERMITTED] = {ERRCODE_INSUFFICIENT_PRIVILEGE,
	"The NATS user needs permission to publish to this subject."},
	[NP_FAULT_UNTAKEN] = {ERRCODE_UNDEFINED_OBJECT,
	"Create a stream for it with nats_create_stream()."},
	[NP_FAULT_NO_STREAM] = {ERRCODE_UNDEFINED_OBJECT, NULL},
	[NP_FAULT_NO_JETSTREAM] = {ERRCODE_FEATURE_NOT_SUPPORTED, NULL},
	[NP_FAULT_DUPLICATE] = {ERRCODE_UNIQUE_VIOLATION, NULL},
	[NP_FAULT_CONFLICT] = {ERRCODE_T_R_SERIALIZATION_FAILURE,
	"Read the stream again, and retry the transaction."},
	[NP_FAULT_STREAM_FULL] = {ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
	"Raise the limits of the stream, or let it discard old messages."},
	[NP_FAULT_RESOURCES] = {ERRCODE_INSUFFICIENT_RESOURCES, NULL},
	[NP_FAULT_LOST] = {ERRCODE_SYSTEM_ERROR, NULL},
	[NP_FAULT_UNANSWERED] = {ERRCODE_SYSTEM_ERROR, NULL},
	[NP_FAULT_UNKNOWN] = {ERRCODE_IO_ERROR, NULL},
	[NP_FAULT_WINDOW_FULL] = {ERRCODE_INSUFFICIENT_RESOURCES,
	"Raise nats_publish.max_pending or nats_publish.max_pending_bytes, or set nats_publish.on_full to wait."},
	[NP_FAULT_JETSTREAM] = {ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, NULL},
};

/* The fault of each JetStream error code that we know (nats-server's errors.json). */
typedef struct ServerError
{
	int			error_code;
	NpFault		fault;
	const char *hint;			/* NULL: the fault's own */
} ServerError;

static const ServerError server_errors[] = {
	{10111, NP_FAULT_FEATURE, "Set allow_rollup_hdrs for the stream."}, /* rollup not permitted */
	{10168, NP_FAULT_FEATURE, "Create the stream with allow_msg_counter."}, /* message counters is disabled */
	{10169, NP_FAULT_INPUT, "The stream holds counters: publish to it with increment."},	/* message counter
																							 * increment is missing */
	{10170, NP_FAULT_INPUT, NULL},	/* message counter has payload */
	{10171, NP_FAULT_INPUT, NULL},	/* message counter increment is invalid */
	{10188, NP_FAULT_FEATURE, "Set allow_msg_schedules for the stream, or publish with nats_publish_outbox()."},	/* message schedules is
																													 * disabled */
	{10189, NP_FAULT_INPUT, NULL},	/* message schedules pattern is invalid */
	{10190, NP_FAULT_INPUT, "A message can wait only in the stream that takes its subject."},	/* message schedules
																								 * target is invalid */
	{10191, NP_FAULT_INPUT, NULL},	/* message schedules invalid per-message TTL */
	{10192, NP_FAULT_INPUT, NULL},	/* message schedules invalid rollup */
	{10203, NP_FAULT_INPUT, NULL},	/* message schedules source is invalid */
	{10212, NP_FAULT_INPUT, NULL},	/* message schedules invalid scheduler */
	{10223, NP_FAULT_INPUT, NULL},	/* message schedules time zone is invalid */
	{10193, NP_FAULT_INPUT, NULL},	/* missing sequence for expected last sequence per subject */
	{10054, NP_FAULT_SIZE, NULL},	/* message size exceeds maximum allowed */
	{10097, NP_FAULT_SIZE, NULL},	/* header size exceeds maximum allowed of 64k */
	{10166, NP_FAULT_FEATURE, NULL},	/* per-message TTL is disabled */
	{10165, NP_FAULT_INPUT, NULL},	/* invalid per-message TTL */
	{10039, NP_FAULT_NO_JETSTREAM, NP_HINT_ACCOUNT},	/* JetStream not enabled for account */
	{10076, NP_FAULT_NO_JETSTREAM, NP_HINT_STOPPED},	/* JetStream not enabled */
	{10052, NP_FAULT_INPUT, NULL},	/* invalid stream configuration */
	{10058, NP_FAULT_JETSTREAM, NULL},	/* stream name already in use */
	{10059, NP_FAULT_NO_STREAM, NULL},	/* stream not found */
	{10037, NP_FAULT_NO_STREAM, NULL},	/* no message found */
	{10043, NP_FAULT_NO_STREAM, NULL},	/* sequence not found */
	{10060, NP_FAULT_CONFLICT, "Another stream takes this subject."},	/* expected stream does not match */
	{10070, NP_FAULT_CONFLICT, NULL},	/* wrong last msg ID */
	{10071, NP_FAULT_CONFLICT, NULL},	/* wrong last sequence: N */
	{10164, NP_FAULT_CONFLICT, NULL},	/* wrong last sequence */
	{10077, NP_FAULT_STREAM_FULL, NULL},	/* maximum messages, bytes, ... exceeded */
	{10002, NP_FAULT_RESOURCES, NULL},	/* resource limits exceeded for account */
	{10023, NP_FAULT_RESOURCES, NULL},	/* insufficient resources */
	{10028, NP_FAULT_RESOURCES, NULL},	/* maximum storage/memory of the account */
	{10047, NP_FAULT_RESOURCES, NULL},	/* insufficient storage resources available */
	{10120, NP_FAULT_RESOURCES, NULL},	/* resource limits exceeded for the tier */
	{10167, NP_FAULT_RESOURCES, NULL},	/* too many requests */
	{10158, NP_FAULT_UNKNOWN, NULL},	/* duplicate message id is in process */
	{10174, NP_FAULT_FEATURE, NULL},	/* atomic publish is disabled */
	{10177, NP_FAULT_FEATURE, NULL},	/* atomic publish unsupported header */
	{10185, NP_FAULT_FEATURE, NULL},	/* JetStream minimum api level required */
	{10198, NP_FAULT_FEATURE, NULL},	/* stream mirrors can not do atomic publish */
	{10199, NP_FAULT_SIZE, NULL},	/* atomic publish batch is too large */
	{10201, NP_FAULT_DUPLICATE, NULL},	/* atomic publish batch contains duplicate message id */
	{10210, NP_FAULT_RESOURCES, NULL},	/* atomic publish too many inflight of the stream */
	{10211, NP_FAULT_RESOURCES, NULL},	/* and of the server */
};

/* palloc'd */
static char *
pg_attribute_printf(1, 0)
format_text(const char *format, va_list arguments)
{
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		copy;
		int			needed;

		va_copy(copy, arguments);
		needed = appendStringInfoVA(&text, format, copy);
		va_end(copy);
		if (needed == 0)
			return text.data;
		enlargeStringInfo(&text, needed);
	}
}

/*
 * A failure with a formatted text, palloc'd in the current context.
 */
NpFailure
np_failure(NpFault fault, const char *format, ...)
{
	NpFailure	failure = {.fault = fault};
	va_list		arguments;

	va_start(arguments, format);
	failure.text = format_text(format, arguments);
	va_end(arguments);
	return failure;
}

/*
 * The failure that JetStream reports: HTTP-like code, error code, description
 * (in the database's encoding; what is too long of it is cut off).
 */
NpFailure
np_failure_from_server(int code, int error_code, const char *description)
{
	NpFailure	failure = {.fault = NP_FAULT_JETSTREAM};

	for (int i = 0; i < lengthof(server_errors); i++)
	{
		if (server_errors[i].error_code != error_code)
			continue;
		failure.fault = server_errors[i].fault;
		failure.hint = server_errors[i].hint;
	}
	/* API requests about things that do not exist, whatever they are */
	if (failure.fault == NP_FAULT_JETSTREAM && code == 404)
		failure.fault = NP_FAULT_NO_STREAM;

	/* each message can have one */
	failure.text = psprintf("%.*s (JetStream error %d)",
							pg_mbcliplen(description, strlen(description), MAX_QUOTED_TEXT), description, error_code);
	return failure;
}

static const char *
copy_text(const char *text, MemoryContext context)
{
	return text == NULL ? NULL : MemoryContextStrdup(context, text);
}

NpFailure
np_failure_copy(const NpFailure *failure, MemoryContext context)
{
	NpFailure	copy = {.fault = failure->fault};

	copy.text = copy_text(failure->text, context);
	copy.detail = copy_text(failure->detail, context);
	copy.hint = copy_text(failure->hint, context);
	return copy;
}

/* Free the texts of a copy. */
void
np_failure_free(NpFailure *failure)
{
	if (failure->text != NULL)
		pfree(unconstify(char *, failure->text));
	if (failure->detail != NULL)
		pfree(unconstify(char *, failure->detail));
	if (failure->hint != NULL)
		pfree(unconstify(char *, failure->hint));
	memset(failure, 0, sizeof(*failure));
}

/* The five characters; valid until the next call. */
const char *
np_failure_sqlstate(const NpFailure *failure)
{
	return unpack_sql_state(fault_kinds[failure->fault].sqlstate);
}

static const char *
hint_of(const NpFailure *failure)
{
	const char *hint = failure->hint != NULL ? failure->hint : fault_kinds[failure->fault].hint;

	return hint != NULL && hint[0] != '\0' ? hint : NULL;
}

static int
errhint_of(const NpFailure *failure)
{
	const char *hint = hint_of(failure);

	return hint != NULL ? errhint("%s", hint) : 0;
}

/* Raise a failure whose text is the whole message. */
void
np_raise(const NpFailure *failure)
{
	ereport(ERROR,
			(errcode(fault_kinds[failure->fault].sqlstate),
			 errmsg("%s", failure->text),
			 failure->detail != NULL ? errdetail("%s", failure->detail) : 0,
			 errhint_of(failure)));
}

/* The same, of a fault and what there is to say; hint NULL: the fault's own. */
void
np_raise_fault(NpFault fault, const char *hint, const char *text)
{
	NpFailure	failure = {.fault = fault,.text = text,.hint = hint};

	np_raise(&failure);
}

/* Raise 22023. */
void
np_raise_input(const char *format, ...)
{
	va_list		arguments;
	char	   *text;

	va_start(arguments, format);
	text = format_text(format, arguments);
	va_end(arguments);
	/* the input may be as long as it likes */
	text[pg_mbcliplen(text, strlen(text), MAX_QUOTED_TEXT)] = '\0';
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", text)));
}

static void
raise_message(const NpFailure *failure, const char *subject, const char *detail)
{
	ereport(ERROR,
			(errcode(fault_kinds[failure->fault].sqlstate),
			 errmsg("could not publish to \"%s\": %s", subject, failure->text),
			 detail != NULL ? errdetail("%s", detail) : 0,
			 errhint_of(failure)));
}

/* Raise the failure of the message that the caller has just published or awaited. */
void
np_raise_message(const NpFailure *failure, const char *subject)
{
	raise_message(failure, subject, failure->detail);
	pg_unreachable();
}

/* What a failed COMMIT leaves with JetStream; NULL: nothing. */
char *
np_describe_transaction(const NpTransactionReport *report)
{
	if (report->acked == 0 && report->unsent == 0)
		return NULL;
	return psprintf("Of the transaction's messages: " INT64_FORMAT " stored, " INT64_FORMAT
					" failed, " INT64_FORMAT " not sent.",
					report->acked, report->failed, report->unsent);
}

/* That of the first message; NULL: none, or it says of an id what does not hold for all of them. */
static const char *
common_hint(const NpTransactionReport *report)
{
	const NpFailure *first = &report->list[0].failure;
	const char *hint = hint_of(first);

	for (int i = 1; i < report->listed && hint != NULL && first->fault == NP_FAULT_UNKNOWN; i++)
	{
		const char *other = hint_of(&report->list[i].failure);

		if (report->list[i].failure.fault == NP_FAULT_UNKNOWN && (other == NULL || strcmp(hint, other) != 0))
			return NULL;
	}
	return hint;
}

/*
 * Raise what makes a COMMIT (or nats_flush) fail.
 */
void
np_raise_transaction(const NpTransactionReport *report)
{
	const NpFailure *first = &report->list[0].failure;
	const char *hint = common_hint(report);
	char	   *others = np_describe_transaction(report);
	StringInfoData detail;

	initStringInfo(&detail);
	if (report->failed == 1)
	{
		appendStringInfoString(&detail, first->detail != NULL ? first->detail : "");
		if (others != NULL)
			appendStringInfo(&detail, "%s%s", detail.len > 0 ? "\n" : "", others);
		raise_message(first, report->list[0].subject, detail.len > 0 ? detail.data : NULL);
	}

	for (int i = 0; i < report->listed; i++)
		appendStringInfo(&detail, "%s\"%s\": %s.", i > 0 ? "\n" : "",
						 report->list[i].subject, report->list[i].failure.text);
	if (report->failed > report->listed)
		appendStringInfo(&detail, "\nAnd " INT64_FORMAT " more.", report->failed - report->listed);
	if (others != NULL)
		appendStringInfo(&detail, "\n%s", others);
	ereport(ERROR,
			(errcode(fault_kinds[first->fault].sqlstate),
			 errmsg("could not publish " INT64_FORMAT " messages of this transaction: %s",
					report->failed, first->text),
			 errdetail("%s", detail.data),
			 hint != NULL ? errhint("%s", hint) : 0));
}

/*
 * Report messages published with critical => false that failed.
 */
void
np_warn_messages(int elevel, const NpFailedMessage *first, int64 count)
{
	ereport(elevel,
			(errcode(fault_kinds[first->failure.fault].sqlstate),
			 count == 1 ?
			 errmsg("could not publish to \"%s\": %s", first->subject, first->failure.text) :
			 errmsg("could not publish " INT64_FORMAT " messages, the first to \"%s\": %s",
					count, first->subject, first->failure.text),
			 errdetail("%s%s%s", first->failure.detail != NULL ? first->failure.detail : "",
					   first->failure.detail != NULL ? "\n" : "",
					   count == 1 ? "It was published with critical => false, so no transaction fails." :
					   "They were published with critical => false, so no transaction fails."),
			 errhint_of(&first->failure)));
}
