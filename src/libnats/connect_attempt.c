/*-------------------------------------------------------------------------
 *
 * connect_attempt.c
 *	  libnats: an attempt to connect, in a helper thread.
 *
 * The library connects, makes TLS, and authenticates.  It does so in a
 * helper thread, because natsConnection_Connect blocks: it ignores a cancel
 * in every version, and its own timeout in 3.4.1 when a server sends INFO and
 * then nothing (nats.c #706).  The backend waits for the thread on a pipe and
 * can leave it behind at any time.
 *
 * This file and those that it calls know nothing of PostgreSQL: their code
 * runs in threads in which no backend function may be called, and the
 * compiler sees to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "libnats/connect_attempt.h"
#include "libnats/handshake.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Threads of the library do little; 8 MB of stack each is a waste of address space. */
#define THREAD_STACK_SIZE	(256 * 1024)

/* How long an attempt that is given up is looked after. */
#define ABANDON_MS			50

/* How long a process that exits waits for helper threads at most. */
#define EXIT_MS				5000

/*
 * Shared between the backend and its helper thread, under lock.  Whoever
 * comes last frees it: the backend when the thread has ended, the thread when
 * the backend has left it behind.
 */
struct NpConnectAttempt
{
	pthread_mutex_t lock;
	pthread_cond_t ended_condition;
	NpHandshake handshake;
	bool		in_library;		/* the thread, since it has the addresses */
	int			pipe[2];		/* the thread closes [1] when it ends */
	bool		ended;
	NpWireStatus status;		/* how it has ended */
	bool		left_behind;	/* the thread frees it */
	bool		counts;			/* among library_threads.left_behind */
};

/* The attempt that is neither finished nor abandoned; there is one at a time. */
static NpConnectAttempt *unfinished;

/* The threads that are in the library; under lock. */
static struct
{
	pthread_mutex_t lock;
	int			count;
	int			left_behind;	/* of these */
	bool		closed;			/* nobody enters any more */
}			library_threads = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- The sockets of the library ---------------------------------------- */

/* Has connect() begun, and not ended, without anybody's being blocked by it? */
static bool
is_connecting(int fd)
{
	struct tcp_info info;
	socklen_t	length = sizeof(info);

	return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == TCP_SYN_SENT;
}

/*
 * Is it a socket with which the library connects?
 *
 * It does not reveal one before the handshake is over, so they are known by
 * how it makes them (comsock.c, in all versions): exec() does not close
 * them, and once connected they have an SO_LINGER of 0.  Those that have become
 * ours are closed by exec() (handshake.c), and hardly anybody else's are like that.
 */
static bool
is_of_library(int fd)
{
	struct stat status;
	struct linger linger = {0};
	socklen_t	length = sizeof(linger);

	if (fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode) ||
		(fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0 ||
		getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length) != 0)
		return false;
	return (linger.l_onoff != 0 && linger.l_linger == 0) || is_connecting(fd);
}

/*
 * The only way to end a connect that hangs: its thread then finds the
 * connection closed.
 */
static void
shut_down_sockets(void)
{
	DIR		   *directory = opendir("/dev/fd");
	struct dirent *entry;

	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL)
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && is_of_library(atoi(entry->d_name)))
			shutdown(atoi(entry->d_name), SHUT_RDWR);
	closedir(directory);
}

/* ---- The end of the process -------------------------------------------- */

/*
 * At exit OpenSSL frees what all threads share: one that is loading
 * certificates or in a handshake then would crash, and the whole server with
 * it.  So a helper thread says when it is in the library, and exit() waits
 * until none is.
 */
static void
enter_library(NpConnectAttempt *attempt)
{
	pthread_mutex_lock(&attempt->lock);
	pthread_mutex_lock(&library_threads.lock);
	attempt->in_library = !library_threads.closed;
	attempt->handshake.listens = library_threads.left_behind == 0;
	if (attempt->in_library)
		library_threads.count++;
	pthread_mutex_unlock(&library_threads.lock);
	pthread_mutex_unlock(&attempt->lock);
}

/* The lock of the attempt is held. */
static void
leave_behind(NpConnectAttempt *attempt)
{
	attempt->left_behind = true;
	attempt->counts = attempt->in_library;
	if (!attempt->counts)
		return;
	pthread_mutex_lock(&library_threads.lock);
	library_threads.left_behind++;
	pthread_mutex_unlock(&library_threads.lock);
}

static void
leave_library(bool counts)
{
	/* now, instead of when the thread has ended */
	nats_ReleaseThreadMemory();
	np_tls_end_thread();
	pthread_mutex_lock(&library_threads.lock);
	library_threads.count--;
	if (counts)
		library_threads.left_behind--;
	pthread_mutex_unlock(&library_threads.lock);
}

/*
 * Handler of atexit.  A thread that is left behind ends within milliseconds,
 * or is resolving a name and will not enter; but a server can have told the
 * library of many others to try.
 */
static void
wait_for_threads(void)
{
	struct timespec millisecond = {0, 1000000};
	int			count;

	if (unfinished != NULL)
		np_connect_attempt_abandon(unfinished);
	for (int i = 0; i < EXIT_MS; i++)
	{
		pthread_mutex_lock(&library_threads.lock);
		library_threads.closed = true;
		count = library_threads.count;
		pthread_mutex_unlock(&library_threads.lock);
		if (count == 0)
			return;
		shut_down_sockets();
		clock_nanosleep(CLOCK_MONOTONIC, 0, &millisecond, NULL);
	}
}

/*
 * Open the library, once per process.  Never in the postmaster: its threads
 * would not survive the fork (connect.c is only reached from SQL).
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

/* ---- Connecting -------------------------------------------------------- */

static void
free_attempt(NpConnectAttempt *attempt)
{
	pthread_cond_destroy(&attempt->ended_condition);
	pthread_mutex_destroy(&attempt->lock);
	if (attempt->pipe[0] >= 0)
		close(attempt->pipe[0]);
	if (attempt->pipe[1] >= 0)
		close(attempt->pipe[1]);
	explicit_bzero(&attempt->handshake.target, sizeof(attempt->handshake.target));
	free(attempt);
}

/* Try the addresses of the host in their order. */
static NpWireStatus
connect_to_host(NpConnectAttempt *attempt)
{
	NpHandshake *handshake = &attempt->handshake;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	NpWireStatus status = NP_WIRE_NO_SERVER;
	char		port[16];
	int			failure;

	np_handshake_begin(handshake);
	snprintf(port, sizeof(port), "%d", handshake->target.port);
	failure = getaddrinfo(handshake->target.host, port, &hints, &addresses);
	if (failure != 0)
	{
		snprintf(handshake->error, sizeof(handshake->error), "could not resolve the host name: %s", gai_strerror(failure));
		return NP_WIRE_NO_HOST;
	}
	snprintf(handshake->error, sizeof(handshake->error), "no answer in time");
	enter_library(attempt);
	for (struct addrinfo *address = addresses;
		 address != NULL && status != NP_WIRE_OK && attempt->in_library && np_handshake_ms_left(handshake) > 0;
		 address = address->ai_next)
		status = np_handshake(handshake, address);
	freeaddrinfo(addresses);
	return status;
}

static void *
connect_in_thread(void *argument)
{
	NpConnectAttempt *attempt = argument;
	NpWire	   *wire = attempt->handshake.wire;
	NpWireStatus status = connect_to_host(attempt);
	bool		in_library = attempt->in_library;
	bool		left_behind;
	bool		counts;

	pthread_mutex_lock(&attempt->lock);
	attempt->status = status;
	attempt->ended = true;
	left_behind = attempt->left_behind;
	counts = attempt->counts;
	/* the backend sees end of file, and frees what is here */
	close(attempt->pipe[1]);
	attempt->pipe[1] = -1;
	pthread_cond_signal(&attempt->ended_condition);
	pthread_mutex_unlock(&attempt->lock);

	if (left_behind)
	{
		if (status == NP_WIRE_OK)
			np_wire_close(wire);
		else
			free(wire);
		free_attempt(attempt);
	}
	if (in_library)
		leave_library(counts);
	return NULL;
}

/* Waiting goes by a clock that nobody sets. */
static void
init_condition(pthread_cond_t *condition)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(condition, &attributes);
	pthread_condattr_destroy(&attributes);
}

static bool
start_thread(NpConnectAttempt *attempt)
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
 * Returns the attempt, which must go to np_connect_attempt_finish or np_connect_attempt_abandon, or
 * NULL with the reason in error.
 */
NpConnectAttempt *
np_connect_attempt_start(const NpWireTarget *target, char *error, size_t error_size)
{
	NpConnectAttempt *attempt = calloc(1, sizeof(*attempt));
	NpWire	   *wire = calloc(1, sizeof(*wire));
	natsStatus	status = NATS_NO_MEMORY;
	sigset_t	previous;

	np_wire_block_signals(&previous);
	if (attempt != NULL && wire != NULL)
	{
		attempt->handshake.target = *target;
		attempt->handshake.wire = wire;
		attempt->handshake.lock = &attempt->lock;
		attempt->pipe[0] = attempt->pipe[1] = -1;
		pthread_mutex_init(&attempt->lock, NULL);
		init_condition(&attempt->ended_condition);
		status = open_library();
		if (status == NATS_OK && pipe2(attempt->pipe, O_CLOEXEC) != 0)
			status = NATS_SYS_ERROR;
		if (status == NATS_OK && !start_thread(attempt))
			status = NATS_SYS_ERROR;
	}
	np_wire_restore_signals(&previous);
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
np_connect_attempt_fd(const NpConnectAttempt *attempt)
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
np_connect_attempt_finish(NpConnectAttempt *attempt, NpWire **wire, char *error, size_t error_size)
{
	NpWireStatus result;

	unfinished = NULL;
	pthread_mutex_lock(&attempt->lock);
	result = attempt->status;
	pthread_mutex_unlock(&attempt->lock);

	if (result != NP_WIRE_OK)
	{
		snprintf(error, error_size, "%s", attempt->handshake.error);
		free(attempt->handshake.wire);
	}
	else if (np_wire_take_over(attempt->handshake.wire, error, error_size))
		*wire = attempt->handshake.wire;
	else
		result = NP_WIRE_FAILED;
	free_attempt(attempt);
	return result;
}

/* Wait for the thread's end, at most a millisecond.  The lock is held. */
static void
wait_for_end(NpConnectAttempt *attempt)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
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
np_connect_attempt_abandon(NpConnectAttempt *attempt)
{
	bool		ended;
	NpWire	   *wire;
	char		ignored[8];

	unfinished = NULL;
	pthread_mutex_lock(&attempt->lock);
	attempt->handshake.abandoned = true;
	for (int i = 0; i < ABANDON_MS && !attempt->ended; i++)
	{
		shut_down_sockets();
		wait_for_end(attempt);
	}
	ended = attempt->ended;
	if (!ended)
		leave_behind(attempt);
	pthread_mutex_unlock(&attempt->lock);

	if (ended && np_connect_attempt_finish(attempt, &wire, ignored, sizeof(ignored)) == NP_WIRE_OK)
		np_wire_close(wire);
}
