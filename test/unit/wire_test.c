/*
 * wire_test.c
 *		Connecting by way of libnats, giving up, closing: to servers of all kinds of ill will.
 *
 * The servers are child processes, not threads: connect_attempt.c looks at all threads' sockets, as they are
 * its own process's. wire_server_test.c is for a real one.
 */
#include "wire_client.h"

#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>

/* ---- Servers ------------------------------------------------------------- */

typedef enum Behaviour
{
	SILENT,						/* accepts, says nothing */
	INFO_ONLY,					/* INFO, then nothing */
	INFO_TLS,					/* INFO that demands TLS, then nothing */
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
	TELLS_OF_SILENT,			/* INFO with many others, then closes */
	TELLS_OF_GOOD,				/* the same with one that would take us */
	FULL,						/* a listener that accepts nothing, its queue full */
	BEHAVIOURS
} Behaviour;

/* Before the library was opened for the first time. */
static int	threads_before;

/* ThreadSanitizer starts one of its own with the first thread. */
#ifdef UNIT_TSAN
#define OWN_THREADS	1
#else
#define OWN_THREADS	0
#endif

/* Of the library, while it is open. */
#define LIBRARY_THREADS	3

static int	ports[BEHAVIOURS];

#define INFO(headers) INFO_WITH("\"headers\":" headers)
#define INFO_CLUSTER INFO_WITH("\"headers\":true,\"connect_urls\":[\"127.0.0.2:1\",\"127.0.0.2:2\"]")
#define INFO_WITH(field) \
	"INFO {\"server_id\":\"NTEST\",\"server_name\":\"n\",\"version\":\"2.10.0\",\"proto\":1,\"go\":\"go\"," \
	"\"host\":\"127.0.0.1\",\"port\":4222," field ",\"max_payload\":12345,\"client_id\":42," \
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

/* Of so many others, who are all one: an address can be written in many ways. */
static void
tell_of(int fd, int count, int port)
{
	static char urls[64 * 1024];
	char		info[sizeof(urls) + 1024];
	size_t		length = 0;

	for (int i = 0; i < count; i++)
		length += (size_t) sprintf(urls + length, "%s\"127.0.0.%0*d:%d\"", i > 0 ? "," : "", 1 + i, 1, port);
	length = (size_t) sprintf(info, "INFO {\"server_id\":\"NTEST\",\"headers\":true,\"max_payload\":1,\"connect_urls\":[%s]}\r\n", urls);
	say(fd, info, length);
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
		case INFO_TLS:
			say(fd, INFO_WITH("\"tls_required\":true"), sizeof(INFO_WITH("\"tls_required\":true")) - 1);
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
			say(fd, INFO_CLUSTER, sizeof(INFO_CLUSTER) - 1);
			say(fd, heard, 6 + hear(fd, heard + 6, sizeof(heard) - 6));
			break;
		case TELLS_OF_SILENT:
			tell_of(fd, 200, ports[SILENT]);
			hear(fd, heard, sizeof(heard));
			_exit(0);
		case TELLS_OF_GOOD:
			tell_of(fd, 1, ports[GOOD]);
			hear(fd, heard, sizeof(heard));
			_exit(0);
		default:
			break;
	}
	for (;;)
		pause();
}

static pid_t
start_server_with(int listener, Behaviour behaviour)
{
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

static pid_t
start_server(Behaviour behaviour)
{
	return start_server_with(listen_somewhere(behaviour == FULL ? 0 : 64, &ports[behaviour]), behaviour);
}

/* ---- Clients --------------------------------------------------------------- */

static NpConnectAttempt *
start(int port, int timeout_ms)
{
	NpWireTarget target = target_at(port, timeout_ms);

	return start_to(&target);
}

static NpWire *
connect_to(int port)
{
	NpWireTarget target = target_at(port, 5000);

	return connect_at(&target);
}

/* ---- Attempts that fail ----------------------------------------------------- */

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
		{"a server that sends us to another", TELLS_OF_GOOD, 5000, NP_WIRE_FAILED, "before it was ready"},
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

/* ---- A host with two addresses ------------------------------------------------- */

/* 127.0.0.2, then 127.0.0.1. */
#define TWO_ADDRESSES	"two.test"

int			__real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int			__wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* The linker puts it in the place of getaddrinfo (--wrap). */
int
__wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **addresses)
{
	int			failure;

	if (strcmp(host, TWO_ADDRESSES) != 0)
		return __real_getaddrinfo(host, port, hints, addresses);
	failure = __real_getaddrinfo("127.0.0.2", port, hints, addresses);
	return failure != 0 ? failure : __real_getaddrinfo("127.0.0.1", port, hints, &(*addresses)->ai_next);
}

static struct sockaddr_in
first_address(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons((uint16_t) ports[GOOD])};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	return address;
}

/* At the first address, with the port of the good server at the second. */
static int
listen_at_first_address(int backlog)
{
	struct sockaddr_in address = first_address();
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int			on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/* the children of one that was killed go a little later */
	for (double end = now_ms() + PATIENCE_MS; bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0; nap(10))
		if (now_ms() > end)
			abort();
	if (listen(fd, backlog) != 0)
		abort();
	return fd;
}

static NpWireTarget
target_with_two_addresses(void)
{
	NpWireTarget target = target_at(ports[GOOD], 2000);

	snprintf(target.host, sizeof(target.host), TWO_ADDRESSES);
	return target;
}

static void
expect_second_address(const NpWireTarget *target)
{
	NpWire	   *wire = connect_at(target);

	if (wire != NULL)
		np_wire_close(wire);
	check_at_rest();
}

static void
first_address_is_silent(void)
{
	pid_t		server = start_server_with(listen_at_first_address(64), SILENT);
	NpWireTarget target = target_with_two_addresses();

	expect_second_address(&target);
	kill_process(server);
}

/* Its queue is full. */
static void
first_address_takes_no_connection(void)
{
	struct sockaddr_in address = first_address();
	NpWireTarget target = target_with_two_addresses();
	pid_t		server;
	int			listener = listen_at_first_address(0);

	server = start_process();
	if (server == 0)
	{
		for (int i = 0; i < 4; i++)
		{
			int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

			(void) connect(fd, (struct sockaddr *) &address, sizeof(address));
		}
		for (;;)
			pause();
	}
	close(listener);
	nap(100);
	expect_second_address(&target);
	kill_process(server);
}

/* The library may wait at it for ever, in 3.4.1: then the next attempt begins with the second one. */
static void
first_address_says_no_more_than_info(void)
{
	pid_t		server = start_server_with(listen_at_first_address(64), INFO_ONLY);
	NpWireTarget target = target_with_two_addresses();
	NpConnectAttempt *attempt = start_to(&target);
	char		error[256] = "";
	NpWire	   *wire = NULL;

	if (!has_ended(attempt, 3 * target.timeout_ms))
		abandon(attempt);
	else
		CHECK_INT(np_connect_attempt_finish(attempt, &wire, error, sizeof(error)), NP_WIRE_OK);
	if (wire != NULL)
		np_wire_close(wire);
	expect_second_address(&target);
	kill_process(server);
}

/* ---- Attempts that are given up ----------------------------------------------- */

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
		{"a server that demands TLS, then nothing", INFO_TLS},
		{"a server that sends half an INFO", INFO_HALF},
		{"a server that sends bytes without end", ENDLESS},
		{"a host that takes no connection", FULL},
	};

	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
	{
		NpConnectAttempt *attempt = start(ports[cases[i].behaviour], 60000);

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
	NpConnectAttempt *attempt = start(ports[GOOD], 5000);

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
		NpConnectAttempt *attempt = start(ports[GOOD], 5000);

		spin_for(&state, 3000);
		abandon(attempt);
	}
	check_at_rest();
}

/* A connection that was there before has nothing to do with an attempt that is given up. */
static void
abandon_leaves_others_alone(void)
{
	NpWire	   *wire = connect_to(ports[GOOD]);
	NpConnectAttempt *attempt = start(ports[SILENT], 60000);
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

/* Connected, or still connecting: then what is sent waits. */
static bool
lives(int fd)
{
	return send(fd, "x", 1, MSG_NOSIGNAL) == 1 || errno == EAGAIN || errno == ENOTCONN;
}

/* What another thread has opened meanwhile, has not either. */
static void
abandon_leaves_new_ones_alone(void)
{
	struct pollfd listener = {.events = POLLIN};
	NpConnectAttempt *attempt = start(ports[SILENT], 60000);
	int			port;
	int			fds[2];

	CHECK(!has_ended(attempt, 200));
	fds[0] = connect_to_port(ports[SILENT]);
	fds[1] = connect_to_port(ports[FULL]);
	listener.fd = listen_somewhere(1, &port);
	/* not the one that is still connecting: that looks like the library's */
	fcntl(fds[0], F_SETFD, 0);
	fcntl(listener.fd, F_SETFD, 0);
	fcntl(listener.fd, F_SETFL, O_NONBLOCK);
	abandon(attempt);
	CHECK(lives(fds[0]));
	CHECK(lives(fds[1]));
	CHECK(poll(&listener, 1, 0) == 0);
	close(fds[0]);
	close(fds[1]);
	close(listener.fd);
	check_at_rest();
}

/*
 * The library goes through all that a server has told it of when that does not take us, and nothing ends it. Only
 * one thread at a time does.
 */
static void
others_are_gone_through_once(void)
{
	NpWireTarget target = target_at(ports[TELLS_OF_SILENT], 60000);
	NpConnectAttempt *attempt = start_to(&target);

	CHECK(!has_ended(attempt, 500));
	abandon(attempt);
	/* its own, and those of the library, which is open for it */
	CHECK_INT(count_entries("/proc/self/task"), threads_at_rest + 1 + LIBRARY_THREADS);
	for (int i = 0; i < 5; i++)
	{
		char		error[256];
		NpWire	   *wire;

		CHECK_INT(connect_with(&target, &wire, error, sizeof(error)), NP_WIRE_FAILED);
	}
	/* those that are given up take it on */
	for (int i = 0; i < 300 && count_entries("/proc/self/task") > threads_at_rest; i++)
		abandon(start(ports[SILENT], 60000));
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
	char	  **servers;
	int			count;

	if (wire == NULL)
		return;
	CHECK_STR(np_wire_server_id(wire), "NTEST");
	/* only newer libraries tell the name */
	CHECK(strcmp(np_wire_server_name(wire), "n") == 0 || strcmp(np_wire_server_name(wire), "NTEST") == 0);
	CHECK_STR(np_wire_client_ip(wire), "127.0.0.9");
	CHECK_INT(np_wire_client_id(wire), 42);
	CHECK_INT(np_wire_max_payload(wire), 12345);
	CHECK(np_wire_socket(wire) >= 0);
	/* no program gets it that the process starts */
	CHECK((fcntl(np_wire_socket(wire), F_GETFD) & FD_CLOEXEC) != 0);
	count = np_wire_discovered(wire, &servers);
	CHECK_INT(count, 2);
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

	kill_process(pid);			/* and with it that of the connection */
	if (wire == NULL)
		return;
	nap(100);
	start_time = now_ms();
	np_wire_close(wire);
	CHECK(now_ms() - start_time < 450);
	check_at_rest();
}

/* The library is closed when nobody connects, so that its threads end. */
static void
connected_without_a_thread(void)
{
	NpWire	   *wire = connect_to(ports[GOOD]);

	if (wire == NULL)
		return;
	for (int i = 0; i < PATIENCE_MS && count_entries("/proc/self/task") > threads_before + OWN_THREADS; i++)
		nap(1);
	CHECK_INT(count_entries("/proc/self/task"), threads_before + OWN_THREADS);
	CHECK(send(np_wire_socket(wire), "x", 1, MSG_NOSIGNAL) == 1);
	np_wire_close(wire);
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

/* All signals, of every thread but this one, and so many there must be at least; this one's mask must be what it was. */
static void
check_signals_blocked(int threads)
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
			int			threads_alive;

			/* of a thread that has just ended the kernel shows no threads, and a mask of nothing */
			if (sscanf(line, "Threads: %d", &threads_alive) == 1 && threads_alive == 0)
				break;
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
	CHECK(seen >= threads);
	pthread_sigmask(SIG_SETMASK, NULL, &mine);
	for (size_t i = 0; i < UNIT_COUNT(signals); i++)
		CHECK(!sigismember(&mine, signals[i]));
}

static void
signals_are_blocked_in_threads(void)
{
	NpConnectAttempt *attempt = start(ports[SILENT], 60000);
	NpWire	   *wire;

	CHECK(!has_ended(attempt, 100));
	check_signals_blocked(1 + LIBRARY_THREADS);
	abandon(attempt);
	check_at_rest();
	wire = connect_to(ports[GOOD]);
	check_signals_blocked(0);
	if (wire != NULL)
		np_wire_close(wire);
	check_signals_blocked(0);
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
		NpConnectAttempt *attempt = start(ports[GOOD], 5000);
		NpWire	   *wire = NULL;
		char		error[256] = "";
		double		end = now_ms() + PATIENCE_MS;

		while (!has_ended(attempt, 100) && now_ms() < end)
			;
		CHECK_INT(np_connect_attempt_finish(attempt, &wire, error, sizeof(error)), NP_WIRE_OK);
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

	CHECK_INT(sscanf(np_library_version(), "%d.%d", &major, &minor), 2);
}

int
main(void)
{
	pid_t		servers[BEHAVIOURS];
	NpWire	   *wire;

	for (int i = 0; i < BEHAVIOURS; i++)
		servers[i] = start_server((Behaviour) i);
	nap(100);

	threads_before = count_entries("/proc/self/task");
	/* what OpenSSL and the C library open once */
	wire = connect_to(ports[GOOD]);
	if (wire != NULL)
		np_wire_close(wire);
	nap(300);
	files_at_rest = count_files();
	threads_at_rest = count_entries("/proc/self/task");
	unit_case("the library opens");
	RUN(connected_without_a_thread);

	RUN(library_version);
	RUN(identity);
	test_greetings();
	test_failures();
	RUN(short_room_for_the_reason);
	RUN(first_address_is_silent);
	RUN(first_address_takes_no_connection);
	RUN(first_address_says_no_more_than_info);
	test_abandon();
	RUN(abandoned_after_its_end);
	RUN(abandoned_at_any_moment);
	RUN(abandon_leaves_others_alone);
	RUN(abandon_leaves_new_ones_alone);
	RUN(others_are_gone_through_once);
	RUN(identity);
	RUN(two_connections);
	RUN(close_with_a_full_buffer);
	RUN(signals_are_blocked_in_threads);
	RUN(connects_under_a_rain_of_signals);
	RUN(fifty_times);
	RUN(close_when_the_server_is_gone);
	test_abandon_immediately();

	for (int i = 0; i < BEHAVIOURS; i++)
		kill_process(servers[i]);
	return unit_done();
}
