/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  libnats: connecting to a server, and nothing else.
 *
 * The library connects, makes TLS, and authenticates.  It does so in a
 * helper thread, because natsConnection_Connect blocks: it ignores a cancel
 * in every version, and its own timeout in 3.4.1 when a server sends INFO and
 * then nothing (nats.c #706).  The backend waits for the thread on a pipe and
 * can leave it behind at any time.
 *
 * The connection is made in the library's event-loop mode, in which it
 * touches the socket only when told to: no thread of it reads or writes, and
 * once connected we don't tell it to.  The traffic is protocol.c's.  The
 * library has read nothing beyond the PONG that ends its handshake (it reads
 * that line byte by byte, conn.c _readProto), so both sides agree on where
 * the stream starts.
 *
 * Signals: PostgreSQL's handlers must not run on a foreign thread, and the
 * library takes EINTR for a lost connection.  All signals are blocked around
 * every call that creates a thread or does I/O; threads inherit that.
 *
 * This file knows nothing of PostgreSQL: its code runs in threads in which no
 * backend function may be called, and the compiler sees to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "wire.h"

#include <nats/nats.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "compat.h"
#include "credentials.h"
#include "tls.h"

/* Threads of the library do little; 8 MB of stack each is a waste of address space. */
#define THREAD_STACK_SIZE	(256 * 1024)

/* Only the handshake goes through the library's buffers. */
#define IO_BUFFER_SIZE		(16 * 1024)

/* How long an attempt that is given up is looked after. */
#define ABANDON_MS			50

/* How long a process that exits waits for helper threads at most. */
#define EXIT_MS				5000

struct NpWire
{
	natsConnection *nc;
	natsSock	socket;
	bool		detached;		/* the library has let go of the socket */
	NpTls	   *tls;			/* the library's; NULL: no TLS */
	char		server_id[128];
	char		server_name[128];	/* its id with a library that does not tell */
	char	   *client_ip;		/* from the library's malloc; NULL: not told */
};

/*
 * Shared between the backend and its helper thread, under lock.  Whoever
 * comes last frees it: the backend when the thread has ended, the thread when
 * the backend has left it behind.
 */
struct NpWireAttempt
{
	pthread_mutex_t lock;
	pthread_cond_t ended_condition;
	NpWireTarget target;
	bool		lost_signature; /* the library could not send it */
	bool		in_library;		/* the thread, since it has the addresses */
	int			pipe[2];		/* the thread closes [1] when it ends */
	bool		ended;
	bool		abandoned;		/* the thread begins nothing new */
	bool		left_behind;	/* the thread frees it */
	NpWire	   *wire;			/* the result, when status is NATS_OK */
	natsStatus	status;
	NpWireStatus failure;		/* when it is not */
	char		error[256];
	ino_t	   *sockets_before; /* those that the process had at the start */
	size_t		socket_count;
};

/* The attempt that is neither finished nor abandoned; there is one at a time. */
static NpWireAttempt *unfinished;

/* The threads that are in the library; under lock. */
static struct
{
	pthread_mutex_t lock;
	int			count;
	bool		closed;			/* nobody enters any more */
}			library_threads = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void
block_signals(sigset_t *previous)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, previous);
}

static void
restore_signals(const sigset_t *previous)
{
	pthread_sigmask(SIG_SETMASK, previous, NULL);
}

/* ---- The end of the process -------------------------------------------- */

/*
 * At exit OpenSSL frees what all threads share: one that is loading
 * certificates or in a handshake then would crash, and the whole server with
 * it.  So a helper thread says when it is in the library, and exit() waits
 * until none is.
 */
static bool
enter_library(void)
{
	bool		closed;

	pthread_mutex_lock(&library_threads.lock);
	closed = library_threads.closed;
	if (!closed)
		library_threads.count++;
	pthread_mutex_unlock(&library_threads.lock);
	return !closed;
}

static void
leave_library(void)
{
	/* now, instead of when the thread has ended */
	nats_ReleaseThreadMemory();
	np_tls_end_thread();
	pthread_mutex_lock(&library_threads.lock);
	library_threads.count--;
	pthread_mutex_unlock(&library_threads.lock);
}

/*
 * Handler of atexit.  A thread that is left behind ends within milliseconds,
 * or is resolving a name and will not enter.
 */
static void
wait_for_threads(void)
{
	struct timespec millisecond = {0, 1000000};
	int			count = 1;

	if (unfinished != NULL)
		np_wire_abandon(unfinished);
	for (int i = 0; i < EXIT_MS && count > 0; i++)
	{
		pthread_mutex_lock(&library_threads.lock);
		library_threads.closed = true;
		count = library_threads.count;
		pthread_mutex_unlock(&library_threads.lock);
		if (count > 0)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &millisecond, NULL);
	}
}

/*
 * Open the library, once per process.  Never in the postmaster: its threads
 * would not survive the fork (connection.c is only reached from SQL).
 */
static natsStatus
open_library(void)
{
	static bool opened = false;
	natsStatus	status;

	if (opened)
		return NATS_OK;
#ifdef __GLIBC__
	{
		pthread_attr_t saved;
		pthread_attr_t small;

		pthread_getattr_default_np(&saved);
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, THREAD_STACK_SIZE);
		pthread_setattr_default_np(&small);
		status = nats_Open(0);	/* 0: no spinning on locks */
		pthread_setattr_default_np(&saved);
		pthread_attr_destroy(&small);
		pthread_attr_destroy(&saved);
	}
#else
	status = nats_Open(0);
#endif
	opened = status == NATS_OK;
	/* after OpenSSL, which the library has opened: so it runs before OpenSSL's */
	if (opened)
		atexit(wait_for_threads);
	return status;
}

/* ---- The library's event loop: it only tells us the socket ------------- */

static natsStatus
on_attach(void **user_data, void *loop, natsConnection *nc, natsSock socket)
{
	NpWire	   *wire = loop;

	(void) nc;
	wire->socket = socket;
	*user_data = wire;
	return NATS_OK;
}

static natsStatus
on_read(void *user_data, bool add)
{
	NpWire	   *wire = user_data;

	if (!add)
		np_compat_close_socket(&wire->socket);
	return NATS_OK;
}

static natsStatus
on_write(void *user_data, bool add)
{
	(void) user_data;
	(void) add;
	return NATS_OK;
}

static natsStatus
on_detach(void *user_data)
{
	((NpWire *) user_data)->detached = true;
	return NATS_OK;
}

/* Newer libraries print to stderr when there is no handler. */
static void
on_error(natsConnection *nc, natsSubscription *sub, natsStatus status, void *closure)
{
	(void) nc;
	(void) sub;
	(void) status;
	(void) closure;
}

/*
 * Copy a credential as the inside of a JSON string: the library puts it into
 * its CONNECT as it is.
 */
static void
escape_credential(const char *credential, char *escaped)
{
	for (; *credential != '\0'; credential++)
	{
		unsigned char byte = (unsigned char) *credential;

		if (byte == '"' || byte == '\\')
			*escaped++ = '\\';
		if (byte < ' ')
			escaped += snprintf(escaped, 7, "\\u%04x", byte);
		else
			*escaped++ = (char) byte;
	}
	*escaped = '\0';
}

static natsStatus
set_user(natsOptions *options, const NpWireTarget *target)
{
	char		user[6 * sizeof(target->user) + 1];
	char		password[6 * sizeof(target->password) + 1];
	natsStatus	status;

	escape_credential(target->user, user);
	escape_credential(target->password, password);
	status = natsOptions_SetUserInfo(options, user, password);
	explicit_bzero(user, sizeof(user));
	explicit_bzero(password, sizeof(password));
	return status;
}

static natsStatus
set_token(natsOptions *options, const NpWireTarget *target)
{
	char		token[6 * sizeof(target->token) + 1];
	natsStatus	status;

	escape_credential(target->token, token);
	status = natsOptions_SetToken(options, token);
	explicit_bzero(token, sizeof(token));
	return status;
}

/* natsUserJWTHandler: the library frees the copy. */
static natsStatus
give_jwt(char **jwt, char **error, void *closure)
{
	const NpWireAttempt *attempt = closure;

	(void) error;
	*jwt = strdup(attempt->target.jwt);
	return *jwt != NULL ? NATS_OK : NATS_NO_MEMORY;
}

/*
 * natsSignatureHandler: the library frees the signature.
 *
 * Without a nonce the server looks at no signature, but the library needs one.
 * libnats 3.4.1 takes a signature that begins with a zero byte for none at
 * all (its base64 encoder looks for the end of a string), and the server
 * refuses the user: such a one is for the caller to try again.
 */
static natsStatus
sign(char **error, unsigned char **signature, int *length, const char *nonce, void *closure)
{
	NpWireAttempt *attempt = closure;
	natsStatus	status;

	(void) error;
	status = nats_Sign(attempt->target.seed, nonce == NULL || nonce[0] == '\0' ? "-" : nonce, signature, length);
	attempt->lost_signature = status == NATS_OK && (*signature)[0] == 0;
	return status;
}

static natsStatus
set_nkey(natsOptions *options, NpWireAttempt *attempt)
{
	const char *seed = attempt->target.seed;
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	if (!np_nkey_public((NpSpan) {seed, strlen(seed)}, public_key))
		return NATS_INVALID_ARG;
	return natsOptions_SetNKey(options, public_key, sign, attempt);
}

static natsStatus
set_credentials(natsOptions *options, NpWireAttempt *attempt)
{
	const NpWireTarget *target = &attempt->target;

	if (target->jwt[0] != '\0')
		return natsOptions_SetUserCredentialsCallbacks(options, give_jwt, attempt, sign, attempt);
	if (target->seed[0] != '\0')
		return set_nkey(options, attempt);
	if (target->token[0] != '\0')
		return set_token(options, target);
	if (target->user[0] != '\0')
		return set_user(options, target);
	return NATS_OK;
}

/* What the library says of a status that it has just returned. */
static void
describe_failure(natsStatus status, char *error, size_t error_size)
{
	natsStatus	last = NATS_OK;
	const char *text = nats_GetLastError(&last);
	const char *behind;

	/* it keeps the text of older errors, and puts its own source line before it */
	if (last != status || text == NULL)
		text = natsStatus_GetText(status);
	behind = text[0] == '(' ? strstr(text, "): ") : NULL;
	snprintf(error, error_size, "%s", behind != NULL ? behind + 3 : text);
}

/*
 * Demand TLS, with the server's name verified.  On a failure why is in error:
 * the library's text would name the files.
 */
static natsStatus
set_tls(natsOptions *options, const NpWireTarget *target, NpTlsCapture *capture,
		char *error, size_t error_size)
{
	char		reason[200];
	natsStatus	status;

	if (target->tls_handshake_first && !NP_COMPAT_HAS_HANDSHAKE_FIRST)
	{
		snprintf(error, error_size, "tls_handshake_first needs libnats 3.9, this is %s", nats_GetVersion());
		return NATS_NO_SERVER_SUPPORT;
	}
	if ((status = natsOptions_SetSecure(options, true)) != NATS_OK ||
		(status = natsOptions_SetExpectedHostname(options, target->tls_name)) != NATS_OK ||
		(target->tls_handshake_first && (status = np_compat_handshake_first(options)) != NATS_OK))
	{
		describe_failure(status, error, error_size);
		return status;
	}
	if (capture->context == NULL)
	{
		snprintf(error, error_size, "libnats uses another OpenSSL than nats_publish");
		return NATS_SSL_ERROR;
	}
	np_tls_announce_host(capture);
	if (target->tls_ca_file[0] != '\0' &&
		!np_tls_trust_only(capture, target->tls_ca_file, reason, sizeof(reason)))
	{
		snprintf(error, error_size, "could not load tls_ca_file: %s", reason);
		return NATS_SSL_ERROR;
	}
	if (target->tls_cert_file[0] != '\0' &&
		natsOptions_LoadCertificatesChain(options, target->tls_cert_file, target->tls_key_file) != NATS_OK)
	{
		snprintf(error, error_size, "could not load tls_cert_file and tls_key_file: they can't be read, or do not belong together");
		return NATS_SSL_ERROR;
	}
	return NATS_OK;
}

/* Options to connect to one address, given in figures, within a time. */
static natsStatus
set_options(natsOptions *options, NpWireAttempt *attempt, const char *address, int timeout_ms)
{
	const NpWireTarget *target = &attempt->target;
	char		url[NI_MAXHOST + 32];
	natsStatus	status;

	snprintf(url, sizeof(url), strchr(address, ':') ? "nats://[%s]:%d" : "nats://%s:%d",
			 address, target->port);
	if ((status = natsOptions_SetURL(options, url)) != NATS_OK ||
		(status = natsOptions_SetTimeout(options, timeout_ms)) != NATS_OK ||
		(status = natsOptions_SetName(options, target->client_name)) != NATS_OK ||
		(status = natsOptions_SetIOBufSize(options, IO_BUFFER_SIZE)) != NATS_OK ||
		(status = natsOptions_SetAllowReconnect(options, false)) != NATS_OK ||
		(status = natsOptions_SetErrorHandler(options, on_error, NULL)) != NATS_OK ||
	/* no flusher thread and no timer on the connection */
		(status = natsOptions_SetSendAsap(options, true)) != NATS_OK ||
		(status = natsOptions_SetPingInterval(options, 0)) != NATS_OK ||
		(status = natsOptions_SetEventLoop(options, attempt->wire, on_attach, on_read, on_write, on_detach)) != NATS_OK)
		return status;
	return set_credentials(options, attempt);
}

/* ---- The sockets of this process --------------------------------------- */

/*
 * Call visit for each socket that the process has open.
 *
 * The library does not tell the socket of a connection before it is made, so
 * the only way to end a connect that hangs is to find the one that appeared.
 */
static void
visit_sockets(void (*visit) (int fd, ino_t inode, NpWireAttempt *attempt), NpWireAttempt *attempt)
{
	DIR		   *directory = opendir("/dev/fd");
	struct dirent *entry;

	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL)
	{
		int			fd = atoi(entry->d_name);
		struct stat status;

		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' &&
			fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
			visit(fd, status.st_ino, attempt);
	}
	closedir(directory);
}

static void
remember_socket(int fd, ino_t inode, NpWireAttempt *attempt)
{
	ino_t	   *grown = realloc(attempt->sockets_before,
								(attempt->socket_count + 1) * sizeof(ino_t));

	(void) fd;
	if (grown == NULL)
		return;
	attempt->sockets_before = grown;
	attempt->sockets_before[attempt->socket_count++] = inode;
}

static void
shut_down_new_socket(int fd, ino_t inode, NpWireAttempt *attempt)
{
	for (size_t i = 0; i < attempt->socket_count; i++)
		if (attempt->sockets_before[i] == inode)
			return;
	shutdown(fd, SHUT_RDWR);
}

/* ---- Connecting -------------------------------------------------------- */

static void
free_attempt(NpWireAttempt *attempt)
{
	pthread_cond_destroy(&attempt->ended_condition);
	pthread_mutex_destroy(&attempt->lock);
	if (attempt->pipe[0] >= 0)
		close(attempt->pipe[0]);
	if (attempt->pipe[1] >= 0)
		close(attempt->pipe[1]);
	free(attempt->sockets_before);
	explicit_bzero(&attempt->target, sizeof(attempt->target));
	free(attempt);
}

static long
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * May the thread go on?  Asked before each step that can take long, so that
 * an attempt that was abandoned begins nothing new.
 */
static bool
may_go_on(NpWireAttempt *attempt, long deadline)
{
	bool		abandoned;

	pthread_mutex_lock(&attempt->lock);
	abandoned = attempt->abandoned;
	pthread_mutex_unlock(&attempt->lock);
	return !abandoned && now_ms() < deadline;
}

/*
 * The library says "no server available" whatever has happened: find out what
 * it was.  False: nothing that could be found.
 */
static bool
explain_no_server(const struct addrinfo *address, long timeout_ms, char *error, size_t error_size)
{
	struct timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
	int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int			failure = 0;

	/* Linux bounds connect() by it */
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (fd < 0 || connect(fd, address->ai_addr, address->ai_addrlen) != 0)
		failure = errno == EINPROGRESS ? ETIMEDOUT : errno;
	if (fd >= 0)
		close(fd);
	if (failure != 0)
		snprintf(error, error_size, "could not connect: %s", strerror(failure));
	return failure != 0;
}

/* Close a connection that the library has made; the wire is without one then. */
static void
close_connection(NpWire *wire)
{
	shutdown(wire->socket, SHUT_RDWR);
	for (int i = 0; i < 100000 && !wire->detached; i++)
		natsConnection_ProcessReadEvent(wire->nc);
	natsConnection_Destroy(wire->nc);
	if (wire->detached)
		np_compat_detached(wire->nc);
	wire->nc = NULL;
	wire->tls = NULL;
	wire->detached = false;
}

/* What kind of failure a status of the library is. */
static NpWireStatus
kind_of(natsStatus status)
{
	switch (status)
	{
		case NATS_CONNECTION_AUTH_FAILED:
			return NP_WIRE_NOT_AUTHORIZED;
		case NATS_NO_SERVER_SUPPORT:
			return NP_WIRE_NOT_SUPPORTED;
		case NATS_SSL_ERROR:
		case NATS_SECURE_CONNECTION_REQUIRED:
		case NATS_SECURE_CONNECTION_WANTED:
			return NP_WIRE_NO_TLS;
		case NATS_TIMEOUT:
			return NP_WIRE_NO_SERVER;
		default:
			return NP_WIRE_FAILED;
	}
}

/* Why an address could not be connected to, of what kind, and in error if that is still empty. */
static NpWireStatus
explain_failure(NpWireAttempt *attempt, const struct addrinfo *address, long deadline, natsStatus status,
				const NpTlsCapture *capture, char *error, size_t error_size)
{
	if (capture->alert != NULL)
	{
		snprintf(error, error_size, "the server refused the TLS connection: %s", capture->alert);
		return NP_WIRE_NO_TLS;
	}
	if (error[0] != '\0')
		return kind_of(status);
	if (status == NATS_NO_SERVER && may_go_on(attempt, deadline) &&
		explain_no_server(address, deadline - now_ms() + 1, error, error_size))
		return NP_WIRE_NO_SERVER;
	describe_failure(status, error, error_size);
	return status == NATS_NO_SERVER && now_ms() >= deadline ? NP_WIRE_NO_SERVER : kind_of(status);
}

/* Connect to one address as the target says.  *secured: with TLS, wanted or not. */
static natsStatus
try_address(NpWireAttempt *attempt, const struct addrinfo *address, long deadline, bool *secured,
			char *error, size_t error_size)
{
	NpWireTarget *target = &attempt->target;
	NpTlsCapture capture = {0};
	natsOptions *options = NULL;
	char		figures[NI_MAXHOST];
	natsStatus	status = NATS_OK;

	error[0] = '\0';
	if (getnameinfo(address->ai_addr, address->ai_addrlen, figures, sizeof(figures), NULL, 0, NI_NUMERICHOST) != 0 ||
		!np_tls_capture_begin(&capture, target->tls_name))
		status = NATS_NO_MEMORY;
	if (status == NATS_OK)
		status = natsOptions_Create(&options);
	if (status == NATS_OK)
		status = set_options(options, attempt, figures, (int) (deadline - now_ms()) + 1);
	if (status == NATS_OK && target->tls)
		status = set_tls(options, target, &capture, error, error_size);
	/* it takes long to load the system's authorities */
	if (status == NATS_OK && !may_go_on(attempt, deadline))
		status = NATS_TIMEOUT;
	if (status == NATS_OK)
		status = natsConnection_Connect(&attempt->wire->nc, options);
	np_tls_capture_end();
	natsOptions_Destroy(options);

	*secured = capture.context != NULL;
	if (status == NATS_OK)
		attempt->wire->tls = capture.tls;
	else
		attempt->failure = explain_failure(attempt, address, deadline, status, &capture, error, error_size);
	return status;
}

/* The same, until the signature is one that the library can send: each connection has another nonce to sign. */
static natsStatus
try_address_signed(NpWireAttempt *attempt, const struct addrinfo *address, long deadline, bool *secured,
				   char *error, size_t error_size)
{
	for (;;)
	{
		natsStatus	status;

		attempt->lost_signature = false;
		status = try_address(attempt, address, deadline, secured, error, error_size);
		if (status != NATS_CONNECTION_AUTH_FAILED || !attempt->lost_signature || !may_go_on(attempt, deadline))
			return status;
	}
}

/*
 * A server may require TLS of a client that was not told of it.  The library
 * then goes on with TLS, without our name and authorities: so we begin anew.
 */
static natsStatus
connect_to_address(NpWireAttempt *attempt, const struct addrinfo *address, long deadline,
				   char *error, size_t error_size)
{
	bool		secured;
	natsStatus	status = try_address_signed(attempt, address, deadline, &secured, error, error_size);

	if (!secured || attempt->target.tls)
		return status;
	if (status == NATS_OK)
		close_connection(attempt->wire);
	attempt->target.tls = true;
	return try_address_signed(attempt, address, deadline, &secured, error, error_size);
}

/* Try the addresses of the host in their order. */
static natsStatus
connect_to_host(NpWireAttempt *attempt, char *error, size_t error_size)
{
	long		deadline = now_ms() + attempt->target.timeout_ms;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	natsStatus	status = NATS_NO_SERVER;
	char		port[16];
	int			failure;

	snprintf(port, sizeof(port), "%d", attempt->target.port);
	failure = getaddrinfo(attempt->target.host, port, &hints, &addresses);
	if (failure != 0)
	{
		snprintf(error, error_size, "could not resolve the host name: %s", gai_strerror(failure));
		attempt->failure = NP_WIRE_NO_HOST;
		return NATS_NO_SERVER;
	}
	snprintf(error, error_size, "no answer in time");
	attempt->failure = NP_WIRE_NO_SERVER;
	attempt->in_library = enter_library();
	for (struct addrinfo *address = addresses;
		 address != NULL && status != NATS_OK && attempt->in_library && may_go_on(attempt, deadline);
		 address = address->ai_next)
		status = connect_to_address(attempt, address, deadline, error, error_size);
	freeaddrinfo(addresses);
	return status;
}

static void *
connect_in_thread(void *argument)
{
	NpWireAttempt *attempt = argument;
	NpWire	   *wire = attempt->wire;
	char		error[sizeof(attempt->error)] = "";
	natsStatus	status = connect_to_host(attempt, error, sizeof(error));
	bool		in_library = attempt->in_library;
	bool		left_behind;

	pthread_mutex_lock(&attempt->lock);
	attempt->status = status;
	memcpy(attempt->error, error, sizeof(error));
	attempt->ended = true;
	left_behind = attempt->left_behind;
	/* the backend sees end of file, and frees what is here */
	close(attempt->pipe[1]);
	attempt->pipe[1] = -1;
	pthread_cond_signal(&attempt->ended_condition);
	pthread_mutex_unlock(&attempt->lock);

	if (left_behind)
	{
		if (status == NATS_OK)
			np_wire_close(wire);
		else
			free(wire);
		free_attempt(attempt);
	}
	if (in_library)
		leave_library();
	return NULL;
}

static bool
start_thread(NpWireAttempt *attempt)
{
	pthread_attr_t attributes;
	pthread_t	thread;
	bool		started;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK_SIZE);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	started = pthread_create(&thread, &attributes, connect_in_thread, attempt) == 0;
	pthread_attr_destroy(&attributes);
	return started;
}

/*
 * Begin to connect.  Never blocks.
 *
 * Returns the attempt, which must go to np_wire_finish or np_wire_abandon, or
 * NULL with the reason in error.
 */
NpWireAttempt *
np_wire_start(const NpWireTarget *target, char *error, size_t error_size)
{
	NpWireAttempt *attempt = calloc(1, sizeof(*attempt));
	NpWire	   *wire = calloc(1, sizeof(*wire));
	natsStatus	status = NATS_NO_MEMORY;
	sigset_t	previous;

	block_signals(&previous);
	if (attempt != NULL && wire != NULL)
	{
		attempt->wire = wire;
		attempt->target = *target;
		attempt->failure = NP_WIRE_FAILED;
		attempt->pipe[0] = attempt->pipe[1] = -1;
		pthread_mutex_init(&attempt->lock, NULL);
		pthread_cond_init(&attempt->ended_condition, NULL);
		status = open_library();
		if (status == NATS_OK && pipe2(attempt->pipe, O_CLOEXEC) != 0)
			status = NATS_SYS_ERROR;
		if (status == NATS_OK)
		{
			visit_sockets(remember_socket, attempt);
			if (!start_thread(attempt))
				status = NATS_SYS_ERROR;
		}
	}
	restore_signals(&previous);
	if (status == NATS_OK)
	{
		unfinished = attempt;
		return attempt;
	}

	snprintf(error, error_size, "%s", natsStatus_GetText(status));
	free(wire);
	if (wire != NULL && attempt != NULL)
		free_attempt(attempt);
	else
		free(attempt);
	return NULL;
}

/* The descriptor that becomes readable when the attempt has ended. */
int
np_wire_attempt_fd(const NpWireAttempt *attempt)
{
	return attempt->pipe[0];
}

/* Make a connection ready for use.  False: it can't be used, and is closed. */
static bool
take_over(NpWire *wire, char *error, size_t error_size)
{
	natsConnection_GetConnectedServerId(wire->nc, wire->server_id, sizeof(wire->server_id));
	np_compat_server_name(wire->nc, wire->server_name, sizeof(wire->server_name));
	if (natsConnection_GetClientIP(wire->nc, &wire->client_ip) != NATS_OK)
		wire->client_ip = NULL;
	if (wire->tls != NULL)
		np_tls_take_over(wire->tls);
	if (natsConnection_HasHeaderSupport(wire->nc) == NATS_OK)
		return true;
	np_wire_close(wire);
	snprintf(error, error_size, "the server does not support headers");
	return false;
}

/*
 * The result of an attempt that has ended.  Frees the attempt.
 *
 * On NP_WIRE_OK, *wire is the caller's to np_wire_close; else the reason is
 * in error.
 */
NpWireStatus
np_wire_finish(NpWireAttempt *attempt, NpWire **wire, char *error, size_t error_size)
{
	NpWireStatus result;

	unfinished = NULL;
	pthread_mutex_lock(&attempt->lock);
	result = attempt->status == NATS_OK ? NP_WIRE_OK : attempt->failure;
	pthread_mutex_unlock(&attempt->lock);

	if (result != NP_WIRE_OK)
	{
		snprintf(error, error_size, "%s", attempt->error);
		free(attempt->wire);
	}
	else if (take_over(attempt->wire, error, error_size))
		*wire = attempt->wire;
	else
		result = NP_WIRE_FAILED;
	free_attempt(attempt);
	return result;
}

/* Wait for the thread's end, at most a millisecond.  The lock is held. */
static void
wait_for_end(NpWireAttempt *attempt)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 1000000;
	if (until.tv_nsec >= 1000000000)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&attempt->ended_condition, &attempt->lock, &until);
}

/*
 * Give up an attempt, whether it has ended or not.
 *
 * Its socket is shut down, and its thread then ends at once.  It can be just
 * about to make the socket, so this looks for it for some time, ABANDON_MS at
 * most; only a name that is being resolved takes longer, and its thread ends
 * by itself when it is.
 */
void
np_wire_abandon(NpWireAttempt *attempt)
{
	bool		ended;
	NpWire	   *wire;
	char		ignored[8];

	unfinished = NULL;
	pthread_mutex_lock(&attempt->lock);
	attempt->abandoned = true;
	for (int i = 0; i < ABANDON_MS && !attempt->ended; i++)
	{
		visit_sockets(shut_down_new_socket, attempt);
		wait_for_end(attempt);
	}
	ended = attempt->ended;
	attempt->left_behind = !ended;
	pthread_mutex_unlock(&attempt->lock);

	if (ended && np_wire_finish(attempt, &wire, ignored, sizeof(ignored)) == NP_WIRE_OK)
		np_wire_close(wire);
}

/* ---- An established connection ----------------------------------------- */

int
np_wire_socket(const NpWire *wire)
{
	return wire->socket;
}

int64_t
np_wire_max_payload(const NpWire *wire)
{
	return natsConnection_GetMaxPayload(wire->nc);
}

const char *
np_wire_server_id(const NpWire *wire)
{
	return wire->server_id;
}

/* As it is called, as far as that is known: else its id. */
const char *
np_wire_server_name(const NpWire *wire)
{
	return wire->server_name;
}

/* As the server sees it; NULL: it does not tell. */
const char *
np_wire_client_ip(const NpWire *wire)
{
	return wire->client_ip;
}

uint64_t
np_wire_client_id(const NpWire *wire)
{
	uint64_t	id = 0;

	natsConnection_GetClientID(wire->nc, &id);
	return id;
}

/* Its TLS, which goes with it; NULL: there is none. */
NpTls *
np_wire_tls(const NpWire *wire)
{
	return wire->tls;
}

/* As recv; never blocks. */
ssize_t
np_wire_receive(NpWire *wire, char *buffer, size_t length)
{
	if (wire->tls != NULL)
		return np_tls_read(wire->tls, buffer, length);
	return recv(wire->socket, buffer, length, 0);
}

/* As sendmsg, of the first bytes of the vectors; never blocks. */
ssize_t
np_wire_send(NpWire *wire, struct iovec *vectors, int count)
{
	struct msghdr message = {.msg_iov = vectors,.msg_iovlen = count};

	if (wire->tls != NULL)
		return np_tls_write(wire->tls, vectors[0].iov_base, vectors[0].iov_len);
	return sendmsg(wire->socket, &message, MSG_NOSIGNAL);
}

/* Can something be received although the socket is not readable? */
bool
np_wire_has_pending(const NpWire *wire)
{
	return wire->tls != NULL && np_tls_has_pending(wire->tls);
}

/*
 * The addresses of other servers of the cluster, as host:port; returns how
 * many.  To be freed by np_wire_free_discovered.
 */
int
np_wire_discovered(const NpWire *wire, char ***servers)
{
	int			count = 0;

	*servers = NULL;
	if (natsConnection_GetDiscoveredServers(wire->nc, servers, &count) != NATS_OK)
		return 0;
	return count;
}

void
np_wire_free_discovered(char **servers, int count)
{
	for (int i = 0; i < count; i++)
		free(servers[i]);
	free(servers);
}

/*
 * Close a connection and free it.  Never blocks: what the server has not been
 * sent, or the kernel not transmitted, is lost (the library sets SO_LINGER 0).
 *
 * natsConnection_Destroy alone would wait 500 ms for a PONG.  A connection
 * that has seen the end of its socket is closed already, and does not.
 */
void
np_wire_close(NpWire *wire)
{
	sigset_t	previous;

	block_signals(&previous);
	close_connection(wire);
	restore_signals(&previous);
	free(wire->client_ip);
	free(wire);
}

const char *
np_wire_library_version(void)
{
	return nats_GetVersion();
}
