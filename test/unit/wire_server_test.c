/*
 * wire_server_test.c
 *		wire.c against real servers, as connection.c uses it, with TLS and without: connecting, publishing, closing, over
 *		and over; being refused; giving up at any moment; servers that die, stop and come back. It checks what
 *		comes of it, and above all it is what the sanitizers look at.
 *
 * Skipped where there is no nats-server. The threads are those of connect_attempt.c and libnats: this file has none.
 */
#include "wire_client.h"

#include "message/protocol.h"

#include <fcntl.h>
#include <ftw.h>
#include <netdb.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* What one session publishes, in pieces of what connection.c sends at once. */
#define MESSAGES		2000
#define PIECE_SIZE		(32 * 1024)

#define INBOX			"_INBOX.wire."

/* A host whose name is resolved when the test says so. */
#define SLOW_HOST		"slow.test"

/* ---- Servers ------------------------------------------------------------- */

typedef struct Server
{
	const char *name;
	const char *config;			/* one %s: the directory */
	bool		tls;
	int			port;
	pid_t		pid;
} Server;

static Server plain = {.name = "plain",
.config = "jetstream { store_dir: \"%s/plain\" }\n"};

static Server secure = {.name = "TLS",.tls = true,
.config = "tls { cert_file: \"server.crt\", key_file: \"server.key\" }\njetstream { store_dir: \"%s/secure\" }\n"};

static char directory[256];

static int
remove_file(const char *path, const struct stat *status, int kind, struct FTW *position)
{
	(void) status;
	(void) kind;
	(void) position;
	return remove(path);
}

/* In the directory, with what it says in the log; only returns to say that there is no such program. */
static void
run_program(const char *program, char *const arguments[])
{
	int			log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);

	dup2(log, 1);
	dup2(log, 2);
	execvp(program, arguments);
}

static bool
make_certificate(char *key, char *certificate)
{
	char	   *arguments[] = {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
		"-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
	"-keyout", key, "-out", certificate, NULL};
	pid_t		pid = start_process();
	int			status;

	if (pid == 0)
	{
		run_program("openssl", arguments);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid && status == 0;
}

/*
 * The system's authorities, for this process: libnats loads them for each TLS connection. They do not know our servers,
 * and many of them take as long as those of a usual system.
 */
static void
write_authorities(const char *path, int count)
{
	FILE	   *from = fopen("foreign.crt", "r");
	FILE	   *to = fopen(path, "w");
	char		certificate[4096];
	size_t		length;

	if (from == NULL || to == NULL)
		abort();
	length = fread(certificate, 1, sizeof(certificate), from);
	while (count-- > 0)
		fwrite(certificate, 1, length, to);
	fclose(from);
	fclose(to);
}

static void
write_config(const Server *server)
{
	FILE	   *file = fopen("config", "w");

	if (file == NULL)
		abort();
	fprintf(file, "listen: \"127.0.0.1:%d\"\n"
			"authorization { users = [ {user: \"u\", password: \"p\"}, {user: \"q\", password: 'd\"e\\f'} ] }\n",
			server->port);
	fprintf(file, server->config, directory);
	fclose(file);
}

/* Has it said INFO?  It waits no longer than a while. */
static bool
greets(int port)
{
	int			fd = connect_to_port(port);
	struct pollfd poll_fd = {.fd = fd,.events = POLLIN};
	char		byte;
	bool		greets = poll(&poll_fd, 1, 200) == 1 && recv(fd, &byte, 1, 0) == 1 && byte == 'I';

	close(fd);
	return greets;
}

/* False: there is no such program, or it does not start.  It keeps its port. */
static bool
start_server(Server *server)
{
	char	   *arguments[] = {"nats-server", "-c", "config", NULL};
	const char *program = getenv("NATS_SERVER");

	if (server->port == 0)
		close(listen_somewhere(-1, &server->port));
	write_config(server);
	server->pid = start_process();
	if (server->pid == 0)
	{
		run_program(program != NULL && program[0] != '\0' ? program : "nats-server", arguments);
		run_program("/usr/sbin/nats-server", arguments);
		_exit(127);
	}
	for (double end = now_ms() + PATIENCE_MS; now_ms() < end; nap(20))
	{
		if (greets(server->port))
			return true;
		if (waitpid(server->pid, NULL, WNOHANG) == server->pid)
			break;
	}
	server->pid = 0;
	return false;
}

/* As in a crash. */
static void
kill_server(Server *server)
{
	if (server->pid > 0)
		kill_process(server->pid);
	server->pid = 0;
}

/* From when this returns it answers nothing; the kernel still takes connections for it. */
static void
stop_server(Server *server)
{
	int			status;

	kill(server->pid, SIGSTOP);
	waitpid(server->pid, &status, WUNTRACED);
}

static void
continue_server(Server *server)
{
	kill(server->pid, SIGCONT);
}

static NpWireTarget
target_of(const Server *server)
{
	NpWireTarget target = target_at(server->port, 5000);

	snprintf(target.user, sizeof(target.user), "u");
	snprintf(target.password, sizeof(target.password), "p");
	if (server->tls)
	{
		target.tls = true;
		snprintf(target.tls_name, sizeof(target.tls_name), "localhost");
		snprintf(target.tls_ca_file, sizeof(target.tls_ca_file), "server.crt");
	}
	return target;
}

/* ---- A session as connection.c has one ------------------------------------- */

typedef struct Session
{
	NpWire	   *wire;
	bool		lost;
	size_t		length;			/* of what is not parsed yet */
	char		input[64 * 1024];
	uint64_t	acks;
	uint64_t	pongs;
	uint64_t	answers;		/* to request() */
	char		answer[4096];
} Session;

static void
handle_message(Session *session, const NpOperation *operation)
{
	NpSpan		token = operation->subject;
	NpPubAck	ack;
	uint64_t	number;

	token.data += strlen(INBOX);
	token.length -= strlen(INBOX);
	CHECK(np_token_decode(token, &number));
	if (number == 0)
	{
		snprintf(session->answer, sizeof(session->answer), "%.*s", (int) operation->payload.length,
				 operation->payload.data);
		session->answers++;
		return;
	}
	if (!np_puback_parse(operation->payload, &ack))
		CHECK_BYTES(operation->payload.data, operation->payload.length, "a PubAck", 8);
	session->acks++;
}

/* No session is so long that the server would miss an answer to its PING. */
static void
handle_operation(Session *session, const NpOperation *operation)
{
	if (operation->kind == NP_OP_MESSAGE)
		handle_message(session, operation);
	else if (operation->kind == NP_OP_PONG)
		session->pongs++;
}

static void
parse_input(Session *session)
{
	size_t		start = 0;
	size_t		consumed;
	size_t		needed;
	NpOperation operation;
	NpParseResult result;

	while ((result = np_operation_parse(session->input + start, session->length - start, &operation, &consumed,
										&needed)) == NP_PARSED)
	{
		start += consumed;
		handle_operation(session, &operation);
	}
	CHECK_INT(result, NP_PARSE_INCOMPLETE);
	session->length -= start;
	memmove(session->input, session->input + start, session->length);
}

/* What has arrived; can find the connection lost. */
static void
receive(Session *session)
{
	ssize_t		count;

	while ((count = np_wire_receive(session->wire, session->input + session->length,
									sizeof(session->input) - session->length)) > 0)
	{
		session->length += (size_t) count;
		parse_input(session);
	}
	if (count == 0 || (errno != EAGAIN && errno != EINTR))
		session->lost = true;
}

static void
wait_for_socket(const Session *session, short events)
{
	struct pollfd fd = {.fd = np_wire_socket(session->wire),.events = events};

	if (!np_wire_has_pending(session->wire))
		poll(&fd, 1, 100);
}

static bool
await(Session *session, const uint64_t *counter, uint64_t at_least)
{
	for (double end = now_ms() + PATIENCE_MS; !session->lost && *counter < at_least && now_ms() < end;)
	{
		wait_for_socket(session, POLLIN);
		receive(session);
	}
	return *counter >= at_least;
}

/* In two pieces at a time, where the wire takes them.  False: the connection is lost. */
static bool
send_all(Session *session, const char *data, size_t length)
{
	for (double end = now_ms() + PATIENCE_MS; length > 0 && !session->lost && now_ms() < end;)
	{
		struct iovec vectors[2] = {{(char *) data, length / 2 + 1}, {(char *) data + length / 2 + 1, length - length / 2 - 1}};
		ssize_t		written = np_wire_send(session->wire, vectors, length > 1 ? 2 : 1);

		if (written >= 0)
		{
			data += written;
			length -= (size_t) written;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			session->lost = true;
		wait_for_socket(session, POLLIN | POLLOUT);
		receive(session);
	}
	return length == 0;
}

static Session *
open_session(const NpWireTarget *target)
{
	static const char greeting[] = "SUB " INBOX "* 1\r\nPING\r\n";
	NpWire	   *wire = connect_at(target);
	Session    *session;

	if (wire == NULL)
		return NULL;
	session = calloc(1, sizeof(*session));
	if (session == NULL)
		abort();
	session->wire = wire;
	CHECK(send_all(session, greeting, sizeof(greeting) - 1));
	CHECK(await(session, &session->pongs, 1));
	return session;
}

static void
close_session(Session *session)
{
	double		start_time = now_ms();

	np_wire_close(session->wire);
	CHECK(now_ms() - start_time < 450); /* the library's flush would take 500 ms */
	free(session);
}

/* An empty answer: there was none in time. */
static const char *
request(Session *session, const char *subject, const char *payload)
{
	char		command[1024];
	int			length = snprintf(command, sizeof(command), "PUB %s " INBOX "0 %zu\r\n%s\r\n", subject, strlen(payload), payload);

	session->answer[0] = '\0';
	if (send_all(session, command, (size_t) length))
		(void) await(session, &session->answers, session->answers + 1);
	return session->answer;
}

/* How many messages the stream holds. */
static uint64_t
stored(Session *session)
{
	const char *field = strstr(request(session, "$JS.API.STREAM.INFO.WIRE", ""), "\"messages\":");

	CHECK(field != NULL);
	return field != NULL ? strtoull(field + strlen("\"messages\":"), NULL, 10) : 0;
}

/* Tokens and ids begin at first; false: the connection was lost over it. */
static bool
publish(Session *session, uint64_t first, int count)
{
	static const char payload[128] = "a message";
	char		piece[PIECE_SIZE];
	size_t		used = 0;

	for (uint64_t id = first; id < first + (uint64_t) count; id++)
	{
		char		headers[64];
		size_t		length = (size_t) snprintf(headers, sizeof(headers), "NATS/1.0\r\nNats-Msg-Id: %llu\r\n\r\n", (unsigned long long) id);
		NpPublication publication = {.subject = {UNIT_TEXT("wire.test")},.reply_prefix = {UNIT_TEXT(INBOX)},.token = id,
		.headers = {headers, length},.payload = {payload, sizeof(payload)}};
		size_t		control_line;
		size_t		size = np_publication_size(&publication, &control_line);

		if (used + size > sizeof(piece))
		{
			if (!send_all(session, piece, used))
				return false;
			used = 0;
		}
		np_publication_encode(&publication, piece + used);
		used += size;
	}
	return send_all(session, piece, used);
}

/* No two messages have the same one. */
static uint64_t
new_ids(int count)
{
	static uint64_t next = 1;

	next += (uint64_t) count;
	return next - (uint64_t) count;
}

/* ---- Sessions that go well -------------------------------------------------- */

static void
is_asked_for_what_it_is(Server *server)
{
	NpWireTarget target = target_of(server);
	NpWire	   *wire = connect_at(&target);

	if (wire == NULL)
		return;
	CHECK_INT(strlen(np_wire_server_id(wire)), 56);
	CHECK(np_wire_server_name(wire)[0] != '\0');
	CHECK_STR(np_wire_client_ip(wire), "127.0.0.1");
	CHECK(np_wire_client_id(wire) > 0);
	CHECK_INT(np_wire_max_payload(wire), 1024 * 1024);
	CHECK((np_wire_tls(wire) != NULL) == server->tls);
	np_wire_close(wire);
}

static void
answers_the_api_of_jetstream(Server *server)
{
	NpWireTarget target = target_of(server);
	Session    *session = open_session(&target);

	if (session == NULL)
		return;
	CHECK(strstr(request(session, "$JS.API.STREAM.CREATE.WIRE",
						 "{\"name\":\"WIRE\",\"subjects\":[\"wire.>\"],\"storage\":\"file\"}"), "\"name\":\"WIRE\"") != NULL);
	CHECK(strstr(request(session, "$JS.API.STREAM.INFO.NONE", ""), "stream not found") != NULL);
	CHECK_INT(stored(session), 0);
	close_session(session);
}

static void
acknowledges_thousands(Server *server)
{
	NpWireTarget target = target_of(server);

	for (int i = 1; i <= 10; i++)
	{
		Session    *session = open_session(&target);

		if (session == NULL)
			return;
		CHECK(publish(session, new_ids(MESSAGES), MESSAGES));
		CHECK(await(session, &session->acks, MESSAGES));
		CHECK_INT(stored(session), i * MESSAGES);
		close_session(session);
	}
}

static void
sessions_at_the_same_time(Server *server)
{
	NpWireTarget target = target_of(server);
	Session    *sessions[5];

	for (size_t i = 0; i < UNIT_COUNT(sessions); i++)
		sessions[i] = open_session(&target);
	for (int piece = 0; piece < 10; piece++)
		for (size_t i = 0; i < UNIT_COUNT(sessions); i++)
			if (sessions[i] != NULL)
				CHECK(publish(sessions[i], new_ids(100), 100));
	for (size_t i = 0; i < UNIT_COUNT(sessions); i++)
	{
		if (sessions[i] == NULL)
			continue;
		CHECK(await(sessions[i], &sessions[i]->acks, 1000));
		close_session(sessions[i]);
	}
}

/* What is on its way to us is of no interest any more. */
static void
closes_before_the_acknowledgments(Server *server)
{
	NpWireTarget target = target_of(server);

	for (int i = 0; i < 20; i++)
	{
		Session    *session = open_session(&target);

		if (session == NULL)
			return;
		CHECK(publish(session, new_ids(200), 200));
		if (i % 2 == 0)
			CHECK(await(session, &session->acks, 10));
		close_session(session);
	}
}

/* ---- Sessions that are refused ------------------------------------------------ */

static void
expect_login_failure(const NpWireTarget *good, const char *user, const char *password)
{
	NpWireTarget target = *good;

	snprintf(target.user, sizeof(target.user), "%s", user);
	snprintf(target.password, sizeof(target.password), "%s", password);
	expect_failure(&target, NP_WIRE_NOT_AUTHORIZED, NULL);
}

static void
refuses_a_wrong_login(Server *server)
{
	NpWireTarget target = target_of(server);
	NpWire	   *wire;

	for (int i = 0; i < 10; i++)
	{
		expect_login_failure(&target, "u", "wrong");
		expect_login_failure(&target, "nobody", "p");
		expect_login_failure(&target, "", "");
	}
	snprintf(target.user, sizeof(target.user), "q");
	snprintf(target.password, sizeof(target.password), "d\"e\\f");
	wire = connect_at(&target);
	if (wire != NULL)
		np_wire_close(wire);
}

/* Each is refused, or does not trust the server. */
static void
does_not_agree_on_tls(Server *server)
{
	NpWireTarget target = target_of(server);

	if (!server->tls)
	{
		target = target_of(&secure);
		target.port = server->port;
		for (int i = 0; i < 10; i++)
			expect_failure(&target, NP_WIRE_NO_TLS, NULL);
		return;
	}
	for (int i = 0; i < 10; i++)
	{
		target = target_of(server);
		snprintf(target.tls_ca_file, sizeof(target.tls_ca_file), "foreign.crt");
		expect_failure(&target, NP_WIRE_NO_TLS, NULL);
		target.tls_ca_file[0] = '\0';
		expect_failure(&target, NP_WIRE_NO_TLS, NULL);
		snprintf(target.tls_ca_file, sizeof(target.tls_ca_file), "no such file");
		expect_failure(&target, NP_WIRE_NO_TLS, "tls_ca_file");
		target = target_of(server);
		snprintf(target.tls_name, sizeof(target.tls_name), "somebody.else");
		expect_failure(&target, NP_WIRE_NO_TLS, NULL);
		target = target_of(server);
		snprintf(target.tls_cert_file, sizeof(target.tls_cert_file), "server.crt");
		snprintf(target.tls_key_file, sizeof(target.tls_key_file), "foreign.key");
		expect_failure(&target, NP_WIRE_NO_TLS, "tls_cert_file");
	}
}

/* It is connected to a second time then. */
static void
demands_tls_of_who_did_not_know(Server *server)
{
	NpWireTarget target = target_of(server);

	target.tls = false;
	for (int i = 0; i < 10; i++)
	{
		Session    *session = open_session(&target);

		if (session == NULL)
			return;
		CHECK((np_wire_tls(session->wire) != NULL) == server->tls);
		close_session(session);
	}
}

/* ---- Servers that die, stop and come back --------------------------------------- */

/* Publish until the server is gone, which it is in the middle; returns how many were published at most. */
static int
publish_into_a_crash(Session *session, Server *server, uint64_t first)
{
	int			count = 0;

	while (!session->lost && count < 100 * MESSAGES)
	{
		if (count == MESSAGES)
			kill_server(server);
		(void) publish(session, first + (uint64_t) count, 100);
		count += 100;
		receive(session);
	}
	CHECK(session->lost);
	return count;
}

static void
dies_and_comes_back(Server *server)
{
	NpWireTarget target = target_of(server);
	Session    *session = open_session(&target);
	uint64_t	first = new_ids(100 * MESSAGES);
	uint64_t	before;
	int			count;

	if (session == NULL)
		return;
	before = stored(session);
	count = publish_into_a_crash(session, server, first);
	close_session(session);
	for (int i = 0; i < 20; i++)
		expect_failure(&target, NP_WIRE_NO_SERVER, NULL);

	CHECK(start_server(server));
	session = open_session(&target);
	if (session == NULL)
		return;
	/* what is stored already is not stored again */
	CHECK(publish(session, first, count));
	CHECK(await(session, &session->acks, (uint64_t) count));
	CHECK_INT(stored(session), before + (uint64_t) count);
	close_session(session);
}

static void
stops_and_goes_on(Server *server)
{
	static char bytes[64 * 1024];
	NpWireTarget target = target_of(server);
	Session    *session = open_session(&target);
	struct iovec vector = {bytes, sizeof(bytes)};

	stop_server(server);
	if (session != NULL)
	{
		/* nothing is awaited at the end, neither a PONG nor that the server takes what is in the socket */
		while (np_wire_send(session->wire, &vector, 1) > 0)
			;
		CHECK_INT(errno, EAGAIN);
		close_session(session);
	}
	target.timeout_ms = 200;
	for (int i = 0; i < 3; i++)
		expect_failure(&target, NP_WIRE_NO_SERVER, NULL);
	target.timeout_ms = 60000;
	for (int i = 0; i < 20; i++)
	{
		NpConnectAttempt *attempt = start_to(&target);

		CHECK(!has_ended(attempt, i));
		abandon(attempt);
	}
	check_at_rest();
	continue_server(server);
	session = open_session(&target);
	if (session != NULL)
		close_session(session);
}

/* ---- Attempts that are given up ---------------------------------------------------- */

static void
given_up_at_any_moment(Server *server)
{
	NpWireTarget target = target_of(server);
	uint64_t	state = 20260106;

	for (int i = 0; i < 200; i++)
	{
		NpConnectAttempt *attempt = start_to(&target);

		spin_for(&state, server->tls ? 8000 : 4000);
		abandon(attempt);
	}
}

static sem_t resolved;

int			__real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int			__wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* The linker puts it in the place of getaddrinfo (--wrap). */
int
__wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **addresses)
{
	if (strcmp(host, SLOW_HOST) == 0)
	{
		sem_wait(&resolved);
		host = "127.0.0.1";
	}
	return __real_getaddrinfo(host, port, hints, addresses);
}

/* Their threads are left behind; what comes next has nothing to do with them. */
static void
given_up_while_the_name_is_resolved(Server *server)
{
	NpWireTarget target = target_of(server);
	NpWireTarget slow = target;
	Session    *session;

	snprintf(slow.host, sizeof(slow.host), SLOW_HOST);
	for (int i = 0; i < 4; i++)
		abandon(start_to(&slow));
	session = open_session(&target);
	if (session == NULL)
		return;
	CHECK(publish(session, new_ids(MESSAGES), MESSAGES));
	for (int i = 0; i < 4; i++)
		sem_post(&resolved);
	CHECK(await(session, &session->acks, MESSAGES));
	close_session(session);
}

int			__real_clock_gettime(clockid_t, struct timespec *);
int			__wrap_clock_gettime(clockid_t, struct timespec *);

static bool clock_is_set_back;	/* when it is asked the next time */

/* In the place of clock_gettime; what waits for a time does not ask here. */
int
__wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
	int			result = __real_clock_gettime(clock, time);

	if (clock == CLOCK_REALTIME && clock_is_set_back)
	{
		clock_is_set_back = false;
		time->tv_sec += 20;
	}
	return result;
}

/* Somebody sets the clock back just then: no time on it comes any more. */
static void
given_up_when_the_clock_is_set_back(Server *server)
{
	NpWireTarget target = target_of(server);
	NpConnectAttempt *attempt;

	snprintf(target.host, sizeof(target.host), SLOW_HOST);
	attempt = start_to(&target);
	clock_is_set_back = true;
	abandon(attempt);
	clock_is_set_back = false;
	sem_post(&resolved);
}

static volatile sig_atomic_t resolved_at_a_time;

static void
resolve(int signal)
{
	(void) signal;
	sem_post(&resolved);
	resolved_at_a_time = true;
}

/* The name comes when abandoning has just ceased to wait for the thread, or is about to. */
static void
given_up_when_the_name_is_resolved(Server *server)
{
	NpWireTarget target = target_of(server);
	struct sigaction action = {.sa_handler = resolve};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL,.sigev_signo = SIGALRM};
	timer_t		timer;
	uint64_t	state = 20260107;

	snprintf(target.host, sizeof(target.host), SLOW_HOST);
	sigaction(SIGALRM, &action, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
		abort();
	for (int i = 0; i < 40; i++)
	{
		struct itimerspec once = {.it_value = {0, 40000000 + (long) (unit_random(&state) % 20000000)}};
		NpConnectAttempt *attempt = start_to(&target);

		resolved_at_a_time = false;
		timer_settime(timer, 0, &once, NULL);
		abandon(attempt);
		while (!resolved_at_a_time)
			nap(1);
	}
	timer_delete(timer);
}

/*
 * Without a free descriptor abandoning can't look for the socket: the thread connects nevertheless, and has to close
 * what nobody wants any more.
 */
static void
given_up_and_connected(Server *server)
{
	NpWireTarget target = target_of(server);
	struct rlimit saved;
	struct rlimit none;
	NpConnectAttempt *attempt;

	target.timeout_ms = 60000;
	getrlimit(RLIMIT_NOFILE, &saved);
	none = saved;
	none.rlim_cur = 0;
	for (int i = 0; i < 5; i++)
	{
		stop_server(server);
		attempt = start_to(&target);
		CHECK(!has_ended(attempt, 50));
		setrlimit(RLIMIT_NOFILE, &none);
		abandon(attempt);
		setrlimit(RLIMIT_NOFILE, &saved);
		CHECK(count_entries("/proc/self/task") > threads_at_rest);
		continue_server(server);
		check_at_rest();
	}
}

/* The authorities come when nobody wants them any more. */
static void
given_up_while_authorities_are_loaded(Server *server)
{
	NpWireTarget target = target_of(server);
	NpConnectAttempt *attempt;
	int			fd;

	if (!server->tls)
		return;
	target.timeout_ms = 60000;
	stop_server(server);
	setenv("SSL_CERT_FILE", "authorities.fifo", true);
	attempt = start_to(&target);
	/* this waits for the other side */
	fd = open("authorities.fifo", O_WRONLY | O_CLOEXEC);
	abandon(attempt);
	close(fd);
	check_at_rest();
	setenv("SSL_CERT_FILE", "authorities.one", true);
	continue_server(server);
}

/* ---- Processes that end -------------------------------------------------------------- */

/* Not lost when the process ends: what a backend has then is no leak. */
static NpConnectAttempt *volatile unfinished;
static Session *volatile open_at_end;

/* Without a server's answer, with half of one, or connected; as a backend ends that is terminated. */
static void
end_connecting(const NpWireTarget *target, uint64_t *state)
{
	unfinished = start_to(target);
	spin_for(state, 8000);
}

static void
end_giving_up(const NpWireTarget *target, uint64_t *state)
{
	NpConnectAttempt *attempt = start_to(target);

	spin_for(state, 8000);
	abandon(attempt);
}

static void
end_connected(const NpWireTarget *target, uint64_t *state)
{
	Session    *session = open_session(target);

	open_at_end = session;
	if (session != NULL)
		(void) publish(session, 1, 1 + (int) (unit_random(state) % 100));
}

/* A child that has come so far ends with exit(); nothing may keep it from that. */
static void
expect_exit(void (*end) (const NpWireTarget *target, uint64_t *state), const NpWireTarget *target, uint64_t *state)
{
	pid_t		pid;
	int			status;

	unit_random(state);
	fflush(stdout);
	pid = start_process();
	if (pid == 0)
	{
		unit_failed_checks = 0;
		end(target, state);
		exit(unit_failed_checks);
	}
	for (double limit = now_ms() + PATIENCE_MS; waitpid(pid, &status, WNOHANG) == 0; nap(1))
	{
		if (now_ms() > limit)
			kill(pid, SIGKILL);
	}
	CHECK_INT(status, 0);
}

/* The library and OpenSSL clean up at exit, with threads that may be in the middle of something. */
static void
lets_the_process_end(Server *server)
{
	NpWireTarget target = target_of(server);
	uint64_t	state = 20260108;

	setenv("SSL_CERT_FILE", "authorities.many", true);
	for (int i = 0; i < 10; i++)
	{
		expect_exit(end_connecting, &target, &state);
		expect_exit(end_giving_up, &target, &state);
		expect_exit(end_connected, &target, &state);
	}
	setenv("SSL_CERT_FILE", "authorities.one", true);
}

/* ---- All of it -------------------------------------------------------------------------- */

typedef struct Test
{
	const char *name;
	void		(*run) (Server *server);
} Test;

#define TEST(function) {#function, function}

static const Test tests[] = {
	TEST(is_asked_for_what_it_is),
	TEST(answers_the_api_of_jetstream),
	TEST(acknowledges_thousands),
	TEST(sessions_at_the_same_time),
	TEST(closes_before_the_acknowledgments),
	TEST(refuses_a_wrong_login),
	TEST(does_not_agree_on_tls),
	TEST(demands_tls_of_who_did_not_know),
	TEST(dies_and_comes_back),
	TEST(stops_and_goes_on),
	TEST(given_up_at_any_moment),
	TEST(given_up_while_the_name_is_resolved),
	TEST(given_up_when_the_name_is_resolved),
	TEST(given_up_when_the_clock_is_set_back),
	TEST(given_up_while_authorities_are_loaded),
	TEST(given_up_and_connected),
};

static const Test exit_tests[] = {
	TEST(lets_the_process_end),
};

static void
run_tests(const Test *first, size_t count, Server *server, bool there)
{
	for (const Test *test = first; test < first + count; test++)
	{
		if (there)
		{
			test->run(server);
			check_at_rest();
		}
		unit_case("%s: %s%s", server->name, test->name, there ? "" : " # skip no nats-server");
	}
}

/* What OpenSSL and the C library open once, is there then. */
static void
open_library(void)
{
	NpWireTarget target = target_of(&plain);
	NpWire	   *wire = connect_at(&target);

	if (wire != NULL)
		np_wire_close(wire);
	nap(300);
	threads_at_rest = count_entries("/proc/self/task");
	files_at_rest = count_files();
}

/* False: there is no nats-server.  In a directory that is removed in the end. */
static bool
set_up(void)
{
	const char *parent = getenv("TMPDIR");

	snprintf(directory, sizeof(directory), "%s/wire_server_test.XXXXXX", parent != NULL ? parent : "/tmp");
	if (mkdtemp(directory) == NULL || chdir(directory) != 0 || sem_init(&resolved, 0, 0) != 0)
		abort();
	if (!start_server(&plain))
		return false;
	CHECK(make_certificate("server.key", "server.crt"));
	CHECK(make_certificate("foreign.key", "foreign.crt"));
	write_authorities("authorities.one", 1);
	write_authorities("authorities.many", 50);
	if (mkfifo("authorities.fifo", 0600) != 0)
		abort();
	setenv("SSL_CERT_FILE", "authorities.one", true);
	setenv("SSL_CERT_DIR", directory, true);
	CHECK(start_server(&secure));
	unit_case("the servers start");
	return true;
}

int
main(void)
{
	bool		there = set_up();

	/* of processes that have not opened the library, as it is of a backend */
	threads_at_rest = files_at_rest = INT16_MAX;
	run_tests(exit_tests, UNIT_COUNT(exit_tests), &plain, there);
	run_tests(exit_tests, UNIT_COUNT(exit_tests), &secure, there);
	if (there)
		open_library();
	run_tests(tests, UNIT_COUNT(tests), &plain, there);
	run_tests(tests, UNIT_COUNT(tests), &secure, there);

	kill_server(&plain);
	kill_server(&secure);
	nftw(directory, remove_file, 16, FTW_DEPTH | FTW_PHYS);
	return unit_done();
}
