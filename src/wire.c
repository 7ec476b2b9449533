/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  libnats: connecting to a server, and nothing else.
 *
 * The library resolves names, connects, and authenticates.  It does so in a
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "compat.h"

/* Threads of the library do little; 8 MB of stack each is a waste of address space. */
#define THREAD_STACK_SIZE	(256 * 1024)

/* Only the handshake goes through the library's buffers. */
#define IO_BUFFER_SIZE		(16 * 1024)

struct NpWire
{
	natsConnection *nc;
	natsSock	socket;
	bool		detached;		/* the library has let go of the socket */
	char		server_id[128];
	char	   *client_ip;		/* from the library's malloc; NULL: not told */
};

/*
 * Shared between the backend and its helper thread, under lock.  Whoever
 * comes last frees it: the backend when the thread has ended, the thread when
 * the backend has abandoned it.
 */
struct NpWireAttempt
{
	pthread_mutex_t lock;
	NpWireTarget target;		/* without the credentials */
	int			pipe[2];		/* the thread closes [1] when it ends */
	bool		ended;
	bool		abandoned;
	natsOptions *options;
	NpWire	   *wire;			/* the result, when status is NATS_OK */
	natsStatus	status;
	char		error[256];
	ino_t	   *sockets_before; /* those that the process had at the start */
	size_t		socket_count;
};

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

static natsStatus
make_options(const NpWireTarget *target, NpWire *wire, natsOptions **options)
{
	char		url[320];
	natsStatus	s;
	natsOptions *o;

	snprintf(url, sizeof(url), strchr(target->host, ':') ? "nats://[%s]:%d" : "nats://%s:%d",
			 target->host, target->port);
	if ((s = natsOptions_Create(&o)) != NATS_OK)
		return s;
	*options = o;
	if ((s = natsOptions_SetURL(o, url)) != NATS_OK ||
		(s = natsOptions_SetTimeout(o, target->timeout_ms)) != NATS_OK ||
		(s = natsOptions_SetName(o, target->client_name)) != NATS_OK ||
		(s = natsOptions_SetIOBufSize(o, IO_BUFFER_SIZE)) != NATS_OK ||
		(s = natsOptions_SetAllowReconnect(o, false)) != NATS_OK ||
		(s = natsOptions_SetErrorHandler(o, on_error, NULL)) != NATS_OK ||
	/* no flusher thread and no timer on the connection */
		(s = natsOptions_SetSendAsap(o, true)) != NATS_OK ||
		(s = natsOptions_SetPingInterval(o, 0)) != NATS_OK ||
		(s = natsOptions_SetEventLoop(o, wire, on_attach, on_read, on_write, on_detach)) != NATS_OK)
		return s;
	if (target->user[0] == '\0')
		return NATS_OK;
	if (target->user_is_token)
		return natsOptions_SetToken(o, target->user);
	return natsOptions_SetUserInfo(o, target->user, target->password);
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
	natsOptions_Destroy(attempt->options);
	pthread_mutex_destroy(&attempt->lock);
	if (attempt->pipe[0] >= 0)
		close(attempt->pipe[0]);
	if (attempt->pipe[1] >= 0)
		close(attempt->pipe[1]);
	free(attempt->sockets_before);
	free(attempt);
}

/*
 * The library says "no server available" whatever has happened: find out what
 * it was.  False: nothing that could be found.
 */
static bool
explain_no_server(const NpWireTarget *target, char *error, size_t error_size)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	struct timeval timeout = {target->timeout_ms / 1000, target->timeout_ms % 1000 * 1000};
	char		port[16];
	int			failure;

	snprintf(port, sizeof(port), "%d", target->port);
	failure = getaddrinfo(target->host, port, &hints, &addresses);
	if (failure != 0)
	{
		snprintf(error, error_size, "could not resolve the host name: %s", gai_strerror(failure));
		return true;
	}
	failure = 0;
	for (struct addrinfo *address = addresses; address != NULL; address = address->ai_next)
	{
		int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		/* Linux bounds connect() by it */
		if (fd >= 0)
			setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
		if (fd < 0 || connect(fd, address->ai_addr, address->ai_addrlen) != 0)
			failure = errno == EINPROGRESS ? ETIMEDOUT : errno;
		if (fd >= 0)
			close(fd);
	}
	freeaddrinfo(addresses);
	if (failure == 0)
		return false;
	snprintf(error, error_size, "could not connect: %s", strerror(failure));
	return true;
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

static void *
connect_in_thread(void *argument)
{
	NpWireAttempt *attempt = argument;
	NpWire	   *wire = attempt->wire;
	natsStatus	status = natsConnection_Connect(&wire->nc, attempt->options);
	char		error[sizeof(attempt->error)] = "";
	bool		abandoned;

	if (status != NATS_OK &&
		(status != NATS_NO_SERVER || !explain_no_server(&attempt->target, error, sizeof(error))))
		describe_failure(status, error, sizeof(error));

	pthread_mutex_lock(&attempt->lock);
	attempt->status = status;
	memcpy(attempt->error, error, sizeof(error));
	attempt->ended = true;
	abandoned = attempt->abandoned;
	if (!abandoned)
	{
		/* the backend sees end of file, and frees what is here */
		close(attempt->pipe[1]);
		attempt->pipe[1] = -1;
	}
	pthread_mutex_unlock(&attempt->lock);

	if (abandoned)
	{
		if (status == NATS_OK)
			np_wire_close(wire);
		else
			free(wire);
		free_attempt(attempt);
	}
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
		memcpy(attempt->target.host, target->host, sizeof(target->host));
		attempt->target.port = target->port;
		attempt->target.timeout_ms = target->timeout_ms;
		attempt->pipe[0] = attempt->pipe[1] = -1;
		pthread_mutex_init(&attempt->lock, NULL);
		status = open_library();
		if (status == NATS_OK)
			status = make_options(target, wire, &attempt->options);
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
		return attempt;

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

/*
 * The result of an attempt that has ended.  Frees the attempt.
 *
 * On NP_WIRE_OK, *wire is the caller's to np_wire_close; else the reason is
 * in error.
 */
NpWireStatus
np_wire_finish(NpWireAttempt *attempt, NpWire **wire, char *error, size_t error_size)
{
	natsStatus	status;

	pthread_mutex_lock(&attempt->lock);
	status = attempt->status;
	pthread_mutex_unlock(&attempt->lock);

	if (status == NATS_OK)
	{
		NpWire	   *made = attempt->wire;

		natsConnection_GetConnectedServerId(made->nc, made->server_id, sizeof(made->server_id));
		if (natsConnection_GetClientIP(made->nc, &made->client_ip) != NATS_OK)
			made->client_ip = NULL;
		if (natsConnection_HasHeaderSupport(made->nc) == NATS_OK)
			*wire = made;
		else
		{
			np_wire_close(made);
			snprintf(error, error_size, "the server does not support headers");
			status = NATS_NO_SERVER_SUPPORT;
		}
	}
	else
	{
		snprintf(error, error_size, "%s", attempt->error);
		free(attempt->wire);
	}
	free_attempt(attempt);
	if (status == NATS_OK)
		return NP_WIRE_OK;
	return status == NATS_CONNECTION_AUTH_FAILED ? NP_WIRE_NOT_AUTHORIZED : NP_WIRE_FAILED;
}

/*
 * Give up an attempt, whether it has ended or not.  Never blocks.
 *
 * The socket on which it may hang is shut down, so that its thread ends (a
 * name that is being resolved ends it when the resolver gives up).
 */
void
np_wire_abandon(NpWireAttempt *attempt)
{
	bool		ended;
	NpWire	   *wire;
	char		ignored[8];

	pthread_mutex_lock(&attempt->lock);
	ended = attempt->ended;
	if (!ended)
	{
		attempt->abandoned = true;
		visit_sockets(shut_down_new_socket, attempt);
	}
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
	shutdown(wire->socket, SHUT_RDWR);
	for (int i = 0; i < 100000 && !wire->detached; i++)
		natsConnection_ProcessReadEvent(wire->nc);
	natsConnection_Destroy(wire->nc);
	if (wire->detached)
		np_compat_detached(wire->nc);
	restore_signals(&previous);
	free(wire->client_ip);
	free(wire);
}

const char *
np_wire_library_version(void)
{
	return nats_GetVersion();
}
