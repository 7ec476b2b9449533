/*-------------------------------------------------------------------------
 *
 * wal_row.c
 *	  The rows of a change that is decoded from the WAL, and what they lack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"

#include "base/compat.h"
#include "base/report.h"
#include "change/change_filter.h"
#include "change/change_wal.h"
#include "wal/wal_row.h"

/* An old row that is not there is as the new one, as far as it would be. */
static void
put_same_row(const NpChangeWal *wal)
{
	TupleTableSlot *old = wal->old;

	ExecClearTuple(old);
	for (int i = 0; i < old->tts_tupleDescriptor->natts; i++)
	{
		old->tts_values[i] = wal->new->tts_values[i];
		old->tts_isnull[i] = !wal->in_old[i] || wal->new->tts_isnull[i];
	}
	ExecStoreVirtualTuple(old);
}

static bool
is_out_of_line(const TupleTableSlot *slot, int place)
{
	return TupleDescAttr(slot->tts_tupleDescriptor, place)->attlen == -1 && !slot->tts_isnull[place] &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(slot->tts_values[place]));
}

/*
 * What is still out of line after decoding was not touched: it is taken from
 * the old row, or it is not known.  It is never fetched: it may be gone.
 */
static const bool *
complete_new_row(const NpChangePlan *plan, const NpChange *change)
{
	TupleTableSlot *new = change->new;
	bool	   *unchanged = NULL;

	for (int i = 0; i < plan->column_count; i++)
	{
		int			place = plan->places[i];

		if (place < 0 || !is_out_of_line(new, place))
			continue;
		if (change->old != NULL && plan->wal->in_old[place] && !change->old->tts_isnull[place])
			new->tts_values[place] = change->old->tts_values[place];
		else
		{
			unchanged = unchanged != NULL ? unchanged : palloc0(sizeof(bool) * plan->column_count);
			unchanged[i] = true;
		}
	}
	return unchanged;
}

static TupleTableSlot *
put_row(TupleTableSlot *slot, HeapTuple row)
{
	if (row == NULL)
		return NULL;
	ExecStoreHeapTuple(row, slot, false);
	slot_getallattrs(slot);
	return slot;
}

/* Have the rows of a change, as they were decoded (NULL: it has none), where its plan puts them: until they are cleared. */
void
np_wal_row_put(const NpChangePlan *plan, NpChange *change, HeapTuple old, HeapTuple new)
{
	const NpChangeWal *wal = plan->wal;

	change->unchanged = NULL;
	change->old = put_row(wal->old, old);
	change->new = put_row(wal->new, new);
	if (change->new == NULL)
		return;
	if (change->op == NP_UPDATE && change->old == NULL && wal->filter != NULL)
	{
		put_same_row(wal);
		change->old = wal->old;
	}
	if (HeapTupleHasExternal(new))
		change->unchanged = complete_new_row(plan, change);
}

/* Slots point into what is the decoder's. */
void
np_wal_row_clear(const NpChangePlan *plan)
{
	ExecClearTuple(plan->wal->old);
	ExecClearTuple(plan->wal->new);
}

/* Raises 0A000 when there is no row. */
void
np_wal_row_check(const NpChangePlan *plan, const NpChange *change)
{
	np_change_wal_check_op(plan, change->op);
	if ((change->op != NP_DELETE && change->op != NP_TRUNCATE && change->new == NULL) ||
		(change->op == NP_DELETE && change->old == NULL))
		np_raise_fault(NP_FAULT_FEATURE, NULL, "the row is not in the WAL");
}

static bool
filter_needs(const NpChangePlan *plan, int column)
{
	return np_change_filter_needs(plan->wal->filter, plan->places[column]);
}

static bool
message_needs(const NpChangePlan *plan, int column)
{
	return plan->is_key[column] || plan->needed[column];
}

/* Raises 0A000 when the new value of a column is not known that is needed. */
static void
check_columns(const NpChangePlan *plan, const NpChange *change, bool (*is_needed) (const NpChangePlan *plan, int column))
{
	for (int i = 0; change->unchanged != NULL && i < plan->column_count; i++)
	{
		NpFailure	failure;

		if (!change->unchanged[i] || !is_needed(plan, i))
			continue;
		failure = np_failure(NP_FAULT_FEATURE, "the value of column %s is not in the WAL: it is stored out of line and was not changed",
							 plan->json_names[i]);
		failure.hint = "REPLICA IDENTITY FULL writes it to the WAL.";
		np_raise(&failure);
	}
}

/* Of those that WHEN is asked about. */
void
np_wal_row_check_filter(const NpChangePlan *plan, const NpChange *change)
{
	check_columns(plan, change, filter_needs);
}

/* Of those that a message is made of. */
void
np_wal_row_check_message(const NpChangePlan *plan, const NpChange *change)
{
	check_columns(plan, change, message_needs);
}
