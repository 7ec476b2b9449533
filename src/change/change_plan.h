/*-------------------------------------------------------------------------
 *
 * change_plan.h
 *	  How the changes of one table are published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_PLAN_H
#define NP_CHANGE_PLAN_H

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"

#include "base/wait.h"
#include "change/change_options.h"
#include "change/change_values.h"

struct NpColumn;

/* Columns that are written as one JSON object. */
typedef struct NpRowShape
{
	bool		whole;			/* the row as it is; else: */
	int			count;
	int		   *indexes;		/* in a slot's values */
	TupleDesc	columns;		/* blessed */
	struct NpColumn *plain;		/* the columns, of each of which is known how JSON has it; else NULL: */
	NpValueCoder *coders;		/* Debezium's; NULL: row_to_json writes it */
} NpRowShape;

/* How to have a column's value as the JSON has it, without quotes. */
typedef enum NpTextKind
{
	NP_TEXT_INTEGER,			/* its output */
	NP_TEXT_STRING,				/* its output, which JSON would quote */
	NP_TEXT_BOOLEAN,
	NP_TEXT_TIME,
	NP_TEXT_JSON				/* taken from the JSON of a row with it alone */
} NpTextKind;

/* A column of which the value is needed as text. */
typedef struct NpColumn
{
	int			number;			/* in the published table, from 0 */
	int			index;			/* in a slot's values */
	Oid			base_type;
	NpTextKind	kind;
	FmgrInfo	output;
	NpRowShape	row;			/* of NP_TEXT_JSON */
} NpColumn;

typedef enum NpPartKind
{
	NP_PLAN_TEXT,
	NP_PLAN_OP,
	NP_PLAN_XID,
	NP_PLAN_LSN,
	NP_PLAN_COMMIT_TS,
	NP_PLAN_COLUMN
} NpPartKind;

typedef struct NpPlanPart
{
	NpPartKind	kind;
	NpSpan		text;			/* UTF-8, encoded where it has to be */
	NpColumn	column;
} NpPlanPart;

/* A template for which is known what its names are. */
typedef struct NpPlanTemplate
{
	int			count;
	NpPlanPart *parts;
} NpPlanTemplate;

typedef struct NpPlanHeader
{
	NpSpan		name;			/* UTF-8 */
	NpPlanTemplate value;
} NpPlanHeader;

/* What is to be known of a trigger; no more than that outlives a look at the catalog. */
typedef struct NpTriggerFacts
{
	const char *name;			/* NULL: it is yet to be created */
	int16		type;
	bool		has_columns;	/* UPDATE OF */
	const char *condition;		/* of WHEN, as it is in pg_trigger; or NULL */
} NpTriggerFacts;

/* Of a table that is published from the WAL: what is there, and what is not. */
typedef struct NpChangeWal
{
	bool		old_is_whole;	/* REPLICA IDENTITY FULL */
	bool	   *in_old;			/* by a column's place in a slot: an old row has it */
	NpValueCoder *coders;		/* of the published columns, for new rows without some */
	TupleTableSlot *old;		/* to put rows into */
	TupleTableSlot *new;
	bool		calls_others;	/* messages are made by functions that are not PostgreSQL's own */
	bool		is_limited;		/* that, or WHEN can take long */
	Oid			owner;			/* of the published table */
	char	   *subjects;		/* to which that may publish; NULL: not read yet */
	bool		needs_server;	/* it may not publish on the relay's connection */
	NpTime		bounds_read_at; /* this and the subjects ... */
	TimestampTz bounds_of;		/* ... as they were then */
	struct NpChangeFilter *filter;	/* WHEN; NULL: none */
	const char *problems[NP_CHANGE_OPS];	/* why changes can't be published; NULL: they can */
	const char *hints[NP_CHANGE_OPS];
} NpChangeWal;

typedef struct NpChangePlan
{
	int			users;			/* calls that use it, or were ended by an error */
	NpDelivery	delivery;
	NpChangeFormat format;
	bool		old;
	int			needs;			/* NpTextNeeds of all columns */
	List	   *row_types;		/* the relations of those that columns are made of */
	bool		has_position;	/* messages tell their place in the transaction */
	const char *transaction_end;	/* subject in the database's encoding, or NULL */
	bool		only_missing;	/* not if their subjects have a message already */
	bool		has_payload;	/* a column instead of the format */
	NpColumn	payload;
	NpPlanTemplate subject;
	NpPlanTemplate msg_id;		/* count 0: none */
	int			header_count;
	NpPlanHeader *headers;

	NpRowShape	row;			/* what is published of a row */
	NpRowShape	old_row;		/* and of an old one: the key too */
	NpRowShape	key;
	int			key_count;		/* 0: there is none */
	NpColumn   *key_columns;
	bool		key_is_row;		/* the row has nothing but itself: REPLICA IDENTITY FULL */

	/* by a column's number in the published table */
	int			column_count;
	const int  *places;			/* in a slot, which can be a partition's; -1: dropped */
	bool	   *is_published;
	bool	   *is_key;
	bool	   *matters;		/* its change is one */
	bool	   *needed;			/* a template or the payload is made of it */
	const char **json_names;	/* with quotes, in the database's encoding */

	/* what is the same in all messages */
	const char *schema;
	const char *table;
	const char *beginnings[NP_CHANGE_OPS];	/* of the JSON, in the database's encoding */
	const char *sources[NP_CHANGE_OPS]; /* of Debezium's, their beginnings */
	NpChangeWal *wal;			/* NULL: another delivery */
	NpSpan		lines[NP_CHANGE_OPS];	/* header lines, UTF-8 */
} NpChangePlan;

extern const char *np_change_beginning(NpChangeOp op, const char *schema, const char *table);
extern NpSpan np_change_template_example(const NpPlanTemplate *template, char value);
extern void np_change_append_cloudevent(StringInfo lines, const char *type, const char *schema, const char *table);
extern NpChangePlan *np_change_plan_make(Relation relation, Relation published, const NpChangeOptions *options,
										 const NpTriggerFacts *trigger);

#endif							/* NP_CHANGE_PLAN_H */
