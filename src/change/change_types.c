/*-------------------------------------------------------------------------
 *
 * change_types.c
 *	  What the text of a value depends on, by its type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "change/change_types.h"

/* NpTextNeeds of all columns of a row; see np_type_needs. */
int
np_row_needs(TupleDesc columns, List **row_types)
{
	int			needs = 0;

	for (int i = 0; i < columns->natts; i++)
		if (!TupleDescAttr(columns, i)->attisdropped)
			needs |= np_type_needs(TupleDescAttr(columns, i)->atttypid, row_types);
	return needs;
}

static int
composite_needs(Oid type, List **row_types)
{
	TupleDesc	columns = lookup_rowtype_tupdesc(type, -1);
	int			needs = np_row_needs(columns, row_types);

	*row_types = list_append_unique_oid(*row_types, get_typ_typrelid(type));
	ReleaseTupleDesc(columns);
	return needs;
}

static int
function_needs(Oid function)
{
	if (function < FirstNormalObjectId)
		return 0;
	return NP_NEEDS_OTHERS_CODE | (func_volatile(function) == PROVOLATILE_IMMUTABLE ? 0 : NP_NEEDS_TABLES);
}

/* Of another's type that is not made of others: its output, or its cast to json, as row_to_json looks for it. */
static int
code_needs(Oid type)
{
	Oid			function;
	bool		is_varlena;

	if (find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) != COERCION_PATH_FUNC)
		getTypeOutputInfo(type, &function, &is_varlena);
	return function_needs(function);
}

/* Of a type that is made of others: theirs. */
static int
part_needs(Oid type, List **row_types)
{
	switch (get_typtype(type))
	{
		case TYPTYPE_COMPOSITE:
			return composite_needs(type, row_types);
		case TYPTYPE_RANGE:
			return np_type_needs(get_range_subtype(type), row_types);
		case TYPTYPE_MULTIRANGE:
			return np_type_needs(get_multirange_range(type), row_types);
		default:
			return OidIsValid(get_element_type(type)) ? np_type_needs(get_element_type(type), row_types) : 0;
	}
}

static bool
is_row_or_array(Oid type)
{
	return type_is_rowtype(type) || OidIsValid(get_element_type(type));
}

/*
 * NpTextNeeds of a type; what another extension's cast to JSON shows may be a
 * time.  To row_types are added the relations of the row types that it is made
 * of, whose columns can become others.
 */
int
np_type_needs(Oid type, List **row_types)
{
	Oid			base_type = getBaseType(type);
	int			needs;

	check_stack_depth();
	switch (base_type)
	{
		case TIMESTAMPTZOID:
			return NP_NEEDS_TIME_ZONE;
		case MONEYOID:
			return NP_NEEDS_CURRENCY;
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
#ifdef REGDATABASEOID
		case REGDATABASEOID:	/* since 19 */
#endif
			return NP_NEEDS_SEARCH_PATH;
		default:
			needs = part_needs(base_type, row_types);
			if (base_type < FirstNormalObjectId)
				return needs;
			return needs | NP_NEEDS_CASTS | NP_NEEDS_TIME_ZONE | (is_row_or_array(base_type) ? 0 : code_needs(base_type));
	}
}
