/*
 * wire_client.h
 *		What the tests of wire.c share: a client of it as connection.c is one, child processes to connect to, and the
 *		check that nothing is left of an attempt: no thread, no descriptor.
 */
#ifndef WIRE_CLIENT_H
#define WIRE_CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "unit.h"

#include "libnats/connect_attempt.h"
#include "libnats/library.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Longer than anything here takes, shorter than a test may. */
#define PATIENCE_MS		8000

/* "At once", on a machine that is busy, under a sanitizer. */
#define AT_ONCE_MS		5000

#ifdef UNIT_TSAN
/*
 * Giving up looks at all descriptors for the one that the thread may have opened, and the thread can close it, or any,
 * at that moment: a number is looked at that has gone, which fstat tells, or has come anew, which is shut down as well.
 * ThreadSanitizer takes a descriptor for memory.
 */
const char *__tsan_default_suppressions(void);

const char *
__tsan_default_suppressions(void)
{
	return "race:shut_down_sockets\n";
}
#endif

static int	threads_at_rest;
static int	files_at_rest;

static inline double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec * 1000 + (double) now.tv_nsec / 1000000;
}

static inline void
nap(int milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};

	while (nanosleep(&time, &time) != 0 && errno == EINTR)
		;
}

/* Somewhere in the next few milliseconds, to the microsecond. */
static inline void
spin_for(uint64_t *state, int microseconds)
{
	double		end = now_ms() + (double) (unit_random(state) % (uint64_t) microseconds) / 1000;

	while (now_ms() < end)
		;
}

/* ---- Processes and ports -------------------------------------------------- */

/* A child process; it ends with this one, whatever happens to that. */
static inline pid_t
start_process(void)
{
	pid_t		parent = getpid();
	pid_t		child = fork();

	if (child < 0)
		abort();
	if (child > 0)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	return 0;
}

static inline void
kill_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static inline int
listen_somewhere(int backlog, int *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	length = sizeof(address);
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *) &address, length) != 0 ||
		(backlog >= 0 && listen(fd, backlog) != 0) ||
		getsockname(fd, (struct sockaddr *) &address, &length) != 0)
		abort();
	*port = ntohs(address.sin_port);
	return fd;
}

static inline int
connect_to_port(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons((uint16_t) port)};
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0)
		abort();
	(void) connect(fd, (struct sockaddr *) &address, sizeof(address));
	return fd;
}

/* ---- What is left -------------------------------------------------------- */

static inline int
count_entries(const char *path)
{
	DIR		   *directory = opendir(path);
	int			count = 0;

	if (directory == NULL)
		abort();
	while (readdir(directory) != NULL)
		count++;
	closedir(directory);
	return count;
}

/* ThreadSanitizer has pipes of its own once it has had to name a function. */
static inline int
count_files(void)
{
#ifdef UNIT_TSAN
	return 0;
#else
	return count_entries("/proc/self/fd");
#endif
}

static inline void
come_to_rest(void)
{
	double		end = now_ms() + PATIENCE_MS;

	while (now_ms() < end && (count_entries("/proc/self/task") > threads_at_rest ||
							  count_files() > files_at_rest))
		nap(5);
}

/* What one test has left behind does not count against the next. */
static inline void
check_at_rest(void)
{
	int			threads;
	int			files;

	come_to_rest();
	threads = count_entries("/proc/self/task");
	files = count_files();
	if (threads > threads_at_rest)
	{
		CHECK_INT(threads, threads_at_rest);
		threads_at_rest = threads;
	}
	if (files > files_at_rest)
	{
		CHECK_INT(files, files_at_rest);
		files_at_rest = files;
	}
}

/* ---- Connecting ---------------------------------------------------------- */

static inline NpWireTarget
target_at(int port, int timeout_ms)
{
	NpWireTarget target = {.host = "127.0.0.1",.port = port,.client_name = "wire test",
	.timeout_ms = timeout_ms};

	return target;
}

static inline NpConnectAttempt *
start_to(const NpWireTarget *target)
{
	char		error[256] = "";
	NpConnectAttempt *attempt = np_connect_attempt_start(target, error, sizeof(error));

	CHECK(attempt != NULL);
	CHECK_STR(error, "");
	return attempt;
}

static inline bool
has_ended(const NpConnectAttempt *attempt, int milliseconds)
{
	struct pollfd fd = {.fd = np_connect_attempt_fd(attempt),.events = POLLIN};

	return poll(&fd, 1, milliseconds) == 1;
}

static inline NpWireStatus
connect_with(const NpWireTarget *target, NpWire **wire, char *error, size_t error_size)
{
	NpConnectAttempt *attempt = np_connect_attempt_start(target, error, error_size);

	*wire = NULL;
	if (attempt == NULL)
		return NP_WIRE_FAILED;
	if (has_ended(attempt, PATIENCE_MS))
		return np_connect_attempt_finish(attempt, wire, error, error_size);
	np_connect_attempt_abandon(attempt);
	CHECK(!"an answer in the time of the test");
	return NP_WIRE_FAILED;
}

/* NULL: it has failed, which is a failed check. */
static inline NpWire *
connect_at(const NpWireTarget *target)
{
	char		error[256] = "";
	NpWire	   *wire;

	CHECK_INT(connect_with(target, &wire, error, sizeof(error)), NP_WIRE_OK);
	CHECK_STR(error, "");
	return wire;
}

static inline void
expect_failure(const NpWireTarget *target, NpWireStatus status, const char *text)
{
	char		error[256] = "";
	NpWire	   *wire;
	double		start_time = now_ms();

	CHECK_INT(connect_with(target, &wire, error, sizeof(error)), status);
	CHECK(wire == NULL);
	CHECK(error[0] != '\0');
	if (text != NULL && strcasestr(error, text) == NULL)
		CHECK_STR(error, text);
	CHECK(now_ms() - start_time < PATIENCE_MS);
	check_at_rest();
}

static inline void
abandon(NpConnectAttempt *attempt)
{
	double		start_time = now_ms();

	np_connect_attempt_abandon(attempt);
	CHECK(now_ms() - start_time < AT_ONCE_MS);
}

#endif							/* WIRE_CLIENT_H */
