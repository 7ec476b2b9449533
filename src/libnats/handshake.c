/*-------------------------------------------------------------------------
 *
 * handshake.c
 *	  libnats: from an address to a connection with TLS, authenticated.
 *
 * This runs in connect_attempt.c's helper thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "libnats/handshake.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/compat.h"
#include "libnats/credentials.h"

/* Only the handshake goes through the library's buffers. */
#define IO_BUFFER_SIZE		(16 * 1024)

/* A share of the time that is shorter is not enough for servers that are far away. */
#define LEAST_SHARE_MS		500

/* ---- Time ---------------------------------------------------------------- */

/* CLOCK_MONOTONIC in ms. */
long
np_handshake_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* From here on the target's timeout counts. */
void
np_handshake_begin(NpHandshake *handshake)
{
	handshake->limit = handshake->deadline = np_handshake_now() + handshake->target.timeout_ms;
}

/*
 * How long the thread may go on with this address, in milliseconds; 0: no
 * longer.  Asked before each step that can take long, so that an attempt that
 * was abandoned begins nothing new.
 */
static long
ms_left(NpHandshake *handshake)
{
	long		left = handshake->limit - np_handshake_now();
	bool		abandoned;

	pthread_mutex_lock(handshake->lock);
	abandoned = handshake->abandoned;
	pthread_mutex_unlock(handshake->lock);
	return abandoned || left < 0 ? 0 : left;
}

/*
 * The next address gets its share of the time that is left, with so many to be
 * tried: one that says nothing does not take all of it.  False: none is left.
 */
bool
np_handshake_share(NpHandshake *handshake, int addresses)
{
	long		share = (handshake->deadline - np_handshake_now()) / addresses;

	if (share < LEAST_SHARE_MS)
		share = LEAST_SHARE_MS;
	handshake->limit = np_handshake_now() + share;
	if (handshake->limit > handshake->deadline)
		handshake->limit = handshake->deadline;
	return ms_left(handshake) > 0;
}

/* ---- Options ---------------------------------------------------------------- */

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
	const NpHandshake *handshake = closure;

	(void) error;
	*jwt = strdup(handshake->target.jwt);
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
	NpHandshake *handshake = closure;
	natsStatus	status;

	(void) error;
	status = nats_Sign(handshake->target.seed, nonce == NULL || nonce[0] == '\0' ? "-" : nonce, signature, length);
	handshake->lost_signature = status == NATS_OK && (*signature)[0] == 0;
	return status;
}

static natsStatus
set_nkey(natsOptions *options, NpHandshake *handshake)
{
	const char *seed = handshake->target.seed;
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	if (!np_nkey_public((NpSpan) {seed, strlen(seed)}, public_key))
		return NATS_INVALID_ARG;
	return natsOptions_SetNKey(options, public_key, sign, handshake);
}

static natsStatus
set_credentials(natsOptions *options, NpHandshake *handshake)
{
	const NpWireTarget *target = &handshake->target;

	if (target->jwt[0] != '\0')
		return natsOptions_SetUserCredentialsCallbacks(options, give_jwt, handshake, sign, handshake);
	if (target->seed[0] != '\0')
		return set_nkey(options, handshake);
	if (target->token[0] != '\0')
		return set_token(options, target);
	if (target->user[0] != '\0')
		return set_user(options, target);
	return NATS_OK;
}

/* The error is what the library says of a status that it has just returned. */
static void
describe_failure(NpHandshake *handshake, natsStatus status)
{
	natsStatus	last = NATS_OK;
	const char *text = nats_GetLastError(&last);
	const char *behind;

	/* it keeps the text of older errors, and puts its own source line before it */
	if (last != status || text == NULL)
		text = natsStatus_GetText(status);
	behind = text[0] == '(' ? strstr(text, "): ") : NULL;
	snprintf(handshake->error, sizeof(handshake->error), "%s", behind != NULL ? behind + 3 : text);
}

/*
 * Demand TLS, with the server's name verified.  On a failure the error says
 * why: the library's text would name the files.
 */
static natsStatus
set_tls(natsOptions *options, NpHandshake *handshake, NpTlsCapture *capture)
{
	const NpWireTarget *target = &handshake->target;
	char		reason[200];
	natsStatus	status;

	if (target->tls_handshake_first && !NP_COMPAT_HAS_HANDSHAKE_FIRST)
	{
		snprintf(handshake->error, sizeof(handshake->error), "tls_handshake_first needs libnats 3.9, this is %s", nats_GetVersion());
		return NATS_NO_SERVER_SUPPORT;
	}
	if ((status = natsOptions_SetSecure(options, true)) != NATS_OK ||
		(status = natsOptions_SetExpectedHostname(options, target->tls_name)) != NATS_OK ||
		(target->tls_handshake_first && (status = np_compat_handshake_first(options)) != NATS_OK))
	{
		describe_failure(handshake, status);
		return status;
	}
	if (capture->context == NULL)
	{
		snprintf(handshake->error, sizeof(handshake->error), "libnats uses another OpenSSL than nats_publish");
		return NATS_SSL_ERROR;
	}
	np_tls_announce_host(capture);
	if (target->tls_ca_file[0] != '\0' &&
		!np_tls_trust_only(capture, target->tls_ca_file, reason, sizeof(reason)))
	{
		snprintf(handshake->error, sizeof(handshake->error), "could not load tls_ca_file: %s", reason);
		return NATS_SSL_ERROR;
	}
	if (target->tls_cert_file[0] != '\0' &&
		natsOptions_LoadCertificatesChain(options, target->tls_cert_file, target->tls_key_file) != NATS_OK)
	{
		snprintf(handshake->error, sizeof(handshake->error), "could not load tls_cert_file and tls_key_file: they can't be read, or do not belong together");
		return NATS_SSL_ERROR;
	}
	return NATS_OK;
}

/*
 * Options to connect to one address, given in figures, within a time.
 *
 * Of what a server tells of others the library makes a list of its own, which
 * it goes through by itself when the server then does not take us, and nothing ends
 * that.  So a thread does not listen while another one is left behind.
 */
static natsStatus
set_options(natsOptions *options, NpHandshake *handshake, const char *address, int timeout_ms)
{
	const NpWireTarget *target = &handshake->target;
	char		url[NI_MAXHOST + 32];
	natsStatus	status;

	snprintf(url, sizeof(url), strchr(address, ':') ? "nats://[%s]:%d" : "nats://%s:%d",
			 address, target->port);
	if ((status = natsOptions_SetURL(options, url)) != NATS_OK ||
		(status = natsOptions_SetTimeout(options, timeout_ms)) != NATS_OK ||
		(status = natsOptions_SetName(options, target->client_name)) != NATS_OK ||
		(status = natsOptions_SetIOBufSize(options, IO_BUFFER_SIZE)) != NATS_OK ||
		(status = natsOptions_SetAllowReconnect(options, false)) != NATS_OK ||
		(status = natsOptions_SetIgnoreDiscoveredServers(options, !handshake->listens)) != NATS_OK ||
		(status = natsOptions_SetErrorHandler(options, on_error, NULL)) != NATS_OK ||
		(status = np_library_connection_set_up(&handshake->connection, options)) != NATS_OK)
		return status;
	return set_credentials(options, handshake);
}

/* ---- Why it failed ------------------------------------------------------ */

/*
 * The library says "no server available" whatever has happened: find out what
 * it was.  False: nothing that could be found.
 */
static bool
explain_no_server(NpHandshake *handshake, const struct addrinfo *address, long timeout_ms)
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
		snprintf(handshake->error, sizeof(handshake->error), "could not connect: %s", strerror(failure));
	return failure != 0;
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

/* Why an address could not be connected to: of what kind, and the error if that is still empty. */
static NpWireStatus
explain_failure(NpHandshake *handshake, const struct addrinfo *address, natsStatus status, const NpTlsCapture *capture)
{
	long		left = ms_left(handshake);

	if (capture->alert != NULL)
	{
		snprintf(handshake->error, sizeof(handshake->error), "the server refused the TLS connection: %s", capture->alert);
		return NP_WIRE_NO_TLS;
	}
	if (handshake->error[0] != '\0')
		return kind_of(status);
	if (status == NATS_NO_SERVER && left > 0 && explain_no_server(handshake, address, left + 1))
		return NP_WIRE_NO_SERVER;
	describe_failure(handshake, status);
	return status == NATS_NO_SERVER && ms_left(handshake) == 0 ? NP_WIRE_NO_SERVER : kind_of(status);
}

/* ---- The handshake ------------------------------------------------------ */

/* Is it this server, and no other one that it has told the library of? */
static bool
is_connected_to(int fd, const struct addrinfo *address)
{
	struct sockaddr_storage peer = {0};
	socklen_t	length = sizeof(peer);
	const struct sockaddr_in *inet = (const struct sockaddr_in *) &peer;
	const struct sockaddr_in6 *inet6 = (const struct sockaddr_in6 *) &peer;

	if (getpeername(fd, (struct sockaddr *) &peer, &length) != 0 || peer.ss_family != address->ai_family)
		return false;
	if (peer.ss_family == AF_INET)
		return inet->sin_port == ((const struct sockaddr_in *) address->ai_addr)->sin_port &&
			inet->sin_addr.s_addr == ((const struct sockaddr_in *) address->ai_addr)->sin_addr.s_addr;
	return inet6->sin6_port == ((const struct sockaddr_in6 *) address->ai_addr)->sin6_port &&
		IN6_ARE_ADDR_EQUAL(&inet6->sin6_addr, &((const struct sockaddr_in6 *) address->ai_addr)->sin6_addr);
}

/* Connect to one address as the target says.  *secured: with TLS, wanted or not. */
static NpWireStatus
try_address(NpHandshake *handshake, const struct addrinfo *address, bool *secured)
{
	NpTlsCapture capture = {0};
	natsOptions *options = NULL;
	char		figures[NI_MAXHOST];
	natsStatus	status = NATS_OK;

	handshake->error[0] = '\0';
	if (getnameinfo(address->ai_addr, address->ai_addrlen, figures, sizeof(figures), NULL, 0, NI_NUMERICHOST) != 0 ||
		!np_tls_capture_begin(&capture, handshake->target.tls_name))
		status = NATS_NO_MEMORY;
	if (status == NATS_OK)
		status = natsOptions_Create(&options);
	if (status == NATS_OK)
		status = set_options(options, handshake, figures, (int) ms_left(handshake) + 1);
	if (status == NATS_OK && handshake->target.tls)
		status = set_tls(options, handshake, &capture);
	/* it takes long to load the system's authorities */
	if (status == NATS_OK && ms_left(handshake) == 0)
		status = NATS_TIMEOUT;
	if (status == NATS_OK)
		status = natsConnection_Connect(&handshake->connection.nc, options);
	np_tls_capture_end();
	natsOptions_Destroy(options);

	*secured = capture.context != NULL;
	if (status != NATS_OK)
		return explain_failure(handshake, address, status, &capture);
	handshake->connection.tls = capture.tls;
	if (is_connected_to(handshake->connection.socket, address))
		return NP_WIRE_OK;
	np_library_connection_close(&handshake->connection);
	snprintf(handshake->error, sizeof(handshake->error), "the server closed the connection before it was ready");
	return NP_WIRE_FAILED;
}

/* The same, until the signature is one that the library can send: each connection has another nonce to sign. */
static NpWireStatus
try_address_signed(NpHandshake *handshake, const struct addrinfo *address, bool *secured)
{
	for (;;)
	{
		NpWireStatus status;

		handshake->lost_signature = false;
		status = try_address(handshake, address, secured);
		if (status != NP_WIRE_NOT_AUTHORIZED || !handshake->lost_signature ||
			ms_left(handshake) == 0)
			return status;
	}
}

/*
 * The same with TLS if the server requires it of a client that does not expect
 * it.  The library then goes on with TLS, without our name and authorities: so
 * we begin anew.
 */
static NpWireStatus
try_address_secured(NpHandshake *handshake, const struct addrinfo *address)
{
	bool		secured;
	NpWireStatus status = try_address_signed(handshake, address, &secured);

	if (!secured || handshake->target.tls)
		return status;
	if (status == NP_WIRE_OK)
		np_library_connection_close(&handshake->connection);
	handshake->target.tls = true;
	return try_address_signed(handshake, address, &secured);
}

/*
 * Connect to an address, with TLS and authentication.  Blocks, until its share
 * of the time is over at most.
 *
 * On NP_WIRE_OK there is a wire; else the error says why.
 */
NpWireStatus
np_handshake(NpHandshake *handshake, const struct addrinfo *address)
{
	NpWireStatus status = try_address_secured(handshake, address);

	if (status != NP_WIRE_OK)
		return status;
	handshake->wire = np_library_connection_take_over(&handshake->connection, handshake->error, sizeof(handshake->error));
	return handshake->wire != NULL ? NP_WIRE_OK : NP_WIRE_FAILED;
}
