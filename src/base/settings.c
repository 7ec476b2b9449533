/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings nats_publish.*; those that protect are in guards.c.
 *
 * Check hooks run in the postmaster too, so they call nothing of libnats.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "base/connection_options.h"
#include "base/guards.h"
#include "base/report.h"
#include "base/settings.h"
#include "base/subject.h"

/* What np_settings_server makes a server of. */
static char *creds_file = "";
static char *username = "";
static char *password_file = "";
static char *token_file = "";
static char *nkey_seed_file = "";
static char *tls_ca_file = "";
static char *tls_cert_file = "";
static char *tls_key_file = "";
static bool randomize = false;

char	   *np_server_setting = "";
int			np_connect_timeout = 2000;
int			np_ack_timeout = 5000;
int			np_commit_timeout = 10000;
int			np_max_pending = 4096;
int			np_max_pending_bytes = 64 * 1024;
int			np_on_full = NP_ON_FULL_WAIT;
List	   *np_misspelt_names = NIL;
bool		np_auto_msg_id = true;
char	   *np_traceparent = "";
char	   *np_schedule_prefix = "schedule";
char	   *np_relay_databases = "";
int			np_relay_batch_size = 1000;
int			np_relay_poll_interval = 1000;
int			np_relay_ordering = NP_RELAY_STRICT;
int			np_relay_max_attempts = 10;
int			np_wal_origin = NP_WAL_ORIGIN_ANY;
int			np_outbox_storage = NP_STORAGE_TABLE;
int			np_wal_divert_after = 300 * 1000;
int			np_wal_divert_size = 1024;

static const struct config_enum_entry on_full_options[] = {
	{"wait", NP_ON_FULL_WAIT, false},
	{"error", NP_ON_FULL_ERROR, false},
	{NULL, 0, false}
};

static const struct config_enum_entry wal_origin_options[] = {
	{"any", NP_WAL_ORIGIN_ANY, false},
	{"none", NP_WAL_ORIGIN_NONE, false},
	{NULL, 0, false}
};

static const struct config_enum_entry relay_ordering_options[] = {
	{"strict", NP_RELAY_STRICT, false},
	{"pipelined", NP_RELAY_PIPELINED, false},
	{"relaxed", NP_RELAY_RELAXED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry outbox_storage_options[] = {
	{"table", NP_STORAGE_TABLE, false},
	{"wal", NP_STORAGE_WAL, false},
	{NULL, 0, false}
};

static void
assign_randomize(bool newval, void *extra)
{
	np_server_generation++;
}

/* So many lower-case hexadecimal digits, not all of them zero? */
static bool
is_hex_id(const char *text, size_t length)
{
	return strspn(text, "0123456789abcdef") >= length && strspn(text, "0") < length;
}

/* 00-<trace id>-<parent id>-<flags>, as the W3C's Trace Context has it */
static bool
check_traceparent(char **newval, void **extra, GucSource source)
{
	const char *value = *newval;

	if (value[0] == '\0' ||
		(strlen(value) == 55 && strncmp(value, "00-", 3) == 0 && is_hex_id(value + 3, 32) && value[35] == '-' &&
		 is_hex_id(value + 36, 16) && value[52] == '-' && strspn(value + 53, "0123456789abcdef") == 2))
		return true;
	GUC_check_errdetail("It must be 00-<32 digits>-<16 digits>-<2 digits>, in lower-case hexadecimal.");
	return false;
}

static bool
check_schedule_prefix(char **newval, void **extra, GucSource source)
{
	const char *problem = np_inbox_prefix_problem(*newval);

	if (problem != NULL)
		GUC_check_errdetail("%s", problem);
	return problem == NULL;
}

static bool
check_relay_databases(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	bool		is_list = SplitIdentifierString(copy, ',', &names);

	if (!is_list)
		GUC_check_errdetail("It must be a comma-separated list of database names.");
	list_free(names);
	pfree(copy);
	return is_list;
}

/* A text of the superuser's about the connection, which nobody else sees. */
static void
define_private(const char *name, const char *description, const char *details, char **variable)
{
	DefineCustomStringVariable(name, description, details, variable, *variable,
							   PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, np_assign_server_text, NULL);
}

static void
define_server_settings(void)
{
	DefineCustomBoolVariable("nats_publish.randomize", "Tries the servers in random order.", NULL,
							 &randomize, false,
							 PGC_SUSET, GUC_SUPERUSER_ONLY,
							 NULL, assign_randomize, NULL);
	DefineCustomStringVariable("nats_publish.server",
							   "Foreign server to publish to, instead of the one of the other settings.",
							   "The role needs USAGE on it, and logs in by its user mapping.",
							   &np_server_setting, "",
							   PGC_USERSET, 0,
							   NULL, np_assign_server_text, NULL);
}

static void
define_identity_settings(void)
{
	define_private("nats_publish.creds_file", "File with the JWT and the seed of the NATS user.",
				   NULL, &creds_file);
	define_private("nats_publish.username", "Name of the NATS user.", NULL, &username);
	define_private("nats_publish.password_file", "File with the password of the NATS user.",
				   NULL, &password_file);
	define_private("nats_publish.token_file", "File with a token to log in with.", NULL, &token_file);
	define_private("nats_publish.nkey_seed_file", "File with the nkey seed of the NATS user.",
				   NULL, &nkey_seed_file);
}

static void
define_tls_settings(void)
{
	define_private("nats_publish.tls_ca_file", "File with the certificates of the authorities to trust.",
				   "Empty: those that the system trusts.", &tls_ca_file);
	define_private("nats_publish.tls_cert_file", "File with the certificate to show to the server.",
				   NULL, &tls_cert_file);
	define_private("nats_publish.tls_key_file", "File with the key of that certificate.",
				   NULL, &tls_key_file);
}

static void
define_publishing_settings(void)
{
	DefineCustomIntVariable("nats_publish.connect_timeout",
							"Longest time to connect to one server of the list.",
							NULL,
							&np_connect_timeout, 2000, 1, 3600 * 1000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.ack_timeout",
							"Longest time in which no acknowledgment arrives before a waiting call fails.",
							NULL,
							&np_ack_timeout, 5000, 1, 24 * 3600 * 1000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.commit_timeout",
							"Longest time in which no acknowledgment arrives before a waiting COMMIT fails.",
							"statement_timeout does not apply to COMMIT.",
							&np_commit_timeout, 10000, 1, 24 * 3600 * 1000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.max_pending",
							"Most messages that may be unacknowledged at a time.",
							NULL,
							&np_max_pending, 4096, 1, 1000000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.max_pending_bytes",
							"Most bytes of messages that may be unacknowledged at a time.",
							"One message may always be, whatever its size.",
							&np_max_pending_bytes, 64 * 1024, 64, 1024 * 1024,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("nats_publish.on_full",
							 "What a call does when max_pending or max_pending_bytes is reached.",
							 NULL,
							 &np_on_full, NP_ON_FULL_WAIT, on_full_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("nats_publish.auto_msg_id",
							 "Gives each message without a msg_id a unique one.",
							 "Without an id, a message can't be sent again when its connection is lost.",
							 &np_auto_msg_id, true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("nats_publish.schedule_prefix",
							   "Subject under which messages with deliver_at wait in their stream.",
							   "The stream needs to have it, with its own subjects behind it.",
							   &np_schedule_prefix, np_schedule_prefix,
							   PGC_USERSET, 0,
							   check_schedule_prefix, NULL, NULL);
	DefineCustomStringVariable("nats_publish.traceparent",
							   "The header traceparent of the messages of changed rows.",
							   "The caller's place in a distributed trace (W3C Trace Context).",
							   &np_traceparent, "",
							   PGC_USERSET, 0,
							   check_traceparent, NULL, NULL);
}

static void
define_relay_settings(void)
{
	DefineCustomStringVariable("nats_publish.relay_databases",
							   "Databases whose outbox is published: a comma-separated list.",
							   "Each has a background worker, if nats_publish is in shared_preload_libraries.",
							   &np_relay_databases, "",
							   PGC_SIGHUP, 0,
							   check_relay_databases, NULL, NULL);
	DefineCustomEnumVariable("nats_publish.wal_origin",
							 "Which changes of rows are published from the WAL.",
							 "any: all; none: those that were not replicated from elsewhere, and so have no origin.",
							 &np_wal_origin, NP_WAL_ORIGIN_ANY, wal_origin_options,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("nats_publish.relay_ordering",
							 "Whether the relay keeps the order of the messages of a subject.",
							 "strict: yes; pipelined: yes, in a pipeline also with nats-server before 2.11.5, where copies of the stream would stop; relaxed: no, all are sent at once.",
							 &np_relay_ordering, NP_RELAY_STRICT, relay_ordering_options,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.relay_batch_size",
							"Most messages that the relay reads from the outbox at a time.",
							"It also stops at max_pending_bytes.",
							&np_relay_batch_size, 1000, 1, 100000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.relay_poll_interval",
							"Longest time after which the relay looks at the outbox unasked.",
							NULL,
							&np_relay_poll_interval, 1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.relay_max_attempts",
							"After so many refused attempts a message is moved to nats_outbox_dead.",
							"The relay waits without end for a missing or full stream, a missing permission and an unreachable server.",
							&np_relay_max_attempts, 10, 1, 1000000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
}

static void
define_wal_settings(void)
{
	DefineCustomEnumVariable("nats_publish.outbox_storage",
							 "Where messages of the outbox wait for the relay.",
							 "table: in nats_outbox; wal: in the WAL, for which nats_wal_enable() has been called.",
							 &np_outbox_storage, NP_STORAGE_TABLE, outbox_storage_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.wal_divert_after",
							"Longest time for which WAL is kept because nothing can be published.",
							"After it, what comes from the WAL is moved to nats_outbox.",
							&np_wal_divert_after, 300 * 1000, 100, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("nats_publish.wal_divert_size",
							"Most WAL that is kept for what is not published yet.",
							"Beyond it, and while it does not become less, what comes from the WAL is moved to nats_outbox.",
							&np_wal_divert_size, 1024, 16, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
}

void
np_settings_define(void)
{
	List	   *options = np_unchecked_options();
	MemoryContext previous;

	np_guards_define();
	define_server_settings();
	define_identity_settings();
	define_tls_settings();
	define_publishing_settings();
	define_relay_settings();
	define_wal_settings();
	previous = MemoryContextSwitchTo(TopMemoryContext);
	np_misspelt_names = np_misspelt_settings();
	MemoryContextSwitchTo(previous);
	MarkGUCPrefixReserved("nats_publish");
	np_refuse_options(options);
}

static char *
text_or_null(char *text)
{
	return text[0] == '\0' ? NULL : text;
}

/* Raises 42501 when the session may use foreign servers only. */
static void
require_permission(void)
{
	if (np_server_required)
		np_raise_fault(NP_FAULT_NOT_PERMITTED,
					   "nats_publish.server_required is on: nats_publish.server must name a foreign server.",
					   "permission denied for the server of the settings");
}

/*
 * The server of the settings.  The texts live until one of these changes.
 *
 * Raises 42501 when the session may not use it, 22023 when a setting has a
 * value that can't be understood.
 */
void
np_settings_server(NpServer *server)
{
	require_permission();
	np_guards_require_server();
	*server = (NpServer)
	{
		.values =
		{
			[NP_SERVER_URL] = np_url_setting,
				[NP_SERVER_INBOX_PREFIX] = np_inbox_prefix,
				[NP_SERVER_RANDOMIZE] = randomize ? "on" : NULL,
				[NP_SERVER_TLS_CA_FILE] = text_or_null(tls_ca_file),
				[NP_SERVER_TLS_HANDSHAKE_FIRST] = np_tls_handshake_first ? "on" : NULL,
				[NP_SERVER_TLS_CERT_FILE] = text_or_null(tls_cert_file),
				[NP_SERVER_TLS_KEY_FILE] = text_or_null(tls_key_file),
				[NP_SERVER_USER] = text_or_null(username),
				[NP_SERVER_PASSWORD_FILE] = text_or_null(password_file),
				[NP_SERVER_TOKEN_FILE] = text_or_null(token_file),
				[NP_SERVER_NKEY_SEED_FILE] = text_or_null(nkey_seed_file),
				[NP_SERVER_CREDS_FILE] = text_or_null(creds_file)
		}
	};
}
