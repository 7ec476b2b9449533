/*-------------------------------------------------------------------------
 *
 * sql_annotate.c
 *	  nats_annotate(): headers for the rest of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#include "base/report.h"
#include "message/annotations.h"
#include "outbox/wal_annotations.h"

PG_FUNCTION_INFO_V1(nats_annotate);

/*
 * nats_annotate(annotations): adds headers to all later messages of the transaction; NULL: there are none any more
 *
 * Raises 22023 for what can't be a header.
 */
Datum
nats_annotate(PG_FUNCTION_ARGS)
{
	const char *text = "";
	Jsonb	   *current = np_annotations_current();
	Datum		object;

	if (!PG_ARGISNULL(0))
	{
		object = PG_GETARG_DATUM(0);
		if (!JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(0)))
			np_raise_input("annotations must be a JSON object");
		if (current != NULL)
			object = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(current), object);
		text = JsonbToCString(NULL, &DatumGetJsonbP(object)->root, 0);
	}
	np_annotations_check(text);
	(void) set_config_option(NP_ANNOTATIONS_SETTING, text, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	np_wal_annotate(text);
	PG_RETURN_VOID();
}
