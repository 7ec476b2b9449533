/*-------------------------------------------------------------------------
 *
 * server_info.c
 *	  What the connected server says of itself.
 *
 * A server greets each connection with an INFO in which are its version and
 * its features.  libnats keeps it to itself, so when it is asked for we greet
 * the server once more: a second connection to the same address, of which
 * only the first line is read.  Nothing on the publishing path needs it.
 *
 * That line comes before TLS, but with tls_handshake_first: what comes before TLS
 * is hearsay, and never counts against what the server has said in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "base/catch.h"
#include "base/encoding.h"
#include "base/json.h"
#include "base/settings.h"
#include "message/protocol.h"
#include "wire/server_info.h"

/* Behind an address can be several servers; that often we look for ours. */
#define MAX_GREETINGS	8

/* No server has more to say. */
#define MAX_GREETING	(1024 * 1024)

typedef struct Greeting
{
	int			socket;
	NpWaitSet  *wait_set;
	NpTls	   *tls;			/* NULL: the greeting comes without */
	bool		counted;		/* by fd.c */
} Greeting;

static void
end_greeting(Greeting *greeting)
{
	if (greeting->tls != NULL)
		np_tls_free(greeting->tls);
	if (greeting->wait_set != NULL)
		np_wait_set_free(greeting->wait_set);
	if (greeting->socket >= 0)
		close(greeting->socket);
	if (greeting->counted)
		ReleaseExternalFD();
}

NP_NORETURN static void
raise_unanswered(const char *reason)
{
	NpFailure	failure = np_failure(NP_FAULT_UNREACHABLE, "could not ask the NATS server for its features");

	failure.detail = reason;
	np_raise(&failure);
}

/* Begin to connect to the peer of the connection. */
static void
begin_greeting(Greeting *greeting, NpConnection *connection)
{
	struct sockaddr_storage address;
	socklen_t	length = sizeof(address);

	if (getpeername(np_wire_socket(np_connection_wire(connection)), (struct sockaddr *) &address, &length) != 0)
		raise_unanswered(psprintf("The connection is lost: %m."));
	greeting->counted = AcquireExternalFD();
	if (!greeting->counted)
		raise_unanswered("There are too many open files in this backend.");
	greeting->socket = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (greeting->socket < 0 ||
		(connect(greeting->socket, (struct sockaddr *) &address, length) != 0 && errno != EINPROGRESS))
		raise_unanswered(psprintf("Connecting to it failed: %m."));
	greeting->wait_set = np_wait_set_create(greeting->socket);
	if (!np_connection_begins_with_tls(connection))
		return;
	greeting->tls = np_tls_like(np_wire_tls(np_connection_wire(connection)), greeting->socket);
	if (greeting->tls == NULL)
		raise_unanswered("There is no memory for another TLS connection.");
}

/* As recv; with TLS its handshake comes first. */
static ssize_t
receive(Greeting *greeting, char *buffer, size_t length)
{
	if (greeting->tls != NULL)
		return np_tls_read(greeting->tls, buffer, length);
	return recv(greeting->socket, buffer, length, 0);
}

/* Read until the INFO line is complete; returns its JSON. */
static char *
read_greeting(Greeting *greeting, NpTime deadline)
{
	StringInfoData input;
	int			awaited = greeting->tls != NULL ? NP_WRITEABLE : NP_READABLE;	/* in TLS we speak first */

	initStringInfo(&input);
	while (np_now() < deadline)
	{
		NpOperation operation;
		size_t		consumed;
		size_t		needed;
		ssize_t		count;

		if (np_wait(greeting->wait_set, NP_WAIT_CONNECT, awaited, deadline) == 0)
			continue;
		awaited = NP_READABLE;
		enlargeStringInfo(&input, 8192);
		count = receive(greeting, input.data + input.len, 8192);
		if (count < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (count <= 0)
			raise_unanswered("It closed the connection.");
		input.len += count;
		if (input.len > MAX_GREETING)
			raise_unanswered("It does not greet with INFO.");
		switch (np_operation_parse(input.data, input.len, &operation, &consumed, &needed))
		{
			case NP_PARSED:
				if (operation.kind == NP_OP_INFO)
					return pnstrdup(operation.text.data, operation.text.length);
				raise_unanswered("It does not greet with INFO.");
				break;
			case NP_PARSE_INCOMPLETE:
				break;
			default:
				raise_unanswered("It does not speak the NATS protocol.");
		}
	}
	raise_unanswered("It does not answer in time.");
	return NULL;				/* keep compiler quiet */
}

static char *
greet(NpConnection *connection, NpTime deadline)
{
	Greeting	greeting = {.socket = -1};
	Greeting   *volatile open = &greeting;
	char	   *volatile json = NULL;

	PG_TRY();
	{
		begin_greeting(open, connection);
		json = read_greeting(open, deadline);
	}
	PG_FINALLY();
	{
		end_greeting(open);
	}
	PG_END_TRY();
	return json;
}

/* Do we know better than what a greeting says? */
static bool
is_known_from_tls(NpConnection *connection)
{
	return np_connection_identity(connection).tls && !np_connection_begins_with_tls(connection) &&
		!np_connection_is_hearsay(connection);
}

static void
record_name(NpConnection *connection, Jsonb *info)
{
	char	   *name = np_json_text(info, "server_name");

	if (name == NULL || is_known_from_tls(connection))
		return;
	name = np_to_utf8_somehow(name);
	np_connection_set_server_name(connection, (NpSpan) {name, strlen(name)});
}

/* np_server_info, which has until the deadline. */
static Jsonb *
info_until(NpConnection *connection, NpTime deadline)
{
	const char *server_id = np_connection_identity(connection).server_id;

	for (int i = 0; i < MAX_GREETINGS; i++)
	{
		char	   *json = greet(connection, deadline);
		Jsonb	   *info = np_json_parse((NpSpan) {json, strlen(json)});
		char	   *id;

		if (info == NULL || !JB_ROOT_IS_OBJECT(info))
			raise_unanswered("It greets with something other than a JSON object.");
		id = np_json_text(info, "server_id");
		if (id != NULL && strcmp(id, server_id) == 0)
		{
			record_name(connection, info);
			return info;
		}
	}
	raise_unanswered("Other servers answer at its address.");
	return NULL;				/* keep compiler quiet */
}

/*
 * The INFO of the connected server, palloc'd.
 *
 * Raises 58000 when it can't be had within connect_timeout.
 */
Jsonb *
np_server_info(NpConnection *connection)
{
	return info_until(connection, np_now() + NP_MILLISECONDS(np_connect_timeout));
}

/*
 * Ask for the version.  Servers before 2.12 tell it before TLS only; later
 * ones in TLS, too, and then nobody asks: if that is what it says to be, it is another one.
 */
static void
ask_version(NpConnection *connection)
{
	NpServerVersion *known = np_connection_version(connection);
	char	   *version = np_json_text(np_server_info(connection), "version");
	NpServerVersion said;

	if (version == NULL || sscanf(version, "%d.%d", &said.major, &said.minor) != 2)
		raise_unanswered("It does not tell its version.");
	if (np_connection_is_hearsay(connection) && (said.major > 2 || said.minor >= 12))
		raise_unanswered("It tells a version before TLS begins, but not inside TLS.");
	said.is_known = true;
	*known = said;
}

/*
 * Is the connected server of at least this version?  Asks it once; raises
 * 58000 when it does not say.
 */
bool
np_server_is_at_least(NpConnection *connection, int major, int minor)
{
	NpServerVersion *known = np_connection_version(connection);

	if (!known->is_known)
		ask_version(connection);
	return known->major > major || (known->major == major && known->minor >= minor);
}

/*
 * Raise 0A000, with a hint or NULL, when the connected server is older than a
 * version.
 *
 * Older servers ignore what they do not know and store the message without
 * it, so this comes before sending.
 */
void
np_server_require(NpConnection *connection, int major, int minor, const char *feature, const char *hint)
{
	NpFailure	failure;

	if (np_server_is_at_least(connection, major, minor))
		return;
	failure = np_failure(NP_FAULT_FEATURE,
						 "%s needs nats-server %d.%d, the connected one is %d.%d",
						 feature, major, minor, np_connection_version(connection)->major,
						 np_connection_version(connection)->minor);
	failure.hint = hint;
	np_raise(&failure);
}

/* ---- Without an error ------------------------------------------------------------ */

/* What is asked for, of whom, and until when. */
typedef struct InfoRequest
{
	NpConnection *connection;
	NpTime		deadline;
	Jsonb	   *info;
} InfoRequest;

static bool
is_unanswered(int sqlstate)
{
	return sqlstate == ERRCODE_SYSTEM_ERROR;
}

static void
learn_version(void *connection)
{
	(void) np_server_is_at_least(connection, 0, 0);
}

/* Know the version of the connected server.  False: *failure says why not (palloc'd). */
bool
np_server_learn_version(NpConnection *connection, NpFailure *failure)
{
	const ErrorData *error = np_catch(learn_version, connection, is_unanswered);

	if (error == NULL)
		return true;
	*failure = np_failure(NP_FAULT_UNREACHABLE, "%s", error->message);
	failure->detail = error->detail;
	return false;
}

static void
take_info(void *argument)
{
	InfoRequest *request = argument;

	request->info = info_until(request->connection, request->deadline);
}

/* The INFO of the connected server, palloc'd.  NULL: it can't be had until then. */
Jsonb *
np_server_try_info(NpConnection *connection, NpTime deadline)
{
	InfoRequest request = {.connection = connection,.deadline = deadline};

	(void) np_catch(take_info, &request, is_unanswered);
	return request.info;
}

/*
 * Ask for max_payload again: a server that was reloaded does not notify its
 * clients.  What can't be had within connect_timeout remains what it was.
 *
 * Before TLS somebody else can have said it.  What it was lowered to is not
 * believed then; a server ends the connection for what is over its limit.
 */
void
np_server_refresh_max_payload(NpConnection *connection)
{
	Jsonb	   *info = np_server_try_info(connection, np_now() + NP_MILLISECONDS(np_connect_timeout));
	int64		limit = info == NULL ? 0 : np_json_int64(info, "max_payload", 0);

	if (limit > (is_known_from_tls(connection) ? np_connection_max_payload(connection) : 0))
		np_connection_set_max_payload(connection, Min(limit, PG_INT32_MAX));
}
