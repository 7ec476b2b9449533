/*-------------------------------------------------------------------------
 *
 * library.c
 *	  libnats: open for as long as a thread connects.
 *
 * Open, the library has three threads of its own, and a backend that is
 * connected needs none of them.  So the first helper thread of
 * connect_attempt.c that enters opens it, and the last one that leaves closes
 * it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "libnats/library.h"
#include "libnats/tls.h"

#include <nats/nats.h>

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

/* How long closing waits for the library's own threads at most, which have nothing to do. */
#define CLOSE_MS			1000

/* How long a process that exits waits for helper threads at most. */
#define EXIT_MS				5000

/* The threads that are in the library; under lock. */
static struct
{
	pthread_mutex_t lock;
	int			count;
	int			left_behind;	/* of these */
	bool		ended;			/* nobody enters any more */
}			threads = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- Opening and closing ------------------------------------------------- */

/*
 * To be called before the first thread that enters.  before_exit is called
 * when the process exits, and must call np_library_end: before the library's
 * own handler, and OpenSSL's, which would run beside threads that use them.
 *
 * False: out of memory.
 */
bool
np_library_prepare(void (*before_exit) (void))
{
	static bool prepared = false;

	if (prepared)
		return true;
#ifdef __GLIBC__
	/* else each thread leaves some 30 kB that nobody but the next ones would use */
	mallopt(M_ARENA_MAX, 1);
#endif
	/* of a library that is not open it registers the handler, and that is all */
	nats_Close();
	prepared = np_tls_prepare() && atexit(before_exit) == 0;
	return prepared;
}

/* The lock is held; signals are blocked, which the library's threads inherit. */
static natsStatus
open_library(void)
{
	natsStatus	status;

#ifdef __GLIBC__
	pthread_attr_t saved;
	pthread_attr_t small;

	pthread_getattr_default_np(&saved);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, NP_THREAD_STACK_SIZE);
	pthread_setattr_default_np(&small);
	status = nats_Open(0);		/* 0: no spinning on locks */
	pthread_setattr_default_np(&saved);
	pthread_attr_destroy(&small);
	pthread_attr_destroy(&saved);
#else
	status = nats_Open(0);
#endif
	return status;
}

/*
 * To be called by a helper thread before it calls the library; then it must
 * np_library_leave.  False: it may not, and why.
 */
bool
np_library_enter(char *error, size_t error_size)
{
	natsStatus	status = NATS_OK;

	pthread_mutex_lock(&threads.lock);
	if (threads.ended)
		status = NATS_CONNECTION_CLOSED;
	else if (threads.count == 0)
		status = open_library();
	if (status == NATS_OK)
		threads.count++;
	pthread_mutex_unlock(&threads.lock);
	if (status != NATS_OK)
		snprintf(error, error_size, "could not open libnats: %s", natsStatus_GetText(status));
	return status == NATS_OK;
}

/* The thread does nothing with the library or with TLS any more. */
void
np_library_leave(bool left_behind)
{
	/* now, instead of when the thread has ended */
	nats_ReleaseThreadMemory();
	np_tls_end_thread();
	pthread_mutex_lock(&threads.lock);
	if (left_behind)
		threads.left_behind--;
	if (--threads.count == 0)
		nats_CloseAndWait(CLOSE_MS);
	pthread_mutex_unlock(&threads.lock);
}

/* A thread that has entered is not waited for any more. */
void
np_library_leave_behind(void)
{
	pthread_mutex_lock(&threads.lock);
	threads.left_behind++;
	pthread_mutex_unlock(&threads.lock);
}

bool
np_library_has_left_behind(void)
{
	bool		has;

	pthread_mutex_lock(&threads.lock);
	has = threads.left_behind > 0;
	pthread_mutex_unlock(&threads.lock);
	return has;
}

const char *
np_library_version(void)
{
	return nats_GetVersion();
}

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
 * ours are closed by exec() (library_connection.c), and hardly anybody else's are like that.
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
void
np_library_shut_down_sockets(void)
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
 * it.  So a process that exits lets nobody enter any more, and waits until all
 * have left.
 *
 * A thread that is left behind ends within milliseconds, or is resolving a name
 * and will not enter; but a server can have told the library of many others
 * to try.
 */
void
np_library_end(void)
{
	struct timespec millisecond = {0, 1000000};
	int			count;

	for (int i = 0; i < EXIT_MS; i++)
	{
		pthread_mutex_lock(&threads.lock);
		threads.ended = true;
		count = threads.count;
		pthread_mutex_unlock(&threads.lock);
		if (count == 0)
			break;
		np_library_shut_down_sockets();
		clock_nanosleep(CLOCK_MONOTONIC, 0, &millisecond, NULL);
	}
	np_tls_end();
}
