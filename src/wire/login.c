/*-------------------------------------------------------------------------
 *
 * login.c
 *	  As whom to log in to a server, and how to trust it.
 *
 * Secrets are read when they are needed and stay nowhere: files are read at
 * each connect, so that a new one counts from the next one on, and the target
 * is wiped by its owner.  No text of an error has a value or a path in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "base/catch.h"
#include "base/encoding.h"
#include "base/settings.h"
#include "libnats/credentials.h"
#include "wire/login.h"

/* What is being filled in, and where to say why it can't be. */
typedef struct Login
{
	NpWireTarget *target;
	const NpServer *server;
	char	   *error;
	size_t		error_size;
} Login;

static bool
pg_attribute_printf(2, 3)
fail(const Login *login, const char *format, ...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(login->error, login->error_size, format, args);
	va_end(args);
	return false;
}

/* A text of the database, and what it is in UTF-8. */
typedef struct Conversion
{
	const char *text;
	NpSpan		utf8;
} Conversion;

static void
convert(void *argument)
{
	Conversion *conversion = argument;

	conversion->utf8 = np_to_utf8(conversion->text, strlen(conversion->text));
}

/* Copy a value, which is in the database's encoding, as UTF-8.  PostgreSQL's error would tell what bytes it has. */
static bool
copy_value(const Login *login, NpServerField field, const char *name, char *to, size_t size)
{
	Conversion	conversion = {.text = login->server->values[field]};

	if (conversion.text == NULL)
		return true;
	if (np_catch(convert, &conversion, NULL) != NULL)
		return fail(login, "could not convert %s to UTF-8", name);
	if (conversion.utf8.length >= size)
		return fail(login, "%s is too long", name);
	memcpy(to, conversion.utf8.data, conversion.utf8.length);
	to[conversion.utf8.length] = '\0';
	return true;
}

/* Read a file without the white space around its text. */
static bool
read_file(const Login *login, NpServerField field, const char *name, char *to, size_t size)
{
	const char *path = login->server->values[field];
	FILE	   *file;
	size_t		length;
	size_t		blanks = 0;

	if (path == NULL)
		return true;
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		return fail(login, "could not open %s: %m", name);
	length = fread(to, 1, size, file);
	if (ferror(file))
	{
		FreeFile(file);
		return fail(login, "could not read %s: %m", name);
	}
	FreeFile(file);
	if (length == size)
		return fail(login, "%s is too long", name);
	while (length > 0 && isspace((unsigned char) to[length - 1]))
		length--;
	while (blanks < length && isspace((unsigned char) to[blanks]))
		blanks++;
	memmove(to, to + blanks, length - blanks);
	to[length - blanks] = '\0';
	return length > blanks || fail(login, "%s is empty", name);
}

/* ---- As whom ---------------------------------------------------------------------- */

/* The JWT and the seed of a text in target->jwt, where the JWT stays. */
static bool
split_credentials(const Login *login, const char *name)
{
	NpWireTarget *target = login->target;
	size_t		length = strlen(target->jwt);
	NpSpan		jwt;
	NpSpan		seed;

	if (!np_credentials_parse((NpSpan) {target->jwt, length}, &jwt, &seed) || seed.length >= sizeof(target->seed))
		return fail(login, "%s has no NATS credentials in it", name);
	memcpy(target->seed, seed.data, seed.length);
	target->seed[seed.length] = '\0';
	memmove(target->jwt, jwt.data, jwt.length);
	explicit_bzero(target->jwt + jwt.length, length - jwt.length);
	return true;
}

static bool
check_seed(const Login *login, const char *name)
{
	char		public_key[NP_NKEY_PUBLIC_SIZE];

	return np_nkey_public((NpSpan) {login->target->seed, strlen(login->target->seed)}, public_key) ||
		fail(login, "%s has no seed of a NATS user in it", name);
}

static bool
use_credentials(const Login *login)
{
	NpWireTarget *target = login->target;

	if (login->server->values[NP_SERVER_CREDS] != NULL)
		return copy_value(login, NP_SERVER_CREDS, "creds", target->jwt, sizeof(target->jwt)) &&
			split_credentials(login, "creds") && check_seed(login, "creds");
	return read_file(login, NP_SERVER_CREDS_FILE, "creds_file", target->jwt, sizeof(target->jwt)) &&
		split_credentials(login, "creds_file") && check_seed(login, "creds_file");
}

static bool
use_seed(const Login *login)
{
	NpWireTarget *target = login->target;

	if (login->server->values[NP_SERVER_NKEY_SEED] != NULL)
		return copy_value(login, NP_SERVER_NKEY_SEED, "nkey_seed", target->seed, sizeof(target->seed)) &&
			check_seed(login, "nkey_seed");
	return read_file(login, NP_SERVER_NKEY_SEED_FILE, "nkey_seed_file", target->seed, sizeof(target->seed)) &&
		check_seed(login, "nkey_seed_file");
}

static bool
use_token(const Login *login)
{
	NpWireTarget *target = login->target;

	return copy_value(login, NP_SERVER_TOKEN, "token", target->token, sizeof(target->token)) &&
		read_file(login, NP_SERVER_TOKEN_FILE, "token_file", target->token, sizeof(target->token));
}

static bool
use_user(const Login *login)
{
	NpWireTarget *target = login->target;

	return copy_value(login, NP_SERVER_USER, "user", target->user, sizeof(target->user)) &&
		copy_value(login, NP_SERVER_PASSWORD, "password", target->password, sizeof(target->password)) &&
		read_file(login, NP_SERVER_PASSWORD_FILE, "password_file", target->password, sizeof(target->password));
}

/* Lengths and escapes were checked by np_url_parse. */
static bool
use_url(const Login *login, const NpServerUrl *url)
{
	NpWireTarget *target = login->target;

	if (url->password.data == NULL)
		return np_url_decode(url->user, target->token);
	return np_url_decode(url->user, target->user) && np_url_decode(url->password, target->password);
}

static bool
has(const Login *login, NpServerField value, NpServerField file)
{
	return login->server->values[value] != NULL || login->server->values[file] != NULL;
}

/* How fill_identity does it, as words. */
const char *
np_login_kind(const NpServer *server, const NpServerUrl *url)
{
	Login		login = {.server = server};

	if (url->user.data != NULL)
		return url->password.data != NULL ? "user and password of the URL" : "the token of the URL";
	if (has(&login, NP_SERVER_CREDS, NP_SERVER_CREDS_FILE))
		return "credentials";
	if (has(&login, NP_SERVER_NKEY_SEED, NP_SERVER_NKEY_SEED_FILE))
		return "an nkey";
	if (has(&login, NP_SERVER_TOKEN, NP_SERVER_TOKEN_FILE))
		return "a token";
	if (server->values[NP_SERVER_USER] != NULL)
		return "user and password";
	return server->values[NP_SERVER_TLS_CERT_FILE] != NULL ? "a TLS certificate" : "no credentials";
}

static bool
fill_identity(const Login *login, const NpServerUrl *url)
{
	if (url->user.data != NULL)
		return use_url(login, url);
	if (has(login, NP_SERVER_CREDS, NP_SERVER_CREDS_FILE))
		return use_credentials(login);
	if (has(login, NP_SERVER_NKEY_SEED, NP_SERVER_NKEY_SEED_FILE))
		return use_seed(login);
	if (has(login, NP_SERVER_TOKEN, NP_SERVER_TOKEN_FILE))
		return use_token(login);
	return use_user(login);
}

/* ---- Whom to trust ------------------------------------------------------------------ */

static bool
copy_path(const Login *login, NpServerField field, const char *name, char *to, size_t size)
{
	const char *value = login->server->values[field];

	return value == NULL || strlcpy(to, value, size) < size || fail(login, "%s is too long", name);
}

static bool
fill_tls(const Login *login, const NpPoolServer *picked)
{
	NpWireTarget *target = login->target;

	target->tls_handshake_first = np_server_is_on(login->server, NP_SERVER_TLS_HANDSHAKE_FIRST);
	target->tls = picked->url.tls || target->tls_handshake_first;
	memcpy(target->tls_name, picked->tls_name.data, picked->tls_name.length);
	return copy_path(login, NP_SERVER_TLS_CA_FILE, "tls_ca_file", target->tls_ca_file, sizeof(target->tls_ca_file)) &&
		copy_path(login, NP_SERVER_TLS_CERT_FILE, "tls_cert_file", target->tls_cert_file, sizeof(target->tls_cert_file)) &&
		copy_path(login, NP_SERVER_TLS_KEY_FILE, "tls_key_file", target->tls_key_file, sizeof(target->tls_key_file));
}

/*
 * Fill in a target, which is all zero.  False: why that can't be done is in
 * error.  The caller wipes the target in both cases.
 */
bool
np_login_fill(NpWireTarget *target, const NpServer *server, const NpPoolServer *picked,
			  char *error, size_t error_size)
{
	Login		login = {.target = target,.server = server,.error = error,.error_size = error_size};

	/* np_url_parse has checked the lengths */
	memcpy(target->host, picked->url.host.data, picked->url.host.length);
	target->port = picked->url.port;
	target->timeout_ms = np_connect_timeout;
	snprintf(target->client_name, sizeof(target->client_name), "nats_publish, PostgreSQL backend %d", MyProcPid);
	return fill_identity(&login, &picked->url) && fill_tls(&login, picked);
}
