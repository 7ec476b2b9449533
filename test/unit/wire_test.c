/*
 * wire_test.c
 *		Connecting by way of libnats, giving up, closing: to servers of all kinds of ill will.
 *
 * The servers are child processes, not threads: wire.c looks at all threads' sockets, as they are
 * its own process's. A real nats-server takes part if there is one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "unit.h"

#include "wire.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Longer than anything here takes, shorter than a test may. */
#define PATIENCE_MS		8000

/* "At once", on a machine that is busy, under valgrind. */
#define AT_ONCE_MS		1000

#ifdef UNIT_ASAN
/*
 * The library's threads and what hangs off them live until nats_Close(), which wire.c never calls:
 * a backend just ends. Only blocks that the library itself allocates for that are not leaks.
 */
const char *__lsan_default_suppressions(void);

const char *
__lsan_default_suppressions(void)
{
	return "leak:nats_Open\nleak:natsLib\n";
}
#endif

static double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec * 1000 + (double) now.tv_nsec / 1000000;
}

static void
nap(int milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};

	while (nanosleep(&time, &time) != 0 && errno == EINTR)
		;
}

static int
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

/* ---- Servers ------------------------------------------------------------- */

typedef enum Behaviour
{
	SILENT,						/* accepts, says nothing */
	INFO_ONLY,					/* INFO, then nothing */
	INFO_HALF,					/* a part of an INFO, then nothing */
	CLOSES,						/* accepts, closes */
	CLOSES_AFTER_INFO,
	GARBAGE,					/* HTTP */
	BINARY,						/* a TLS alert */
	ENDLESS,					/* bytes without a line's end, and no end of them */
	DENIES,						/* authorization violation */
	REFUSES,					/* another -ERR */
	NO_HEADERS,					/* an old server */
	GOOD,						/* PONG, and in the same packet what it had from the client */
	FULL,						/* a listener that accepts nothing, its queue full */
	BEHAVIOURS
} Behaviour;

static int	ports[BEHAVIOURS];

#define INFO(headers) \
	"INFO {\"server_id\":\"NTEST\",\"server_name\":\"n\",\"version\":\"2.10.0\",\"proto\":1,\"go\":\"go\"," \
	"\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":" headers ",\"max_payload\":12345,\"client_id\":42," \
	"\"client_ip\":\"127.0.0.9\"} \r\n"

static void
say(int fd, const char *text, size_t length)
{
	while (length > 0)
	{
		ssize_t		written = send(fd, text, length, MSG_NOSIGNAL);

		if (written <= 0)
			_exit(0);
		text += written;
		length -= (size_t) written;
	}
}

/* Read up to and including the client's PING. */
static size_t
hear(int fd, char *buffer, size_t size)
{
	size_t		length = 0;

	for (;;)
	{
		ssize_t		count = recv(fd, buffer + length, size - 1 - length, 0);

		if (count <= 0)
			_exit(0);
		length += (size_t) count;
		buffer[length] = '\0';
		if (strstr(buffer, "PING\r\n") != NULL)
			return length;
	}
}

static void
serve(int fd, Behaviour behaviour)
{
	static char heard[8192] = "PONG\r\n";

	switch (behaviour)
	{
		case INFO_ONLY:
			say(fd, INFO("true"), sizeof(INFO("true")) - 1);
			break;
		case INFO_HALF:
			say(fd, "INFO {\"server_id\":", 18);
			break;
		case CLOSES:
			_exit(0);
		case CLOSES_AFTER_INFO:
			say(fd, INFO("true"), sizeof(INFO("true")) - 1);
			_exit(0);
		case GARBAGE:
			say(fd, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", 47);
			_exit(0);
		case BINARY:
			say(fd, "\x15\x03\x01\0\x02\x02\x28\n", 8);
			break;
		case ENDLESS:
			memset(heard, 'x', sizeof(heard));
			for (;;)
				say(fd, heard, sizeof(heard));
		case DENIES:
			say(fd, INFO("true"), sizeof(INFO("true")) - 1);
			hear(fd, heard, sizeof(heard));
			say(fd, "-ERR 'Authorization Violation'\r\n", 32);
			_exit(0);
		case REFUSES:
			say(fd, INFO("true"), sizeof(INFO("true")) - 1);
			hear(fd, heard, sizeof(heard));
			say(fd, "-ERR 'maximum connections exceeded'\r\n", 37);
			_exit(0);
		case NO_HEADERS:
			say(fd, INFO("false"), sizeof(INFO("false")) - 1);
			hear(fd, heard, sizeof(heard));
			say(fd, "PONG\r\n", 6);
			break;
		case GOOD:
			say(fd, INFO("true"), sizeof(INFO("true")) - 1);
			say(fd, heard, 6 + hear(fd, heard + 6, sizeof(heard) - 6));
			break;
		default:
			break;
	}
	for (;;)
		pause();
}

/* A child process; it ends with this one, whatever happens to that. */
static pid_t
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

static int
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

static int
connect_to_port(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0)
		abort();
	(void) connect(fd, (struct sockaddr *) &address, sizeof(address));
	return fd;
}

static pid_t
start_server(Behaviour behaviour)
{
	int			listener = listen_somewhere(behaviour == FULL ? 0 : 64, &ports[behaviour]);
	pid_t		pid = start_process();

	if (pid > 0)
	{
		close(listener);
		return pid;
	}
	signal(SIGCHLD, SIG_IGN);
	if (behaviour == FULL)
	{
		for (int i = 0; i < 4; i++)
			(void) connect_to_port(ports[FULL]);
		for (;;)
			pause();
	}
	for (;;)
	{
		int			fd = accept(listener, NULL, NULL);

		if (fd >= 0 && start_process() == 0)
			serve(fd, behaviour);
		close(fd);
	}
}

/* ---- Clients --------------------------------------------------------------- */

static int	threads_at_rest;
static int	files_at_rest;

static void
come_to_rest(void)
{
	double		end = now_ms() + PATIENCE_MS;

	while (now_ms() < end && (count_entries("/proc/self/task") > threads_at_rest ||
							  count_entries("/proc/self/fd") > files_at_rest))
		nap(5);
}

/* What one test has left behind does not count against the next. */
static void
check_at_rest(void)
{
	int			threads;
	int			files;

	come_to_rest();
	threads = count_entries("/proc/self/task");
	files = count_entries("/proc/self/fd");
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

static NpWireTarget
target_at(int port, int timeout_ms)
{
	NpWireTarget target = {.host = "127.0.0.1", .port = port, .client_name = "wire test",
	.timeout_ms = timeout_ms};

	return target;
}

static NpWireAttempt *
start(int port, int timeout_ms)
{
	NpWireTarget target = target_at(port, timeout_ms);
	char		error[256] = "";
	NpWireAttempt *attempt = np_wire_start(&target, error, sizeof(error));

	CHECK(attempt != NULL);
	CHECK_STR(error, "");
	return attempt;
}

static bool
has_ended(const NpWireAttempt *attempt, int milliseconds)
{
	struct pollfd fd = {.fd = np_wire_attempt_fd(attempt), .events = POLLIN};

	return poll(&fd, 1, milliseconds) == 1;
}

static NpWireStatus
connect_with(const NpWireTarget *target, NpWire **wire, char *error, size_t error_size)
{
	NpWireAttempt *attempt = np_wire_start(target, error, error_size);

	*wire = NULL;
	if (attempt == NULL)
		return NP_WIRE_FAILED;
	if (has_ended(attempt, PATIENCE_MS))
		return np_wire_finish(attempt, wire, error, error_size);
	np_wire_abandon(attempt);
	snprintf(error, error_size, "(no answer in the time of the test)");
	return NP_WIRE_FAILED;
}

static NpWire *
connect_to(int port)
{
	NpWireTarget target = target_at(port, 5000);
	char		error[256] = "";
	NpWire	   *wire;

	CHECK_INT(connect_with(&target, &wire, error, sizeof(error)), NP_WIRE_OK);
	CHECK_STR(error, "");
	return wire;
}

/* ---- Attempts that fail ----------------------------------------------------- */

static void
expect_failure(const NpWireTarget *target, NpWireStatus status, const char *text)
{
	char		error[256] = "";
	NpWire	   *wire;
	double		start_time = now_ms();

	CHECK_INT(connect_with(target, &wire, error, sizeof(error)), status);
	CHECK(wire == NULL);
	CHECK(error[0] != '\0' && error[0] != '(');
	if (text != NULL && strcasestr(error, text) == NULL)
		CHECK_STR(error, text);
	CHECK(now_ms() - start_time < PATIENCE_MS);
	check_at_rest();
}

static void
test_failures(void)
{
	static const struct
	{
		const char *name;
		Behaviour	behaviour;
		int			timeout_ms;
		NpWireStatus status;
		const char *text;
	}			cases[] = {
		{"a server that closes", CLOSES, 5000, NP_WIRE_FAILED, NULL},
		{"a server that closes after its INFO", CLOSES_AFTER_INFO, 5000, NP_WIRE_FAILED, NULL},
		{"an HTTP server", GARBAGE, 5000, NP_WIRE_FAILED, NULL},
		{"a TLS alert", BINARY, 1000, NP_WIRE_NO_SERVER, NULL},
		{"a server that does not accept us", DENIES, 5000, NP_WIRE_NOT_AUTHORIZED, "authorization"},
		{"a server that does not want us", REFUSES, 5000, NP_WIRE_FAILED, "maximum connections"},
		{"a server without headers", NO_HEADERS, 5000, NP_WIRE_FAILED, "headers"},
		{"a silent server, the library's timeout", SILENT, 300, NP_WIRE_NO_SERVER, NULL},
		{"a host that takes no connection, the library's timeout", FULL, 300, NP_WIRE_NO_SERVER, NULL},
	};
	NpWireTarget target;
	int			port;
	int			fd = listen_somewhere(-1, &port);

	/* the port is taken, but nobody listens */
	target = target_at(port, 5000);
	files_at_rest++;
	expect_failure(&target, NP_WIRE_NO_SERVER, NULL);
	unit_case("fails: a closed port");
	snprintf(target.host, sizeof(target.host), "::1");
	expect_failure(&target, NP_WIRE_NO_SERVER, NULL);
	unit_case("fails: a closed port, IPv6");
	snprintf(target.host, sizeof(target.host), "localhost");
	expect_failure(&target, NP_WIRE_NO_SERVER, NULL);
	unit_case("fails: a closed port, by name");
	files_at_rest--;
	close(fd);

	target = target_at(0, 1000);
	expect_failure(&target, NP_WIRE_NO_SERVER, NULL);
	unit_case("fails: port 0");

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		target = target_at(ports[cases[i].behaviour], cases[i].timeout_ms);
		expect_failure(&target, cases[i].status, cases[i].text);
		unit_case("fails: %s", cases[i].name);
	}
}

/* A reason that is longer than the room for it is cut off. */
static void
short_room_for_the_reason(void)
{
	NpWireTarget target = target_at(ports[DENIES], 5000);
	char	   *error = malloc(4);
	NpWire	   *wire;

	memset(error, 'x', 4);
	CHECK_INT(connect_with(&target, &wire, error, 4), NP_WIRE_NOT_AUTHORIZED);
	CHECK_INT(strnlen(error, 4), 3);
	free(error);
	check_at_rest();
}

/* ---- Attempts that are given up ----------------------------------------------- */

static void
abandon(NpWireAttempt *attempt)
{
	double		start_time = now_ms();

	np_wire_abandon(attempt);
	CHECK(now_ms() - start_time < AT_ONCE_MS);
}

static void
test_abandon(void)
{
	static const struct
	{
		const char *name;
		Behaviour	behaviour;
	}			cases[] = {
		{"a silent server", SILENT},
		{"a server that sends INFO, then nothing", INFO_ONLY},
		{"a server that sends half an INFO", INFO_HALF},
		{"a server that sends bytes without end", ENDLESS},
		{"a host that takes no connection", FULL},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		NpWireAttempt *attempt = start(ports[cases[i].behaviour], 60000);

		/* the endless one may be found out */
		if (has_ended(attempt, 300) && cases[i].behaviour != ENDLESS)
			CHECK(!"ended by itself");
		if (cases[i].behaviour != ENDLESS)
			CHECK(count_entries("/proc/self/task") > threads_at_rest);
		abandon(attempt);
		check_at_rest();
		unit_case("abandoned: %s", cases[i].name);
	}
}

static void
abandoned_after_its_end(void)
{
	NpWireAttempt *attempt = start(ports[GOOD], 5000);

	CHECK(has_ended(attempt, PATIENCE_MS));
	abandon(attempt);
	check_at_rest();

	attempt = start(ports[CLOSES], 5000);
	CHECK(has_ended(attempt, PATIENCE_MS));
	abandon(attempt);
	check_at_rest();
}

/* At any moment of a handshake that goes well. */
static void
abandoned_at_any_moment(void)
{
	uint64_t	state = 20260105;

	for (int i = 0; i < 200; i++)
	{
		NpWireAttempt *attempt = start(ports[GOOD], 5000);
		double		end = now_ms() + (double) (unit_random(&state) % 3000) / 1000;

		while (now_ms() < end)
			;
		abandon(attempt);
	}
	check_at_rest();
}

/* A connection that was there before has nothing to do with an attempt that is given up. */
static void
abandon_leaves_others_alone(void)
{
	NpWire	   *wire = connect_to(ports[GOOD]);
	NpWireAttempt *attempt = start(ports[SILENT], 60000);
	char		byte;

	CHECK(!has_ended(attempt, 200));
	abandon(attempt);
	if (wire != NULL)
	{
		while (recv(np_wire_socket(wire), &byte, 1, MSG_DONTWAIT) == 1)
			;
		CHECK(errno == EAGAIN);
		CHECK(send(np_wire_socket(wire), "x", 1, MSG_NOSIGNAL) == 1);
		np_wire_close(wire);
	}
	check_at_rest();
}

/* The attempt may not have got as far as to have a socket; its thread has to end all the same. */
static void
test_abandon_immediately(void)
{
	static const struct
	{
		const char *name;
		Behaviour	behaviour;
	}			cases[] = {
		{"a server that closes", CLOSES},
		{"a host that takes no connection", FULL},
		{"a silent server", SILENT},
		{"a server that sends INFO, then nothing", INFO_ONLY},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		for (int j = 0; j < 20; j++)
			abandon(start(ports[cases[i].behaviour], 60000));
		check_at_rest();
		unit_case("abandoned immediately: %s", cases[i].name);
	}
}

/* ---- Connections ---------------------------------------------------------------- */

static void
identity(void)
{
	NpWire	   *wire = connect_to(ports[GOOD]);

	if (wire == NULL)
		return;
	CHECK_STR(np_wire_server_id(wire), "NTEST");
	/* only newer libraries tell the name */
	CHECK(strcmp(np_wire_server_name(wire), "n") == 0 || strcmp(np_wire_server_name(wire), "NTEST") == 0);
	CHECK_STR(np_wire_client_ip(wire), "127.0.0.9");
	CHECK_INT(np_wire_client_id(wire), 42);
	CHECK_INT(np_wire_max_payload(wire), 12345);
	CHECK(np_wire_socket(wire) >= 0);
	np_wire_close(wire);
	check_at_rest();
}

/*
 * What follows the PONG that ends the handshake, in the same packet even, is ours to read. The
 * server GOOD sends what it has heard.
 */
static size_t
read_greeting(NpWire *wire, char *buffer, size_t size)
{
	size_t		length = 0;
	double		end = now_ms() + PATIENCE_MS;

	buffer[0] = '\0';
	while (now_ms() < end && length < size - 1 && strstr(buffer, "PING\r\n") == NULL)
	{
		struct pollfd fd = {.fd = np_wire_socket(wire), .events = POLLIN};
		ssize_t		count;

		poll(&fd, 1, 100);
		count = recv(fd.fd, buffer + length, size - 1 - length, MSG_DONTWAIT);
		if (count > 0)
			length += (size_t) count;
		buffer[length] = '\0';
	}
	return length;
}

/* Connect as somebody; what the server is told must contain each of the texts. */
static void
expect_greeting(const NpWireTarget *target, const char *first, const char *second)
{
	char		error[256] = "";
	char		greeting[8192];
	NpWire	   *wire;

	CHECK_INT(connect_with(target, &wire, error, sizeof(error)), NP_WIRE_OK);
	CHECK_STR(error, "");
	if (wire == NULL)
		return;
	read_greeting(wire, greeting, sizeof(greeting));
	CHECK(strncmp(greeting, "CONNECT {", 9) == 0);
	CHECK(strstr(greeting, "}\r\nPING\r\n") != NULL);
	CHECK(strstr(greeting, "\"verbose\":false") != NULL);
	CHECK(strstr(greeting, "\"headers\":true") != NULL);
	CHECK(strstr(greeting, "\"no_responders\":true") != NULL);
	if (strstr(greeting, first) == NULL)
		CHECK_STR(greeting, first);
	if (strstr(greeting, second) == NULL)
		CHECK_STR(greeting, second);
	np_wire_close(wire);
}

static void
test_greetings(void)
{
	NpWireTarget target = target_at(ports[GOOD], 5000);

	expect_greeting(&target, "\"name\":\"wire test\"", "\"pedantic\":false");
	unit_case("greeting: without credentials; what follows the PONG is left to us");

	snprintf(target.user, sizeof(target.user), "joe");
	snprintf(target.password, sizeof(target.password), "s3cret");
	expect_greeting(&target, "\"user\":\"joe\"", "\"pass\":\"s3cret\"");
	unit_case("greeting: user and password");

	snprintf(target.user, sizeof(target.user), "a:b@c/d%%41 e");
	snprintf(target.password, sizeof(target.password), "p:q@r/s%%42 t");
	expect_greeting(&target, "\"user\":\"a:b@c/d%41 e\"", "\"pass\":\"p:q@r/s%42 t\"");
	unit_case("greeting: user and password with bytes that mean something in URLs");

	snprintf(target.password, sizeof(target.password), "d\"e\\f");
	expect_greeting(&target, "\"user\":\"a:b@c/d%41 e\"", "\"pass\":\"d\\\"e\\\\f\"");
	unit_case("greeting: a password with a quote and a backslash");

	memset(target.password, 'p', sizeof(target.password) - 1);
	target.password[sizeof(target.password) - 1] = '\0';
	memset(target.user, 'u', sizeof(target.user) - 1);
	target.user[sizeof(target.user) - 1] = '\0';
	expect_greeting(&target, target.user, target.password);
	unit_case("greeting: the longest user and password");

	target = target_at(ports[GOOD], 5000);
	snprintf(target.token, sizeof(target.token), "t0ken");
	expect_greeting(&target, "\"auth_token\":\"t0ken\"", "\"name\":\"wire test\"");
	unit_case("greeting: a token");
	check_at_rest();
}

/* Nothing is awaited, neither a PONG nor that the server takes what is in the socket's buffer. */
static void
close_with_a_full_buffer(void)
{
	NpWire	   *wire = connect_to(ports[GOOD]);
	static char bytes[65536];
	double		start_time;

	if (wire == NULL)
		return;
	for (double end = now_ms() + PATIENCE_MS; now_ms() < end;)
		if (send(np_wire_socket(wire), bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	start_time = now_ms();
	np_wire_close(wire);
	CHECK(now_ms() - start_time < 450); /* the library's flush would take 500 ms */
	check_at_rest();
}

static void
close_when_the_server_is_gone(void)
{
	pid_t		pid = start_server(GOOD);
	NpWire	   *wire = connect_to(ports[GOOD]);
	double		start_time;

	kill(pid, SIGKILL);			/* and with it the process of the connection */
	waitpid(pid, NULL, 0);
	if (wire == NULL)
		return;
	nap(100);
	start_time = now_ms();
	np_wire_close(wire);
	CHECK(now_ms() - start_time < 450);
	check_at_rest();
}

static void
two_connections(void)
{
	int			port = ports[GOOD];
	NpWire	   *first = connect_to(port);
	NpWire	   *second = connect_to(port);

	if (first == NULL || second == NULL)
		return;
	CHECK(np_wire_socket(first) != np_wire_socket(second));
	np_wire_close(first);
	CHECK(send(np_wire_socket(second), "x", 1, MSG_NOSIGNAL) == 1);
	np_wire_close(second);
	check_at_rest();
}

/* All signals, of every thread but this one; this one's mask must be what it was. */
static void
check_signals_blocked(void)
{
	DIR		   *directory = opendir("/proc/self/task");
	struct dirent *entry;
	static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM,
	SIGCHLD, SIGURG};
	sigset_t	mine;
	int			seen = 0;

	while (directory != NULL && (entry = readdir(directory)) != NULL)
	{
		char		path[300];
		char		line[200];
		FILE	   *file;

		if (atoi(entry->d_name) <= 0 || atoi(entry->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		file = fopen(path, "r");
		while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		{
			unsigned long long blocked;

			if (sscanf(line, "SigBlk: %llx", &blocked) != 1)
				continue;
			seen++;
			for (size_t i = 0; i < UNIT_COUNT(signals); i++)
				CHECK(blocked >> (signals[i] - 1) & 1);
		}
		if (file != NULL)
			fclose(file);
	}
	if (directory != NULL)
		closedir(directory);
	CHECK(seen > 0);
	pthread_sigmask(SIG_SETMASK, NULL, &mine);
	for (size_t i = 0; i < UNIT_COUNT(signals); i++)
		CHECK(!sigismember(&mine, signals[i]));
}

static void
signals_are_blocked_in_threads(void)
{
	NpWireAttempt *attempt = start(ports[SILENT], 60000);
	NpWire	   *wire;

	CHECK(!has_ended(attempt, 100));
	check_signals_blocked();
	abandon(attempt);
	check_at_rest();
	wire = connect_to(ports[GOOD]);
	check_signals_blocked();
	if (wire != NULL)
		np_wire_close(wire);
	check_signals_blocked();
}

static volatile sig_atomic_t alarms;

static void
on_alarm(int signal)
{
	(void) signal;
	alarms++;
}

/* The library takes EINTR for a lost connection. */
static void
connects_under_a_rain_of_signals(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct itimerspec often = {{0, 200000}, {0, 200000}};
	timer_t		timer;

	alarms = 0;
	sigaction(SIGALRM, &action, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
		abort();
	timer_settime(timer, 0, &often, NULL);
	for (int i = 0; i < 20; i++)
	{
		NpWireAttempt *attempt = start(ports[GOOD], 5000);
		NpWire	   *wire = NULL;
		char		error[256] = "";
		double		end = now_ms() + PATIENCE_MS;

		while (!has_ended(attempt, 100) && now_ms() < end)
			;
		CHECK_INT(np_wire_finish(attempt, &wire, error, sizeof(error)), NP_WIRE_OK);
		CHECK_STR(error, "");
		if (wire != NULL)
			np_wire_close(wire);
	}
	timer_delete(timer);
	CHECK(alarms > 0);
	check_at_rest();
}

static void
fifty_times(void)
{
	for (int i = 0; i < 50; i++)
	{
		NpWire	   *wire = connect_to(ports[GOOD]);

		if (wire != NULL)
			np_wire_close(wire);
	}
	check_at_rest();
}

static void
library_version(void)
{
	int			major;
	int			minor;

	CHECK_INT(sscanf(np_wire_library_version(), "%d.%d", &major, &minor), 2);
}

/* ---- A real server ------------------------------------------------------------------ */

static const char *const real_tests[] = {
	"connects and closes 50 times", "is asked for what it is", "answers a PING",
	"a wrong password", "no credentials", "a password with a quote and a backslash", "abandoned at any moment"
};

static pid_t
start_real_server(int port, char *config)
{
	const char *program = getenv("NATS_SERVER");
	pid_t		pid;
	FILE	   *file = fdopen(mkstemp(config), "w");

	if (file == NULL)
		abort();
	fprintf(file, "listen: \"127.0.0.1:%d\"\n"
			"authorization { users = [ {user: \"u\", password: \"p\"}, {user: \"q\", password: 'd\"e\\f'} ] }\n",
			port);
	fclose(file);

	pid = start_process();
	if (pid == 0)
	{
		int			null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		if (program != NULL && program[0] != '\0')
			execlp(program, program, "-c", config, (char *) NULL);
		else
		{
			execlp("nats-server", "nats-server", "-c", config, (char *) NULL);
			execl("/usr/sbin/nats-server", "nats-server", "-c", config, (char *) NULL);
		}
		_exit(127);
	}
	return pid;
}

/* False: the process has ended, or is not there in time. */
static bool
wait_until_up(pid_t *pid, int port)
{
	for (double end = now_ms() + PATIENCE_MS; now_ms() < end; nap(20))
	{
		int			fd = connect_to_port(port);
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		char		byte;
		bool		up = poll(&poll_fd, 1, 200) == 1 && recv(fd, &byte, 1, 0) == 1 && byte == 'I';

		close(fd);
		if (up)
			return true;
		if (waitpid(*pid, NULL, WNOHANG) == *pid)
		{
			*pid = 0;
			return false;
		}
	}
	return false;
}

static NpWireTarget
real_target(int port, const char *user, const char *password)
{
	NpWireTarget target = target_at(port, 5000);

	snprintf(target.user, sizeof(target.user), "%s", user);
	snprintf(target.password, sizeof(target.password), "%s", password);
	return target;
}

static NpWire *
connect_as(int port, const char *user, const char *password, NpWireStatus expected)
{
	NpWireTarget target = real_target(port, user, password);
	char		error[256] = "";
	NpWire	   *wire;

	CHECK_INT(connect_with(&target, &wire, error, sizeof(error)), expected);
	if (expected == NP_WIRE_OK)
		CHECK_STR(error, "");
	else
		CHECK(error[0] != '\0');
	return wire;
}

static void
ping(NpWire *wire)
{
	char		buffer[4096];
	size_t		length = 0;

	CHECK(send(np_wire_socket(wire), "PING\r\n", 6, MSG_NOSIGNAL) == 6);
	buffer[0] = '\0';
	for (double end = now_ms() + PATIENCE_MS; now_ms() < end && strstr(buffer, "PONG\r\n") == NULL;)
	{
		struct pollfd fd = {.fd = np_wire_socket(wire), .events = POLLIN};
		ssize_t		count;

		poll(&fd, 1, 100);
		count = recv(fd.fd, buffer + length, sizeof(buffer) - 1 - length, MSG_DONTWAIT);
		if (count > 0)
			length += (size_t) count;
		buffer[length] = '\0';
	}
	CHECK(strstr(buffer, "PONG\r\n") != NULL);
}

static void
test_real_server(void)
{
	const char *directory = getenv("TMPDIR");
	char		config[300];
	int			port;
	int			next = 0;
	pid_t		pid;
	NpWire	   *wire;
	uint64_t	state = 20260106;

	close(listen_somewhere(-1, &port));
	snprintf(config, sizeof(config), "%s/wire_test.XXXXXX", directory != NULL ? directory : "/tmp");
	pid = start_real_server(port, config);
	if (!wait_until_up(&pid, port))
	{
		while (next < (int) UNIT_COUNT(real_tests))
			unit_case("a real server: %s # skip no nats-server", real_tests[next++]);
		if (pid > 0)
		{
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		unlink(config);
		return;
	}

	for (int i = 0; i < 50; i++)
		if ((wire = connect_as(port, "u", "p", NP_WIRE_OK)) != NULL)
			np_wire_close(wire);
	check_at_rest();
	unit_case("a real server: %s", real_tests[next++]);

	if ((wire = connect_as(port, "u", "p", NP_WIRE_OK)) != NULL)
	{
		CHECK_INT(strlen(np_wire_server_id(wire)), 56);
		CHECK_STR(np_wire_client_ip(wire), "127.0.0.1");
		CHECK(np_wire_client_id(wire) > 0);
		CHECK_INT(np_wire_max_payload(wire), 1024 * 1024);
		unit_case("a real server: %s", real_tests[next++]);
		ping(wire);
		np_wire_close(wire);
		check_at_rest();
		unit_case("a real server: %s", real_tests[next++]);
	}

	(void) connect_as(port, "u", "wrong", NP_WIRE_NOT_AUTHORIZED);
	check_at_rest();
	unit_case("a real server: %s", real_tests[next++]);
	(void) connect_as(port, "", "", NP_WIRE_NOT_AUTHORIZED);
	check_at_rest();
	unit_case("a real server: %s", real_tests[next++]);
	if ((wire = connect_as(port, "q", "d\"e\\f", NP_WIRE_OK)) != NULL)
		np_wire_close(wire);
	check_at_rest();
	unit_case("a real server: %s", real_tests[next++]);

	for (int i = 0; i < 100; i++)
	{
		NpWireTarget target = real_target(port, "u", "p");
		char		error[256];
		NpWireAttempt *attempt = np_wire_start(&target, error, sizeof(error));
		double		end = now_ms() + (double) (unit_random(&state) % 4000) / 1000;

		while (now_ms() < end)
			;
		if (attempt != NULL)
			abandon(attempt);
	}
	check_at_rest();
	unit_case("a real server: %s", real_tests[next++]);

	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
	unlink(config);
}

int
main(void)
{
	pid_t		servers[BEHAVIOURS];
	NpWire	   *wire;

	for (int i = 0; i < BEHAVIOURS; i++)
		servers[i] = start_server((Behaviour) i);
	nap(100);

	/* opens the library; its threads stay */
	wire = connect_to(ports[GOOD]);
	if (wire != NULL)
		np_wire_close(wire);
	nap(300);
	threads_at_rest = count_entries("/proc/self/task");
	files_at_rest = count_entries("/proc/self/fd");
	unit_case("the library opens");

	RUN(library_version);
	RUN(identity);
	test_greetings();
	test_failures();
	RUN(short_room_for_the_reason);
	test_abandon();
	RUN(abandoned_after_its_end);
	RUN(abandoned_at_any_moment);
	RUN(abandon_leaves_others_alone);
	RUN(two_connections);
	RUN(close_with_a_full_buffer);
	RUN(signals_are_blocked_in_threads);
	RUN(connects_under_a_rain_of_signals);
	RUN(fifty_times);
	test_real_server();
	RUN(close_when_the_server_is_gone);
	test_abandon_immediately();

	for (int i = 0; i < BEHAVIOURS; i++)
	{
		kill(servers[i], SIGKILL);
		waitpid(servers[i], NULL, 0);
	}
	return unit_done();
}
