/*
 * wire_tls_test.c
 *		wire.c to servers of TLS that do what nats-server never does: they are OpenSSL's, in child processes.
 */
#include "wire_client.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define INFO \
	"INFO {\"server_id\":\"NTEST\",\"server_name\":\"n\",\"version\":\"2.10.0\",\"proto\":1,\"go\":\"go\"," \
	"\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"tls_required\":true,\"max_payload\":12345," \
	"\"client_id\":42,\"client_ip\":\"127.0.0.9\"} \r\n"

/* What a server has seen: in memory that it shares. */
typedef struct Seen
{
	atomic_int	handshakes;
	atomic_bool refused;		/* another handshake */
	atomic_size_t heard;		/* bytes */
	atomic_bool misheard;		/* not the next ones of the stream */
} Seen;

static Seen *seen;

static char ca_file[256];
static char config_file[300];
static EVP_PKEY *key;
static X509 *certificate;

/* ---- Servers ------------------------------------------------------------- */

/* For localhost, by itself. */
static void
make_certificate(void)
{
	FILE	   *file;
	X509_NAME  *name;
	X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost");

	key = EVP_EC_gen("P-256");
	certificate = X509_new();
	X509_set_version(certificate, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
	name = X509_get_subject_name(certificate);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *) "localhost", -1, -1, 0);
	X509_set_issuer_name(certificate, name);
	X509_set_pubkey(certificate, key);
	X509_add_ext(certificate, names, -1);
	X509_EXTENSION_free(names);
	if (X509_sign(certificate, key, EVP_sha256()) == 0)
		abort();
	file = fopen(ca_file, "w");
	if (file == NULL || PEM_write_X509(file, certificate) != 1)
		abort();
	fclose(file);
}

/* As an administrator may have it: the kernel encrypts, where it can. */
static void
write_config(void)
{
	FILE	   *file;

	snprintf(config_file, sizeof(config_file), "%s.cnf", ca_file);
	file = fopen(config_file, "w");
	if (file == NULL)
		abort();
	fprintf(file, "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = kernel\n[kernel]\nOptions = KTLS\n");
	fclose(file);
	setenv("OPENSSL_CONF", config_file, true);
}

static void
on_message(int is_ours, int version, int type, const void *message, size_t length, SSL *ssl, void *argument)
{
	(void) version;
	(void) ssl;
	(void) argument;
	if (!is_ours && type == SSL3_RT_HANDSHAKE && length > 0 && *(const char *) message == SSL3_MT_CLIENT_HELLO)
		seen->handshakes++;
}

/* No session is resumed: each handshake has the certificate verified. */
static SSL *
accept_tls(int fd, int version)
{
	SSL_CTX    *context = SSL_CTX_new(TLS_server_method());
	SSL		   *ssl;

	SSL_CTX_use_certificate(context, certificate);
	SSL_CTX_use_PrivateKey(context, key);
	SSL_CTX_set_max_proto_version(context, version);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
	SSL_CTX_set_msg_callback(context, on_message);
	ssl = SSL_new(context);
	SSL_set_fd(ssl, fd);
	if (SSL_accept(ssl) != 1)
		_exit(0);
	return ssl;
}

static void
greet(SSL *ssl)
{
	char		heard[8192] = "";
	size_t		length = 0;

	while (strstr(heard, "PING\r\n") == NULL)
	{
		int			count = SSL_read(ssl, heard + length, (int) (sizeof(heard) - 1 - length));

		if (count <= 0)
			_exit(0);
		length += (size_t) count;
		heard[length] = '\0';
	}
	SSL_write(ssl, "PONG\r\n", 6);
}

/* For one client, which is served when the library has let go of it. */
static pid_t
start_server(int version, void (*serve) (SSL *ssl), int *port)
{
	int			listener = listen_somewhere(1, port);
	int			small = 4096;
	pid_t		pid;
	int			fd;
	SSL		   *ssl;

	/* what is not read here is soon not sent there */
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	memset(seen, 0, sizeof(*seen));
	pid = start_process();
	if (pid > 0)
	{
		close(listener);
		return pid;
	}
	fd = accept(listener, NULL, NULL);
	if (send(fd, INFO, sizeof(INFO) - 1, MSG_NOSIGNAL) < 0)
		_exit(0);
	ssl = accept_tls(fd, version);
	greet(ssl);
	serve(ssl);
	for (;;)
		pause();
}

static NpWire *
connect_securely(int port)
{
	NpWireTarget target = target_at(port, 5000);

	target.tls = true;
	snprintf(target.tls_name, sizeof(target.tls_name), "localhost");
	snprintf(target.tls_ca_file, sizeof(target.tls_ca_file), "%s", ca_file);
	return connect_at(&target);
}

/* ---- A second handshake ------------------------------------------------------ */

static void
shake_again(SSL *ssl)
{
	char		byte;

	if (SSL_read(ssl, &byte, 1) != 1)
		_exit(0);
	SSL_renegotiate(ssl);
	SSL_do_handshake(ssl);
	if (SSL_read(ssl, &byte, 1) != 1)
		seen->refused = ERR_GET_REASON(ERR_peek_error()) == SSL_R_NO_RENEGOTIATION;
}

/* The library's callback would be asked for the certificate, and look at its connection, which there is not any more. */
static void
no_second_handshake(void)
{
	int			port;
	pid_t		server = start_server(TLS1_2_VERSION, shake_again, &port);
	NpWire	   *wire = connect_securely(port);
	struct iovec vector = {"x", 1};
	char		byte;

	if (wire != NULL)
	{
		SSL		   *ssl = (SSL *) np_wire_tls(wire);

		CHECK(np_wire_send(wire, &vector, 1) == 1);
		for (double end = now_ms() + PATIENCE_MS; now_ms() < end && seen->handshakes < 2 && !seen->refused; nap(1))
			(void) np_wire_receive(wire, &byte, 1);
		CHECK(seen->refused);
		CHECK_INT(seen->handshakes, 1);
		CHECK(SSL_get_ex_data(ssl, 0) == NULL);
		if (seen->refused)
		{
			CHECK_INT(SSL_get_verify_callback(ssl) (0, NULL), 0);
			CHECK_INT(SSL_get_verify_callback(ssl) (1, NULL), 1);
		}
		np_wire_close(wire);
	}
	kill_process(server);
	check_at_rest();
}

/* ---- The kernel -------------------------------------------------------------- */

static void
hold(SSL *ssl)
{
	(void) ssl;
}

/* It would go on with the connection that we take over, of which OpenSSL would not know. */
static void
not_by_the_kernel(void)
{
	int			port;
	pid_t		server = start_server(TLS1_3_VERSION, hold, &port);
	NpWire	   *wire = connect_securely(port);
	SSL_CTX    *other = SSL_CTX_new(TLS_client_method());

	CHECK((SSL_CTX_get_options(other) & SSL_OP_ENABLE_KTLS) != 0);
	SSL_CTX_free(other);
	if (wire != NULL)
	{
		CHECK((SSL_get_options((SSL *) np_wire_tls(wire)) & SSL_OP_ENABLE_KTLS) == 0);
		np_wire_close(wire);
	}
	kill_process(server);
	check_at_rest();
}

/* ---- A server that reads slowly -------------------------------------------------- */

#define STREAM_SIZE		(4 * 1024 * 1024)

static char
byte_at(size_t position)
{
	return (char) ((uint32_t) position * 2654435761u >> 24);
}

static void
sip(SSL *ssl)
{
	char		bytes[4096];
	int			count;

	while ((count = SSL_read(ssl, bytes, sizeof(bytes))) > 0)
	{
		for (int i = 0; i < count; i++)
			seen->misheard |= bytes[i] != byte_at(seen->heard + (size_t) i);
		seen->heard += (size_t) count;
		nap(seen->heard % 16 == 0);
	}
}

/* Some of the stream, as much as there is of it by now; more comes while it waits for the socket. */
static void
send_stream(NpWire *wire, char *stream)
{
	size_t		sent = 0;
	size_t		appended = 0;
	uint64_t	state = 20260109;
	int			offers = 0;
	int			small = 4096;
	struct pollfd fd = {.fd = np_wire_socket(wire),.events = POLLOUT};

	setsockopt(fd.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (double end = now_ms() + PATIENCE_MS; sent < STREAM_SIZE && now_ms() < end;)
	{
		struct iovec vector = {stream + sent, 0};
		ssize_t		written;

		appended += unit_random(&state) % 20000;
		appended = appended < STREAM_SIZE ? appended : STREAM_SIZE;
		vector.iov_len = appended - sent;
		if (vector.iov_len == 0)
			continue;
		written = np_wire_send(wire, &vector, 1);
		if (written >= 0)
		{
			CHECK_INT(np_wire_offered(wire), 0);
			sent += (size_t) written;
			continue;
		}
		CHECK_INT(errno, EAGAIN);
		CHECK(np_wire_offered(wire) > 0 && np_wire_offered(wire) <= vector.iov_len);
		offers++;
		poll(&fd, 1, 100);
		if (seen->heard > sent)
			CHECK_INT(seen->heard, sent);
	}
	CHECK_INT(sent, STREAM_SIZE);
	CHECK(offers > 10);
}

/* It never has a byte that was not said to be written, and all of those that were, in their order. */
static void
a_slow_server(void)
{
	static char stream[STREAM_SIZE];
	int			port;
	pid_t		server = start_server(TLS1_3_VERSION, sip, &port);
	NpWire	   *wire = connect_securely(port);

	for (size_t i = 0; i < STREAM_SIZE; i++)
		stream[i] = byte_at(i);
	if (wire != NULL)
	{
		send_stream(wire, stream);
		for (double end = now_ms() + PATIENCE_MS; now_ms() < end && seen->heard < STREAM_SIZE; nap(1))
			;
		CHECK_INT(seen->heard, STREAM_SIZE);
		CHECK(!seen->misheard);
		np_wire_close(wire);
	}
	kill_process(server);
	check_at_rest();
}

int
main(void)
{
	const char *parent = getenv("TMPDIR");

	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seen == MAP_FAILED)
		abort();
	snprintf(ca_file, sizeof(ca_file), "%s/wire_tls_test.%d.crt", parent != NULL ? parent : "/tmp", (int) getpid());
	write_config();
	make_certificate();

	/* what OpenSSL and the C library open once, is there behind the first */
	threads_at_rest = files_at_rest = INT16_MAX;
	RUN(no_second_handshake);
	nap(300);
	threads_at_rest = count_entries("/proc/self/task");
	files_at_rest = count_files();
	RUN(no_second_handshake);
	RUN(not_by_the_kernel);
	RUN(a_slow_server);

	X509_free(certificate);
	EVP_PKEY_free(key);
	unlink(ca_file);
	unlink(config_file);
	return unit_done();
}
