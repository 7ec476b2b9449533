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
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"

#include "change/change_options.h"
#include "change/change_values.h"

typedef enum NpChangeOp
{
	NP_INSERT,
	NP_UPDATE,
	NP_DELETE,
	NP_TRUNCATE,
	NP_READ,					/* of a row that is there already */
	NP_CHANGE_OPS
} NpChangeOp;

/* Columns that are written as one JSON object. */
typedef struct NpRowShape
{
	bool		whole;			/* the row as it is; else: */
	int			count;
	int		   *indexes;		/* in a slot's values */
	TupleDesc	columns;		/* blessed */
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

/* What else than its value the text of a type depends on; to be or-ed. */
typedef enum NpTextNeeds
{
	NP_NEEDS_TIME_ZONE = 1,
	NP_NEEDS_SEARCH_PATH = 2,	/* it has names of objects */
	NP_NEEDS_CURRENCY = 4,
	NP_NEEDS_ALL = 7
} NpTextNeeds;

typedef enum NpPartKind
{
	NP_PLAN_TEXT,
	NP_PLAN_OP,
	NP_PLAN_XID,
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

typedef struct NpChangePlan
{
	int			users;			/* calls that use it, or were ended by an error */
	NpDelivery	delivery;
	NpChangeFormat format;
	bool		old;
	int			needs;			/* NpTextNeeds of all columns */
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
	bool		key_is_plain;	/* integers and strings: JSON without a row */

	/* by a column's number in the published table */
	int			column_count;
	const int  *places;			/* in a slot, which can be a partition's */
	bool	   *is_published;
	bool	   *is_key;
	bool	   *matters;		/* its change is one */
	const char **json_names;	/* with quotes, in the database's encoding */

	/* what is the same in all messages */
	const char *schema;
	const char *table;
	const char *beginnings[NP_CHANGE_OPS];	/* of the JSON, in the database's encoding */
	const char *sources[NP_CHANGE_OPS]; /* of Debezium's, their beginnings */
	NpSpan		lines[NP_CHANGE_OPS];	/* header lines, UTF-8 */
} NpChangePlan;

extern const char *np_change_op_name(NpChangeOp op);
extern void np_change_append_cloudevent(StringInfo lines, const char *type, const char *schema, const char *table);
extern NpChangePlan *np_change_plan_make(Relation relation, Relation published, const NpChangeOptions *options,
										 int16 trigger_type, const char *trigger);

#endif							/* NP_CHANGE_PLAN_H */
