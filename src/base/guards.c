/*-------------------------------------------------------------------------
 *
 * guards.c
 *	  The settings that restrict or protect, and so fail closed.
 *
 * There are bad values that can't be refused: those that are older than the
 * setting, which are tried when it is defined; those of pg_db_role_setting,
 * which are tried when a session starts; and those that a parallel worker gets
 * from its leader.  PostgreSQL would drop them, with a WARNING, and go on with
 * what lies below or with the default.  So they are kept, and mean the least
 * that the setting can.  All of these settings are texts, for a bad value of
 * another type fails before its check hook is called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/guards.h"
#include "base/report.h"
#include "base/server_url.h"
#include "base/subject.h"

#define DEFAULT_URL			"nats://127.0.0.1:4222"

char	   *np_url_setting = DEFAULT_URL;
char	   *np_inbox_prefix = NP_DEFAULT_INBOX_PREFIX;
char	   *np_allowed_subjects = "";
static char *tls_handshake_first = "off";
static char *server_required = "off";
static char *publishing = "on";
static char *commit_batch = "pipelined";

/* What these texts mean. */
bool		np_tls_handshake_first = false;
bool		np_server_required = false;
int			np_publishing = NP_PUBLISHING_ON;
int			np_commit_batch = NP_COMMIT_PIPELINED;

uint64		np_server_generation;

static bool defining;			/* PostgreSQL tries values that were there before the settings */

typedef struct Guard
{
	const char *name;
	const char *description;
	const char *details;
	char	  **value;
	GucContext	context;
	int			flags;
	const char *(*problem) (const char *value); /* a sentence that does not show it, or NULL */
	const char *effect;			/* of a bad value */
	GucStringCheckHook check;
	GucStringAssignHook assign;
	GucShowHook show;
} Guard;

/* ---- Values ---------------------------------------------------------------- */

static const struct config_enum_entry commit_batch_options[] = {
	{"pipelined", NP_COMMIT_PIPELINED, false},
	{"atomic", NP_COMMIT_ATOMIC, false},
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

/* ---- What a new value does ------------------------------------------------------ */

/* A connection may be meant for another server now. */
void
np_assign_server_text(const char *newval, void *extra)
{
	np_server_generation++;
}

static void
assign_tls_handshake_first(const char *newval, void *extra)
{
	if (!parse_bool(newval, &np_tls_handshake_first))
		np_tls_handshake_first = false; /* but no connection is made */
	np_server_generation++;
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

/* ---- As PostgreSQL shows what it takes by several names: by the first one ---------- */

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

/* ---- The settings ---------------------------------------------------------------- */

enum
{
	URL,
	INBOX_PREFIX,
	TLS_HANDSHAKE_FIRST,
	OF_SERVER,					/* those above say where to connect to, and how */
	SERVER_REQUIRED = OF_SERVER,
	ALLOWED_SUBJECTS,
	PUBLISHING,
	COMMIT_BATCH,
	GUARDS
};

/* PostgreSQL tells a check hook no more than the value: one for each setting. */
#define CHECK_HOOK(name) \
	static bool check_##name(char **newval, void **extra, GucSource source)
CHECK_HOOK(url);
CHECK_HOOK(inbox_prefix);
CHECK_HOOK(tls_handshake_first);
CHECK_HOOK(server_required);
CHECK_HOOK(allowed_subjects);
CHECK_HOOK(publishing);
CHECK_HOOK(commit_batch);

#define NO_CONNECTION	"no connection is made"

static const Guard guards[GUARDS] = {
	[URL] = {
		"nats_publish.url", "NATS servers to connect to: a comma-separated list of URLs, tried in this order.",
		"nats:// or tls://[user:password@ or token@]host[:port]", &np_url_setting, PGC_SUSET, GUC_SUPERUSER_ONLY,
		url_problem, NO_CONNECTION, check_url, np_assign_server_text
	},
	[INBOX_PREFIX] = {
		"nats_publish.inbox_prefix", "Subject under which the acknowledgments arrive.",
		"The NATS user needs the right to subscribe to it.", &np_inbox_prefix, PGC_SUSET, 0,
		np_inbox_prefix_problem, NO_CONNECTION, check_inbox_prefix, np_assign_server_text
	},
	[TLS_HANDSHAKE_FIRST] = {
		"nats_publish.tls_handshake_first", "Begins TLS before the server's first line.",
		"on or off. The server must be set up for it. Needs libnats 3.9.", &tls_handshake_first, PGC_SUSET, GUC_SUPERUSER_ONLY,
		switch_problem, NO_CONNECTION, check_tls_handshake_first, assign_tls_handshake_first, show_tls_handshake_first
	},
	[SERVER_REQUIRED] = {
		"nats_publish.server_required", "Whether only foreign servers can be published to, by nats_publish.server.",
		"on: neither the server of the other settings, nor the outbox. To be set for roles.", &server_required, PGC_SUSET, 0,
		switch_problem, "it counts as on", check_server_required, assign_server_required, show_server_required
	},
	[ALLOWED_SUBJECTS] = {
		"nats_publish.allowed_subjects", "Subjects that may be published to: a comma-separated list of NATS patterns.",
		"Empty: all. To be set for roles and databases.", &np_allowed_subjects, PGC_SUSET, 0,
		allowed_subjects_problem, "no subject is allowed", check_allowed_subjects
	},
	[PUBLISHING] = {
		"nats_publish.publishing", "Whether anything is published: on, off or dry_run.",
		"off skips every call, dry_run checks it first: for copies of a database.", &publishing, PGC_SUSET, 0,
		publishing_problem, "it counts as off", check_publishing, assign_publishing, show_publishing
	},
	[COMMIT_BATCH] = {
		"nats_publish.commit_batch", "How a commit publishes the messages that its transaction holds.",
		"pipelined: one after the other; atomic: as one JetStream atomic batch, all of them or none.", &commit_batch, PGC_USERSET, 0,
		commit_batch_problem, "it counts as atomic", check_commit_batch, assign_commit_batch, show_commit_batch
	}
};

static char *
effect_hint(const Guard *guard)
{
	return psprintf("Until it has a valid value, %s.", guard->effect);
}

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

CHECK_HOOK(url)
{
	/* the backend's own message would show the value, with its password */
	GUC_check_errmsg("invalid value for parameter \"nats_publish.url\"");
	return check_guard(&guards[URL], *newval, source);
}

#define DEFINE_CHECK_HOOK(name, guard) \
	CHECK_HOOK(name) \
	{ \
		return check_guard(&guards[guard], *newval, source); \
	}
DEFINE_CHECK_HOOK(inbox_prefix, INBOX_PREFIX)
DEFINE_CHECK_HOOK(tls_handshake_first, TLS_HANDSHAKE_FIRST)
DEFINE_CHECK_HOOK(server_required, SERVER_REQUIRED)
DEFINE_CHECK_HOOK(allowed_subjects, ALLOWED_SUBJECTS)
DEFINE_CHECK_HOOK(publishing, PUBLISHING)
DEFINE_CHECK_HOOK(commit_batch, COMMIT_BATCH)

void
np_guards_define(void)
{
	defining = true;
	for (int i = 0; i < GUARDS; i++)
	{
		const Guard *guard = &guards[i];

		DefineCustomStringVariable(guard->name, guard->description, guard->details, guard->value, *guard->value,
								   guard->context, guard->flags, guard->check, guard->assign, guard->show);
	}
	defining = false;
}

/* ---- What the server has -------------------------------------------------------------- */

/* Those that are asked for what a role has that has no session. */
static const int of_roles[] = {ALLOWED_SUBJECTS, SERVER_REQUIRED};

/* As the postmaster has them. */
static char *server_values[GUARDS];
static GucSource server_sources[GUARDS];

static struct config_generic *
find_setting(const char *name)
{
	int			count;
	struct config_generic **settings = np_compat_settings(&count);

	for (int i = 0; i < count; i++)
		if (strcmp(settings[i]->name, name) == 0)
			return settings[i];
	elog(ERROR, "there is no setting \"%s\"", name);
}

/* To be called before a worker connects to its database, from when on it has what is set for that, and for its own role. */
void
np_guards_keep_servers(void)
{
	for (int i = 0; i < lengthof(of_roles); i++)
	{
		int			guard = of_roles[i];

		server_values[guard] = MemoryContextStrdup(TopMemoryContext, *guards[guard].value);
		server_sources[guard] = find_setting(guards[guard].name)->source;
	}
}

/* What is set for a database or a role stays, as if the session had set it; so that below it, what a reload brings is seen. */
static void
uncover(int guard)
{
	const char *name = guards[guard].name;
	struct config_generic *setting = find_setting(name);
	char	   *value;

	if (setting->source <= PGC_S_ARGV)
		return;
	value = pstrdup(*guards[guard].value);
	setting->source = setting->reset_source = PGC_S_DYNAMIC_DEFAULT;
	SetConfigOption(name, server_values[guard], PGC_SUSET, Max(server_sources[guard], PGC_S_DYNAMIC_DEFAULT));
	SetConfigOption(name, value, PGC_SUSET, PGC_S_SESSION);
	pfree(value);
}

/* To be called when it has connected. */
void
np_guards_uncover_servers(void)
{
	for (int i = 0; i < lengthof(of_roles); i++)
		uncover(of_roles[i]);
}

/* The guards that have a bad value: a sentence for each, palloc'd.  None: NIL. */
List *
np_guards_problems(void)
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

/* Raises 22023 when a setting does not say where to connect to, or how. */
void
np_guards_require_server(void)
{
	for (int i = 0; i < OF_SERVER; i++)
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
