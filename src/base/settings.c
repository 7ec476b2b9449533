/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings nats_publish.*.
 *
 * Check hooks run in the postmaster too, so they call nothing of libnats.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "base/report.h"
#include "base/server_url.h"
#include "base/settings.h"
#include "base/subject.h"

#define DEFAULT_URL				"nats://127.0.0.1:4222"

/* What np_settings_server makes a server of. */
static char *url = DEFAULT_URL;
static char *creds_file = "";
static char *username = "";
static char *password_file = "";
static char *token_file = "";
static char *nkey_seed_file = "";
static char *tls_ca_file = "";
static char *tls_cert_file = "";
static char *tls_key_file = "";
static char *tls_handshake_first = "off";
static bool randomize = false;

/* Texts, as PostgreSQL keeps no bad value of another type: see keep_bad_value. */
static char *publishing = "on";
static char *commit_batch = "pipelined";
static char *server_required = "off";

char	   *np_inbox_prefix = NP_DEFAULT_INBOX_PREFIX;
char	   *np_server_setting = "";
bool		np_server_required = false;
uint64		np_server_generation;
char	   *np_allowed_subjects = "";
int			np_publishing = NP_PUBLISHING_ON;
int			np_connect_timeout = 2000;
int			np_ack_timeout = 5000;
int			np_commit_timeout = 10000;
int			np_max_pending = 4096;
int			np_max_pending_bytes = 64 * 1024;
int			np_on_full = NP_ON_FULL_WAIT;
bool		np_auto_msg_id = true;
int			np_commit_batch = NP_COMMIT_PIPELINED;
char	   *np_traceparent = "";
char	   *np_relay_databases = "";
int			np_relay_batch_size = 1000;
int			np_relay_poll_interval = 1000;
int			np_relay_ordering = NP_RELAY_STRICT;
int			np_relay_max_attempts = 10;

static const struct config_enum_entry on_full_options[] = {
	{"wait", NP_ON_FULL_WAIT, false},
	{"error", NP_ON_FULL_ERROR, false},
	{NULL, 0, false}
};

static const struct config_enum_entry commit_batch_options[] = {
	{"pipelined", NP_COMMIT_PIPELINED, false},
	{"atomic", NP_COMMIT_ATOMIC, false},
	{NULL, 0, false}
};

static const struct config_enum_entry relay_ordering_options[] = {
	{"strict", NP_RELAY_STRICT, false},
	{"relaxed", NP_RELAY_RELAXED, false},
	{NULL, 0, false}
};

static const struct config_enum_entry publishing_options[] = {
	{"on", NP_PUBLISHING_ON, false},
	{"off", NP_PUBLISHING_OFF, false},
	{"dry_run", NP_PUBLISHING_DRY_RUN, false},
	{"true", NP_PUBLISHING_ON, true},
	{"false", NP_PUBLISHING_OFF, true},
	{"yes", NP_PUBLISHING_ON, true},
	{"no", NP_PUBLISHING_OFF, true},
	{"1", NP_PUBLISHING_ON, true},
	{"0", NP_PUBLISHING_OFF, true},
	{NULL, 0, false}
};

/* ---- What protects ------------------------------------------------------------- */

/* A setting that restricts or protects, and so fails closed. */
typedef struct Guard
{
	const char *name;
	char	  **value;
	const char *(*problem) (const char *value); /* a sentence that does not show it, or NULL */
	const char *effect;			/* of a bad value */
} Guard;

static bool defining;			/* PostgreSQL tries values that were there before the settings */

static const struct config_enum_entry *
find_choice(const struct config_enum_entry *choices, const char *text)
{
	for (; choices->name != NULL; choices++)
		if (pg_strcasecmp(choices->name, text) == 0)
			return choices;
	return NULL;
}

/* Of a list: the problem is the one of the item of this number. */
static const char *
item_problem(const char *item, int position, const char *problem)
{
	static char sentence[200];

	if (problem == NULL)
		return NULL;
	snprintf(sentence, sizeof(sentence), "%s number %d of the list is not valid: %s.", item, position, problem);
	return sentence;
}

static const char *
url_problem(const char *value)
{
	int			position;
	const char *problem = np_url_list_check(value, &position);

	return item_problem("URL", position, problem);
}

static const char *
allowed_subjects_problem(const char *value)
{
	int			position = 0;
	const char *problem = value[0] == '\0' ? NULL : np_pattern_list_problem(value, &position);

	return item_problem("Pattern", position, problem);
}

static const char *
switch_problem(const char *value)
{
	bool		on;

	return parse_bool(value, &on) ? NULL : "It must be on or off.";
}

static const char *
publishing_problem(const char *value)
{
	return find_choice(publishing_options, value) != NULL ? NULL : "It must be on, off or dry_run.";
}

static const char *
commit_batch_problem(const char *value)
{
	return find_choice(commit_batch_options, value) != NULL ? NULL : "It must be pipelined or atomic.";
}

enum
{
	GUARD_URL,
	GUARD_INBOX_PREFIX,
	GUARD_TLS_HANDSHAKE_FIRST,
	GUARDS_OF_SERVER,			/* those above say where to connect to, and how */
	GUARD_SERVER_REQUIRED = GUARDS_OF_SERVER,
	GUARD_ALLOWED_SUBJECTS,
	GUARD_PUBLISHING,
	GUARD_COMMIT_BATCH,
	GUARDS
};

#define NO_CONNECTION	"no connection is made"

static const Guard guards[GUARDS] = {
	[GUARD_URL] = {"nats_publish.url", &url, url_problem, NO_CONNECTION},
	[GUARD_INBOX_PREFIX] = {"nats_publish.inbox_prefix", &np_inbox_prefix, np_inbox_prefix_problem, NO_CONNECTION},
	[GUARD_TLS_HANDSHAKE_FIRST] = {"nats_publish.tls_handshake_first", &tls_handshake_first, switch_problem, NO_CONNECTION},
	[GUARD_SERVER_REQUIRED] = {"nats_publish.server_required", &server_required, switch_problem, "it counts as on"},
	[GUARD_ALLOWED_SUBJECTS] = {"nats_publish.allowed_subjects", &np_allowed_subjects, allowed_subjects_problem, "no subject is allowed"},
	[GUARD_PUBLISHING] = {"nats_publish.publishing", &publishing, publishing_problem, "it counts as off"},
	[GUARD_COMMIT_BATCH] = {"nats_publish.commit_batch", &commit_batch, commit_batch_problem, "it counts as atomic"}
};

static char *
effect_hint(const Guard *guard)
{
	return psprintf("Until it has a valid value, %s.", guard->effect);
}

/*
 * What protects fails closed.  There are bad values that can't be refused:
 * those that are older than the setting, which are tried when it is defined;
 * those of pg_db_role_setting, which are tried when a session starts; and
 * those that a parallel worker gets from its leader.  PostgreSQL would drop
 * them, with a WARNING, and go on with what lies below or with the default.
 * So they are kept, and mean the least that the setting can.  (A value of
 * another type than text fails before its check hook is called.)
 */
static bool
can_refuse(GucSource source)
{
	return !defining && !InitializingParallelWorker && (source < PGC_S_GLOBAL || source > PGC_S_DATABASE_USER);
}

/* What the check hook of a guard returns. */
static bool
check_guard(const Guard *guard, const char *value, GucSource source)
{
	const char *problem = guard->problem(value);

	if (problem == NULL)
		return true;
	if (can_refuse(source))
	{
		GUC_check_errdetail("%s", problem);
		return false;
	}
	if (!InitializingParallelWorker)
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\"", guard->name),
				 errdetail("%s", problem),
				 errhint("%s", effect_hint(guard))));
	return true;
}

static bool
check_url(char **newval, void **extra, GucSource source)
{
	/* the backend's own message would show the value, with its password */
	GUC_check_errmsg("invalid value for parameter \"nats_publish.url\"");
	return check_guard(&guards[GUARD_URL], *newval, source);
}

static bool
check_inbox_prefix(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_INBOX_PREFIX], *newval, source);
}

static bool
check_tls_handshake_first(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_TLS_HANDSHAKE_FIRST], *newval, source);
}

static bool
check_server_required(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_SERVER_REQUIRED], *newval, source);
}

static bool
check_allowed_subjects(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_ALLOWED_SUBJECTS], *newval, source);
}

static bool
check_publishing(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_PUBLISHING], *newval, source);
}

static bool
check_commit_batch(char **newval, void **extra, GucSource source)
{
	return check_guard(&guards[GUARD_COMMIT_BATCH], *newval, source);
}

static void
assign_server_required(const char *newval, void *extra)
{
	if (!parse_bool(newval, &np_server_required))
		np_server_required = true;
	np_server_generation++;
}

static void
assign_publishing(const char *newval, void *extra)
{
	const struct config_enum_entry *choice = find_choice(publishing_options, newval);

	np_publishing = choice != NULL ? choice->val : NP_PUBLISHING_OFF;
}

static void
assign_commit_batch(const char *newval, void *extra)
{
	const struct config_enum_entry *choice = find_choice(commit_batch_options, newval);

	np_commit_batch = choice != NULL ? choice->val : NP_COMMIT_ATOMIC;
}

/* As PostgreSQL shows what it takes by several names: by the first one. */
static const char *
show_choice(const struct config_enum_entry *choices, const char *value)
{
	const struct config_enum_entry *choice = find_choice(choices, value);

	while (choice != NULL && choices->val != choice->val)
		choices++;
	return choice != NULL ? choices->name : value;
}

static const char *
show_switch(const char *value)
{
	bool		on;

	if (!parse_bool(value, &on))
		return value;
	return on ? "on" : "off";
}

static const char *
show_publishing(void)
{
	return show_choice(publishing_options, publishing);
}

static const char *
show_commit_batch(void)
{
	return show_choice(commit_batch_options, commit_batch);
}

static const char *
show_tls_handshake_first(void)
{
	return show_switch(tls_handshake_first);
}

static const char *
show_server_required(void)
{
	return show_switch(server_required);
}

/* The settings that protect and have a bad value: a sentence for each, palloc'd.  None: NIL. */
List *
np_settings_problems(void)
{
	List	   *problems = NIL;

	for (int i = 0; i < GUARDS; i++)
	{
		const char *problem = guards[i].problem(*guards[i].value);

		if (problem != NULL)
			problems = lappend(problems, psprintf("%s has a bad value, so %s. %s", guards[i].name, guards[i].effect, problem));
	}
	return problems;
}

/* ---- Other checks --------------------------------------------------------------- */

/* A connection may be meant for another server now. */
static void
assign_text(const char *newval, void *extra)
{
	np_server_generation++;
}

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
define_private(const char *name, const char *description, const char *details, char **variable,
			   GucStringCheckHook check)
{
	DefineCustomStringVariable(name, description, details, variable, *variable,
							   PGC_SUSET, GUC_SUPERUSER_ONLY, check, assign_text, NULL);
}

static void
define_server_settings(void)
{
	define_private("nats_publish.url",
				   "NATS servers to connect to: a comma-separated list of URLs, tried in this order.",
				   "nats:// or tls://[user:password@ or token@]host[:port]", &url, check_url);
	DefineCustomBoolVariable("nats_publish.randomize", "Tries the servers in random order.", NULL,
							 &randomize, false,
							 PGC_SUSET, GUC_SUPERUSER_ONLY,
							 NULL, assign_randomize, NULL);
	DefineCustomStringVariable("nats_publish.inbox_prefix",
							   "Subject under which the acknowledgments arrive.",
							   "The NATS user needs the right to subscribe to it.",
							   &np_inbox_prefix, NP_DEFAULT_INBOX_PREFIX,
							   PGC_SUSET, 0,
							   check_inbox_prefix, assign_text, NULL);
	DefineCustomStringVariable("nats_publish.server",
							   "Foreign server to publish to, instead of the one of the other settings.",
							   "The role needs USAGE on it; its user mapping says as whom.",
							   &np_server_setting, "",
							   PGC_USERSET, 0,
							   NULL, assign_text, NULL);
	DefineCustomStringVariable("nats_publish.server_required",
							   "Whether only foreign servers can be published to, by nats_publish.server.",
							   "on: neither the server of the other settings, nor the outbox. To be set for roles.",
							   &server_required, "off",
							   PGC_SUSET, 0,
							   check_server_required, assign_server_required, show_server_required);
}

static void
define_identity_settings(void)
{
	define_private("nats_publish.creds_file", "File with the JWT and the seed of the NATS user.",
				   NULL, &creds_file, NULL);
	define_private("nats_publish.username", "Name of the NATS user.", NULL, &username, NULL);
	define_private("nats_publish.password_file", "File with the password of the NATS user.",
				   NULL, &password_file, NULL);
	define_private("nats_publish.token_file", "File with a token to log in with.", NULL, &token_file, NULL);
	define_private("nats_publish.nkey_seed_file", "File with the nkey seed of the NATS user.",
				   NULL, &nkey_seed_file, NULL);
}

static void
define_tls_settings(void)
{
	define_private("nats_publish.tls_ca_file", "File with the certificates of the authorities to trust.",
				   "Empty: those that the system trusts.", &tls_ca_file, NULL);
	define_private("nats_publish.tls_cert_file", "File with the certificate to show to the server.",
				   NULL, &tls_cert_file, NULL);
	define_private("nats_publish.tls_key_file", "File with the key of that certificate.",
				   NULL, &tls_key_file, NULL);
	DefineCustomStringVariable("nats_publish.tls_handshake_first", "Begins TLS before the server's first line.",
							   "on or off. The server must be set up for it. Needs libnats 3.9.",
							   &tls_handshake_first, "off",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_tls_handshake_first, assign_text, show_tls_handshake_first);
}

static void
define_permission_settings(void)
{
	DefineCustomStringVariable("nats_publish.allowed_subjects",
							   "Subjects that may be published to: a comma-separated list of NATS patterns.",
							   "Empty: all. To be set for roles and databases.",
							   &np_allowed_subjects, "",
							   PGC_SUSET, 0,
							   check_allowed_subjects, NULL, NULL);
	DefineCustomStringVariable("nats_publish.publishing",
							   "Whether anything is published: on, off or dry_run.",
							   "off skips every call, dry_run checks it first: for copies of a database.",
							   &publishing, "on",
							   PGC_SUSET, 0,
							   check_publishing, assign_publishing, show_publishing);
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
	DefineCustomStringVariable("nats_publish.commit_batch",
							   "How a commit publishes the messages that its transaction holds.",
							   "pipelined: one after the other; atomic: as one JetStream atomic batch, all of them or none.",
							   &commit_batch, "pipelined",
							   PGC_USERSET, 0,
							   check_commit_batch, assign_commit_batch, show_commit_batch);
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
	DefineCustomEnumVariable("nats_publish.relay_ordering",
							 "Whether the relay keeps the order of the messages of a subject.",
							 "strict: one at a time of each subject; relaxed: all at once, in the order of their ids.",
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
							"A missing or full stream, a missing permission and an unreachable server are waited for without end.",
							&np_relay_max_attempts, 10, 1, 1000000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
}

/* ---- Options of the connection ---------------------------------------------------- */

/*
 * May whoever made this connection not set what its options set?  PostgreSQL
 * could not know yet.
 */
static bool
is_unchecked_option(const struct config_generic *setting)
{
	return (setting->flags & GUC_CUSTOM_PLACEHOLDER) != 0 &&
		strncmp(setting->name, "nats_publish.", strlen("nats_publish.")) == 0 &&
		setting->reset_source == PGC_S_CLIENT && setting->reset_scontext == PGC_BACKEND;
}

static List *
unchecked_options(void)
{
	int			count;
	struct config_generic **settings = np_compat_settings(&count);
	List	   *names = NIL;

	for (int i = 0; i < count; i++)
		if (is_unchecked_option(settings[i]))
			names = lappend(names, pstrdup(settings[i]->name));
	return names;
}

/*
 * When a setting is defined, PostgreSQL drops what an ordinary user has given
 * as an option of the connection, but that had already taken the place of
 * what is set for the role, the database or the server: the setting would be
 * as if nobody had set it.  So the connection ends, as one does that meets
 * the library preloaded.
 */
static void
refuse_options(List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		int			count;
		struct config_generic **settings = np_compat_settings(&count);

		for (int i = 0; i < count; i++)
			if (strcmp(settings[i]->name, name) == 0 && settings[i]->context != PGC_USERSET &&
				settings[i]->reset_source != PGC_S_CLIENT)
				ereport(FATAL,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("permission denied to set parameter \"%s\"", name)));
	}
}

void
np_settings_define(void)
{
	List	   *options = unchecked_options();

	defining = true;
	define_server_settings();
	define_identity_settings();
	define_tls_settings();
	define_permission_settings();
	define_publishing_settings();
	define_relay_settings();
	defining = false;
	MarkGUCPrefixReserved("nats_publish");
	refuse_options(options);
}

static char *
text_or_null(char *text)
{
	return text[0] == '\0' ? NULL : text;
}

/* Raises 22023 when a setting does not say where to connect to, or how. */
static void
require_valid_server(void)
{
	for (int i = 0; i < GUARDS_OF_SERVER; i++)
	{
		const char *problem = guards[i].problem(*guards[i].value);
		NpFailure	failure;

		if (problem == NULL)
			continue;
		failure = np_failure(NP_FAULT_INPUT, "invalid value for parameter \"%s\"", guards[i].name);
		failure.detail = problem;
		failure.hint = effect_hint(&guards[i]);
		np_raise(&failure);
	}
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
	bool		handshake_first;

	require_permission();
	require_valid_server();
	*server = (NpServer)
	{
		.values =
		{
			[NP_SERVER_URL] = url,
				[NP_SERVER_INBOX_PREFIX] = np_inbox_prefix,
				[NP_SERVER_RANDOMIZE] = randomize ? "on" : NULL,
				[NP_SERVER_TLS_CA_FILE] = text_or_null(tls_ca_file),
				[NP_SERVER_TLS_HANDSHAKE_FIRST] = parse_bool(tls_handshake_first, &handshake_first) && handshake_first ? "on" : NULL,
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
