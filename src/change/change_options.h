/*-------------------------------------------------------------------------
 *
 * change_options.h
 *	  The options of a trigger that publishes changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_OPTIONS_H
#define NP_CHANGE_OPTIONS_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "base/types.h"

#define NP_DEFAULT_SUBJECT	"{schema}.{table}.{op}"

typedef enum NpChangeOp
{
	NP_INSERT,
	NP_UPDATE,
	NP_DELETE,
	NP_TRUNCATE,
	NP_READ,					/* of a row that is there already */
	NP_CHANGE_OPS
} NpChangeOp;

typedef enum NpDelivery
{
	NP_DELIVER_ON_COMMIT,
	NP_DELIVER_ASYNC,
	NP_DELIVER_SYNC,
	NP_DELIVER_OUTBOX,
	NP_DELIVER_WAL				/* not by the session, but by who reads the WAL */
} NpDelivery;

typedef enum NpChangeFormat
{
	NP_FORMAT_JSON,
	NP_FORMAT_CLOUDEVENTS,
	NP_FORMAT_DEBEZIUM
} NpChangeFormat;

/* Strings are in the database's encoding and palloc'd. */
typedef struct NpChangeOptions
{
	char	   *subject;		/* a template */
	NpDelivery	delivery;
	NpChangeFormat format;
	List	   *columns;		/* names; NIL: all */
	List	   *ignore;			/* names */
	List	   *key;			/* names; NIL: the table's own */
	char	   *msg_id;			/* a template, or NULL */
	Jsonb	   *headers;		/* an object of templates, or NULL */
	bool		old;
	char	   *payload;		/* a column that is the message, or NULL */
	bool		debezium_values;	/* not as in PostgreSQL's JSON */
	bool		transaction;	/* messages have their place in it */
	char	   *transaction_end;	/* subject of the message that ends it, or NULL */
} NpChangeOptions;

extern void np_change_options_parse(NpChangeOptions *options, int count, char **arguments);
extern bool np_change_is_from_wal(int count, char **arguments);
extern NpDelivery np_delivery_parse(const char *name);
extern const char *np_delivery_name(NpDelivery delivery);
extern bool np_delivery_is_relayed(NpDelivery delivery);
extern const char *np_change_op_name(NpChangeOp op);
extern const char *np_change_format_name(NpChangeFormat format);

#endif							/* NP_CHANGE_OPTIONS_H */
