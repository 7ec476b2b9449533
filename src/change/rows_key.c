/*-------------------------------------------------------------------------
 *
 * rows_key.c
 *	  The key in the order of which a table is read.
 *
 * It is the primary key, or the index that is the replica identity: of one
 * value there is one row, and none has a NULL in it.  Its operators are named
 * with their schema, for the search path is the session's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/report.h"
#include "change/change_plan.h"
#include "change/change_types.h"
#include "change/output_settings.h"
#include "change/rows_key.h"

/* ---- Finding it -------------------------------------------------------------- */

/* Since PostgreSQL 17 a relation knows also a primary key that can be violated for a while, or that partitions do not have. */
static bool
is_always_unique(Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		is_unique;

	if (!HeapTupleIsValid(tuple))
		return false;
	is_unique = ((Form_pg_index) GETSTRUCT(tuple))->indimmediate && ((Form_pg_index) GETSTRUCT(tuple))->indisvalid;
	ReleaseSysCache(tuple);
	return is_unique;
}

/* ORDER BY sorts by a type's own order, which need not be that of the index. */
static bool
is_in_order(Relation index, int column, Form_pg_attribute attribute)
{
	return index->rd_opfamily[column] == get_opclass_family(GetDefaultOpClass(attribute->atttypid, BTREE_AM_OID)) &&
		index->rd_indcollation[column] == attribute->attcollation &&
		index->rd_indoption[column] == index->rd_indoption[0];
}

static Form_pg_attribute
column_of(Relation relation, Relation index, int column)
{
	return TupleDescAttr(RelationGetDescr(relation), index->rd_index->indkey.values[column] - 1);
}

static bool
is_all_in_order(Relation relation, Relation index)
{
	if (index->rd_rel->relam != BTREE_AM_OID)
		return false;
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
		if (!is_in_order(index, i, column_of(relation, index, i)))
			return false;
	return true;
}

/* The index, open, if the rows can be read in its order; else NULL, and what is wrong with it, if there is one. */
static Relation
open_index(Relation relation, Oid number, char **problem)
{
	Relation	index;

	if (!OidIsValid(number) || !is_always_unique(number))
		return NULL;
	index = index_open(number, AccessShareLock);
	if (is_all_in_order(relation, index))
		return index;
	*problem = psprintf("index \"%s\" has another order than its types", RelationGetRelationName(index));
	index_close(index, NoLock);
	return NULL;
}

static Relation
find_index(Relation relation)
{
	char	   *problem = "it has none";
	Relation	index;
	NpFailure	failure;

	list_free(RelationGetIndexList(relation));	/* which finds out both */
	index = open_index(relation, relation->rd_pkindex, &problem);
	if (index == NULL)
		index = open_index(relation, relation->rd_replidindex, &problem);
	if (index != NULL)
		return index;
	failure = np_failure(NP_FAULT_INPUT, "the rows of table \"%s\" cannot be read in the order of a key: %s",
						 RelationGetRelationName(relation), problem);
	failure.hint = "Give the table a primary key that is not deferrable, or a unique index that is its replica identity.";
	np_raise(&failure);
}

/* schema.operator; the strategy is a btree's. */
static char *
operator_name(Relation index, int column, int strategy)
{
	Oid			number = get_opfamily_member(index->rd_opfamily[column], index->rd_opcintype[column],
											 index->rd_opcintype[column], strategy);
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(number));
	Form_pg_operator operator = (Form_pg_operator) GETSTRUCT(tuple);
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", number);
	name = psprintf("%s.%s", quote_identifier(get_namespace_name(operator->oprnamespace)), NameStr(operator->oprname));
	ReleaseSysCache(tuple);
	return name;
}

/*
 * As what it is compared, and how it is made that.  Who may create operators in
 * the schema of an extension could else make one that fits a domain better, and
 * would be executed as the caller.
 */
static void
set_compared_type(NpRowsKeyColumn *column, Oid compared_type)
{
	HeapTuple	tuple;
	Form_pg_type type;

	column->compared_type = column->type;
	column->cast = "";
	/* what takes all arrays, enums or ranges is PostgreSQL's own */
	if (compared_type == column->type || get_typtype(compared_type) == TYPTYPE_PSEUDO)
		return;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(compared_type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", compared_type);
	type = (Form_pg_type) GETSTRUCT(tuple);
	column->compared_type = compared_type;
	/* not format_type: its "character" is one of them */
	column->cast = psprintf("::%s", quote_qualified_identifier(get_namespace_name(type->typnamespace), NameStr(type->typname)));
	ReleaseSysCache(tuple);
}

static NpRowsKeyColumn
read_column(Form_pg_attribute attribute, Relation index, int number)
{
	NpRowsKeyColumn column = {
		.name = pstrdup(NameStr(attribute->attname)),
		.index = attribute->attnum - 1,
		.type = attribute->atttypid,
		.typmod = attribute->atttypmod,
		.collation = attribute->attcollation,
		.is_by_value = attribute->attbyval,
		.length = attribute->attlen
	};

	set_compared_type(&column, index->rd_opcintype[number]);
	for (int strategy = 1; strategy <= BTMaxStrategyNumber; strategy++)
		column.operators[strategy] = operator_name(index, number, strategy);
	return column;
}

/* palloc'd; raises 22023 for a table without one. */
NpRowsKey *
np_rows_key_find(Relation relation)
{
	NpRowsKey  *key = palloc0(sizeof(NpRowsKey));
	Relation	index = find_index(relation);

	key->count = IndexRelationGetNumberOfKeyAttributes(index);
	key->columns = palloc(sizeof(NpRowsKeyColumn) * key->count);
	for (int i = 0; i < key->count; i++)
		key->columns[i] = read_column(column_of(relation, index, i), index, i);
	index_close(index, NoLock);
	return key;
}

/* ---- As text -------------------------------------------------------------------- */

/* Of an id: {"a"}.{"b"} */
char *
np_rows_key_template(const NpRowsKey *key)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < key->count; i++)
	{
		appendStringInfoString(&text, i > 0 ? ".{\"" : "{\"");
		for (const char *byte = key->columns[i].name; *byte != '\0'; byte++)
		{
			if (*byte == '"')
				appendStringInfoChar(&text, '"');
			appendStringInfoChar(&text, *byte);
		}
		appendStringInfoString(&text, "\"}");
	}
	return text.data;
}

/*
 * What decides which key comes behind another, whatever the columns are called:
 * 1 integer, 2 text collation 100.  palloc'd.
 */
char *
np_rows_key_order(const NpRowsKey *key)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < key->count; i++)
	{
		const NpRowsKeyColumn *column = &key->columns[i];

		appendStringInfo(&text, "%s%d %s", i > 0 ? ", " : "", column->index + 1, format_type_be_qualified(column->type));
		if (OidIsValid(column->collation))
			appendStringInfo(&text, " collation %u", column->collation);
	}
	return text.data;
}

static ArrayType *
make_array(const NpRowsKey *key, Datum *elements)
{
	return construct_array(elements, key->count, TEXTOID, -1, false, TYPALIGN_INT);
}

/* As np_rows_key_from_text reads it in any session. */
ArrayType *
np_rows_key_to_text(const NpRowsKey *key, const Datum *values)
{
	Datum	   *elements = palloc(sizeof(Datum) * key->count);
	int			nest_level = np_output_settings_begin(NP_NEEDS_SETTINGS);

	for (int i = 0; i < key->count; i++)
	{
		Oid			output;
		bool		is_varlena;

		getTypeOutputInfo(key->columns[i].type, &output, &is_varlena);
		elements[i] = CStringGetTextDatum(OidOutputFunctionCall(output, values[i]));
	}
	np_output_settings_end(nest_level);
	return make_array(key, elements);
}

/* The values; raises what input functions raise. */
Datum *
np_rows_key_from_text(const NpRowsKey *key, ArrayType *texts)
{
	Datum	   *values = palloc(sizeof(Datum) * key->count);
	int			nest_level = np_input_settings_begin(NP_NEEDS_SETTINGS);
	Datum	   *elements;
	int			count;

	deconstruct_array(texts, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	if (count != key->count)
		elog(ERROR, "a key of %d columns was kept as one of %d", key->count, count);
	for (int i = 0; i < count; i++)
	{
		Oid			input;
		Oid			parameter;

		getTypeInputInfo(key->columns[i].type, &input, &parameter);
		values[i] = OidInputFunctionCall(input, TextDatumGetCString(elements[i]), parameter, key->columns[i].typmod);
	}
	np_output_settings_end(nest_level);
	return values;
}
