/*-------------------------------------------------------------------------
 *
 * change_filter.c
 *	  WHEN of a trigger whose changes are read from the WAL.
 *
 * It means what it means to the trigger: the change of a row is published if
 * the condition is true of its old and new row, and a TRUNCATE, which has none,
 * if it is true.  It is evaluated later, when tables can't be looked into, and
 * as somebody else; so it may have nothing in it but columns, constants and
 * what PostgreSQL itself computes from them, as a publication's row filter
 * (check_simple_rowfilter_expr).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "base/compat.h"
#include "change/change_filter.h"

struct NpChangeFilter
{
	Node	   *node;			/* in the plan's context, with all of this */
	bool		can_take_long;
	MemoryContext context;		/* of the next two */
	EState	   *estate;			/* NULL: not prepared yet */
	ExprState  *condition;		/* NULL: it is always true */
	Bitmapset  *old_columns;	/* by place */
	Bitmapset  *new_columns;
};

/* ---- Checking ----------------------------------------------------------------------- */

typedef struct Walk
{
	NpChangeFilter *filter;
	TupleDesc	columns;
	const char *problem;
} Walk;

static bool
is_unfit(Walk *walk, const char *problem)
{
	walk->problem = problem;
	return true;
}

static bool
function_is_unfit(Oid function, void *unused)
{
	return function >= FirstNormalObjectId || func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

static bool
is_comparison(Oid operator)
{
	return np_compat_operator_meanings(operator) != NIL;
}

/* Can it take longer than to look at its arguments?  A regular expression can, or a power of a numeric. */
static bool
can_take_long(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
			return ((const FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CALL;
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return !is_comparison(((const OpExpr *) node)->opno);
		case T_ScalarArrayOpExpr:
			return !is_comparison(((const ScalarArrayOpExpr *) node)->opno);
		default:
			return false;
	}
}

static bool
column_is_unfit(Walk *walk, const Var *column)
{
	NpChangeFilter *filter = walk->filter;

	if (column->varattno <= 0)
		return is_unfit(walk, "WHEN contains a whole row or a system column");
	/* the trigger computes it, and the WAL has NULL */
	if (np_compat_is_virtual(TupleDescAttr(walk->columns, column->varattno - 1)))
		return is_unfit(walk, "WHEN contains a virtual generated column");
	if (column->varno == PRS2_OLD_VARNO)
		filter->old_columns = bms_add_member(filter->old_columns, column->varattno - 1);
	else
		filter->new_columns = bms_add_member(filter->new_columns, column->varattno - 1);
	return false;
}

static bool
kind_is_known(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_RelabelType:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_List:
			return true;
		default:
			return false;
	}
}

static bool
has_type(const Node *node)
{
	return !IsA(node, List) && !IsA(node, CaseWhen);
}

static bool
find_unfit(Node *node, void *argument)
{
	Walk	   *walk = argument;

	if (node == NULL)
		return false;
	if (!kind_is_known(node))
		return is_unfit(walk, "WHEN contains more than a simple expression");
	if (has_type(node) && exprType(node) >= FirstNormalObjectId)
		return is_unfit(walk, "WHEN contains a type that is not PostgreSQL's own");
	if (check_functions_in_node(node, function_is_unfit, NULL))
		return is_unfit(walk, "WHEN contains a function or operator that is not immutable, or not PostgreSQL's own");
	walk->filter->can_take_long |= can_take_long(node);
	if (IsA(node, Var))
		return column_is_unfit(walk, (Var *) node);
	return expression_tree_walker(node, NP_COMPAT_WALKER(find_unfit), argument);
}

/*
 * The condition of a trigger on a table of these columns, palloc'd in the
 * current context.  NULL: it has a problem, a clause.
 */
NpChangeFilter *
np_change_filter_make(const char *condition, TupleDesc columns, const char **problem)
{
	NpChangeFilter *filter = palloc0(sizeof(NpChangeFilter));
	Node	   *node = stringToNode(condition);
	Walk		walk = {filter, columns, NULL};

	if (find_unfit(node, &walk))
	{
		*problem = walk.problem;
		return NULL;
	}
	/* as TriggerEnabled does */
	ChangeVarNodes(node, PRS2_OLD_VARNO, INNER_VAR, 0);
	ChangeVarNodes(node, PRS2_NEW_VARNO, OUTER_VAR, 0);
	filter->node = node;
	filter->context = AllocSetContextCreate(CurrentMemoryContext, "nats_publish filter", ALLOCSET_SMALL_SIZES);
	return filter;
}

/* ---- Asking --------------------------------------------------------------------------- */

/* Are all columns of the old row that it is about among these, by place? */
bool
np_change_filter_knows(const NpChangeFilter *filter, const bool *in_old)
{
	int			place = -1;

	while ((place = bms_next_member(filter->old_columns, place)) >= 0)
		if (!in_old[place])
			return false;
	return true;
}

/* Is it about this column of the new row? */
bool
np_change_filter_needs(const NpChangeFilter *filter, int place)
{
	return bms_is_member(place, filter->new_columns);
}

/* Does it have something in it that can take long, and so is to be limited? */
bool
np_change_filter_can_take_long(const NpChangeFilter *filter)
{
	return filter->can_take_long;
}

/* What has no columns in it is computed now, which can raise, and take long. */
static void
prepare(NpChangeFilter *filter)
{
	MemoryContext caller;
	EState	   *estate;

	/* of an attempt that has raised */
	MemoryContextReset(filter->context);
	caller = MemoryContextSwitchTo(filter->context);
	estate = CreateExecutorState();
	filter->condition = ExecPrepareQual(make_ands_implicit(np_compat_copy(filter->node)), estate);
	filter->estate = estate;
	MemoryContextSwitchTo(caller);
}

/*
 * Is a change to be published?  A row that is not there is NULL; of a TRUNCATE
 * neither is, and its condition has no columns.  Raises what the condition
 * raises.
 */
bool
np_change_filter_admits(NpChangeFilter *filter, TupleTableSlot *old, TupleTableSlot *new)
{
	ExprContext *context;
	bool		result;

	if (filter->estate == NULL)
		prepare(filter);
	context = GetPerTupleExprContext(filter->estate);
	context->ecxt_innertuple = old;
	context->ecxt_outertuple = new;
	/* what the last one has left when it raised */
	ResetExprContext(context);
	result = ExecQual(filter->condition, context);
	ResetExprContext(context);
	return result;
}
