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
 * PostgreSQL's signal handlers must not run on a foreign thread, and the
 * library takes EINTR for a lost connection: all signals are blocked in the
 * helper thread, and the library's own threads, which it starts, inherit that.
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
#include "libnats/library.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How long an attempt that is given up is looked after. */
#define ABANDON_MS			50

/* Of a host, or none: then its length is 0. */
typedef struct NpAddress
{
	socklen_t	length;
	struct sockaddr_storage bytes;
} NpAddress;

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
	NpAddress	avoided;		/* not to begin with */
	NpAddress	tried;			/* by the thread, just now ... */
	long		tried_until;	/* ... as long as that, of np_handshake_now */
	bool		in_library;		/* the thread, since it has the addresses */
	int			pipe[2];		/* the thread closes [1] when it ends */
	bool		ended;
	NpWireStatus status;		/* how it has ended */
	bool		left_behind;	/* the thread frees it */
	bool		counts;			/* among the library's that are left behind */
};

/* The attempt that is neither finished nor abandoned; there is one at a time. */
static NpConnectAttempt *unfinished;

/* At which the last attempt stood when the time of the address was over. */
static NpAddress given_up;

/* ---- The library ---------------------------------------------------------- */

/* Handler of atexit. */
static void
end_attempts(void)
{
	if (unfinished != NULL)
		np_connect_attempt_abandon(unfinished);
	np_library_end();
}

/* False: the process exits, or the library can't be opened; the error says so. */
static bool
enter_library(NpConnectAttempt *attempt)
{
	NpHandshake *handshake = &attempt->handshake;

	handshake->listens = !np_library_has_left_behind();
	if (!np_library_enter(handshake->error, sizeof(handshake->error)))
		return false;
	pthread_mutex_lock(&attempt->lock);
	attempt->in_library = true;
	pthread_mutex_unlock(&attempt->lock);
	return true;
}

/* The lock of the attempt is held. */
static void
leave_behind(NpConnectAttempt *attempt)
{
	attempt->left_behind = true;
	attempt->counts = attempt->in_library;
	if (attempt->counts)
		np_library_leave_behind();
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

static void
set_tried(NpConnectAttempt *attempt, const struct addrinfo *address)
{
	pthread_mutex_lock(&attempt->lock);
	attempt->tried.length = address->ai_addrlen;
	memcpy(&attempt->tried.bytes, address->ai_addr, address->ai_addrlen);
	attempt->tried_until = attempt->handshake.limit;
	pthread_mutex_unlock(&attempt->lock);
}

static const struct addrinfo *
behind(const struct addrinfo *address, const struct addrinfo *addresses)
{
	return address->ai_next != NULL ? address->ai_next : addresses;
}

/* The one behind the one that is avoided. */
static const struct addrinfo *
choose_first(const NpAddress *avoided, const struct addrinfo *addresses)
{
	for (const struct addrinfo *address = addresses; address != NULL; address = address->ai_next)
		if (address->ai_addrlen == avoided->length && memcmp(address->ai_addr, &avoided->bytes, avoided->length) == 0)
			return behind(address, addresses);
	return addresses;
}

static int
count_addresses(const struct addrinfo *addresses)
{
	int			count = 0;

	for (const struct addrinfo *address = addresses; address != NULL; address = address->ai_next)
		count++;
	return count;
}

/*
 * Try them in their order.  An address at which the library has waited for
 * longer than its share, as it does in 3.4.1, is not the first one the next
 * time.
 */
static NpWireStatus
connect_to_addresses(NpConnectAttempt *attempt, const struct addrinfo *addresses)
{
	NpHandshake *handshake = &attempt->handshake;
	const struct addrinfo *address = choose_first(&attempt->avoided, addresses);
	NpWireStatus status = NP_WIRE_NO_SERVER;

	snprintf(handshake->error, sizeof(handshake->error), "no answer in time");
	for (int left = count_addresses(addresses); left > 0 && status != NP_WIRE_OK && np_handshake_share(handshake, left); left--)
	{
		set_tried(attempt, address);
		status = np_handshake(handshake, address);
		address = behind(address, addresses);
	}
	return status;
}

/* Resolve the name of the host, and connect to it. */
static NpWireStatus
connect_to_host(NpConnectAttempt *attempt)
{
	NpHandshake *handshake = &attempt->handshake;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	NpWireStatus status = NP_WIRE_FAILED;
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
	if (enter_library(attempt))
		status = connect_to_addresses(attempt, addresses);
	freeaddrinfo(addresses);
	return status;
}

static void *
connect_in_thread(void *argument)
{
	NpConnectAttempt *attempt = argument;
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
		if (attempt->handshake.wire != NULL)
			np_wire_close(attempt->handshake.wire);
		free_attempt(attempt);
	}
	if (in_library)
		np_library_leave(counts);
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

/* False: why not is in error. */
static bool
start_thread(NpConnectAttempt *attempt, char *error, size_t error_size)
{
	pthread_attr_t attributes;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	previous;
	int			failure;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &previous);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, NP_THREAD_STACK_SIZE);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	failure = pthread_create(&thread, &attributes, connect_in_thread, attempt);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
	if (failure != 0)
		snprintf(error, error_size, "could not start a thread: %s", strerror(failure));
	return failure == 0;
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

	if (attempt == NULL || !np_library_prepare(end_attempts))
	{
		free(attempt);
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	attempt->handshake.target = *target;
	attempt->handshake.lock = &attempt->lock;
	attempt->avoided = given_up;
	attempt->pipe[0] = attempt->pipe[1] = -1;
	pthread_mutex_init(&attempt->lock, NULL);
	init_condition(&attempt->ended_condition);
	if (pipe2(attempt->pipe, O_CLOEXEC) != 0)
		snprintf(error, error_size, "could not create a pipe: %s", strerror(errno));
	else if (start_thread(attempt, error, error_size))
	{
		unfinished = attempt;
		return attempt;
	}
	free_attempt(attempt);
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

	if (result == NP_WIRE_OK)
		*wire = attempt->handshake.wire;
	else
	{
		snprintf(error, error_size, "%s", attempt->handshake.error);
		given_up.length = 0;
	}
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
	NpAddress	late = {0};
	NpWire	   *wire;
	char		ignored[8];

	unfinished = NULL;
	pthread_mutex_lock(&attempt->lock);
	attempt->handshake.abandoned = true;
	/* a user can have cancelled it at any other one */
	if (!attempt->ended && np_handshake_now() + ABANDON_MS > attempt->tried_until)
		late = attempt->tried;
	for (int i = 0; i < ABANDON_MS && !attempt->ended; i++)
	{
		np_library_shut_down_sockets();
		wait_for_end(attempt);
	}
	ended = attempt->ended;
	if (!ended)
		leave_behind(attempt);
	pthread_mutex_unlock(&attempt->lock);

	if (ended && np_connect_attempt_finish(attempt, &wire, ignored, sizeof(ignored)) == NP_WIRE_OK)
		np_wire_close(wire);
	given_up = late;
}
