/*-------------------------------------------------------------------------
 *
 * sql_check.c
 *	  nats_check(), the doctor: the rows, in their order.
 *
 * Nothing that it finds is an ERROR, and nothing that it asks has a part in
 * the transaction: only an interrupt or a lack of memory ends it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "base/encoding.h"
#include "check/check.h"
#include "check/check_relay.h"
#include "commit/transaction.h"
#include "publish/await.h"

PG_FUNCTION_INFO_V1(nats_check);

/* What a check must have to be made. */
typedef enum Need
{
	NEEDS_NOTHING,
	NEEDS_DATABASE,				/* which is asked in SQL */
	NEEDS_SERVER,				/* that answers */
	NEEDS_SUBJECT,				/* that was given: else there is no row */
	NEEDS_SUBJECT_AND_SERVER,
	NEEDS_STREAM				/* whose configuration is known */
} Need;

typedef struct Row
{
	const char *name;
	Need		need;
	NpCheck		check;
} Row;

/* The columns of nats_check(). */
enum
{
	CHECK_NAME,
	CHECK_STATUS,
	CHECK_DETAIL,
	CHECK_COLUMNS
};

static const Row rows[] = {
	{"connection", NEEDS_NOTHING, np_check_connection},
	{"server", NEEDS_SERVER, np_check_server},
	{"jetstream", NEEDS_SERVER, np_check_jetstream},
	{"round_trip", NEEDS_SERVER, np_check_round_trip},
	{"permissions", NEEDS_SERVER, np_check_permissions},
	{"subject", NEEDS_SUBJECT, np_check_subject},
	{"stream", NEEDS_SUBJECT_AND_SERVER, np_check_stream},
	{"storage", NEEDS_STREAM, np_check_storage},
	{"replicas", NEEDS_STREAM, np_check_replicas},
	{"retention", NEEDS_STREAM, np_check_retention},
	{"no_ack", NEEDS_STREAM, np_check_no_ack},
	{"discard", NEEDS_STREAM, np_check_discard},
	{"duplicate_window", NEEDS_STREAM, np_check_duplicate_window},
	{"persist_mode", NEEDS_STREAM, np_check_persist_mode},
	{"features", NEEDS_STREAM, np_check_features},
	{"limits", NEEDS_STREAM, np_check_limits},
	{"relay", NEEDS_NOTHING, np_check_relay},
	{"wal", NEEDS_DATABASE, np_check_wal},
	{"changes", NEEDS_DATABASE, np_check_changes},
	{"settings", NEEDS_NOTHING, np_check_settings},
};

static const char *const status_names[] = {
	[NP_CHECK_OK] = "ok",
	[NP_CHECK_UNKNOWN] = "unknown",
	[NP_CHECK_WARNING] = "warning",
	[NP_CHECK_FAILED] = "failed",
};

/* Why a row can't be made; NULL: it can. */
static const char *
obstacle(const NpExamination *examination, Need need)
{
	switch (need)
	{
		case NEEDS_SERVER:
		case NEEDS_SUBJECT_AND_SERVER:
			return examination->unreachable;
		case NEEDS_STREAM:
			if (examination->config != NULL)
				return NULL;
			return examination->stream_unknown != NULL ? examination->stream_unknown : examination->unreachable;
		default:
			return NULL;
	}
}

/* A check that is made, and what it has found. */
typedef struct MadeCheck
{
	NpCheck		check;
	NpFinding	finding;
} MadeCheck;

static void
make_check(NpExamination *examination, void *argument)
{
	MadeCheck  *made = argument;

	made->check(examination, &made->finding);
}

/*
 * What a check raises about NATS that it did not expect (an answer to an
 * earlier message that can't be parsed, say), or about our tables, is part of
 * what it finds.
 */
static void
try_check(const Row *row, NpExamination *examination, MadeCheck *made)
{
	bool		(*attempt) (NpExamine function, NpExamination *examination, void *argument, NpFailure *failure) =
	row->need == NEEDS_DATABASE ? np_check_attempt_here : np_check_attempt;
	NpFailure	failure;

	if (attempt(make_check, examination, made, &failure))
		return;
	np_find_failure(&made->finding, NP_CHECK_UNKNOWN, &failure);
}

static void
put_row(const Row *row, NpExamination *examination, ReturnSetInfo *rsinfo)
{
	const char *reason = obstacle(examination, row->need);
	MadeCheck	made = {.check = row->check,.finding = {.status = NP_CHECK_OK}};
	Datum		values[CHECK_COLUMNS];
	bool		nulls[CHECK_COLUMNS] = {false};

	if (row->need >= NEEDS_SUBJECT && examination->subject.data == NULL)
		return;
	initStringInfo(&made.finding.detail);
	if (reason != NULL)
		np_find(&made.finding, NP_CHECK_UNKNOWN, "%s", reason);
	else if (row->need == NEEDS_NOTHING)
		make_check(examination, &made);
	else
		try_check(row, examination, &made);
	values[CHECK_NAME] = CStringGetTextDatum(row->name);
	values[CHECK_STATUS] = CStringGetTextDatum(status_names[made.finding.status]);
	values[CHECK_DETAIL] = CStringGetTextDatum(made.finding.detail.data);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* nats_check(subject, probe): whether publishing works, and means what one thinks */
Datum
nats_check(PG_FUNCTION_ARGS)
{
	NpExamination examination = {
		.schema = get_func_namespace(fcinfo->flinfo->fn_oid),
		.is_relayed = np_check_is_relayed()
	};

	np_transaction_join();
	np_report_unawaited();
	InitMaterializedSRF(fcinfo, 0);
	examination.subject = np_text_to_utf8(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0));
	examination.probe = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	for (int i = 0; i < lengthof(rows); i++)
		put_row(&rows[i], &examination, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
