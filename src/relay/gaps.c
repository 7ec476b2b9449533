/*-------------------------------------------------------------------------
 *
 * gaps.c
 *	  Numbers behind which a table was read, and whose rows can still appear.
 *
 * There are as many as there are transactions under way, or were rolled back
 * since the oldest of these began; what a large one has taken is one gap.  When
 * there are too many, those at the end become one, with what is between them:
 * reading a row again does no harm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/gaps.h"

#define MAX_GAPS	1000

static NpGap gaps[MAX_GAPS];	/* in order */
static int	gap_count;

/* Numbers behind all gaps that there are. */
void
np_gaps_add(int64 first, int64 last)
{
	if (first > last)
		return;
	if (gap_count == MAX_GAPS)
		gaps[gap_count - 1].last = last;
	else
		gaps[gap_count++] = (NpGap) {first, last};
}

static void
remove_gap(int i)
{
	memmove(&gaps[i], &gaps[i + 1], sizeof(NpGap) * (gap_count - i - 1));
	gap_count--;
}

static int
find(int64 number)
{
	for (int i = 0; i < gap_count; i++)
		if (gaps[i].first <= number && number <= gaps[i].last)
			return i;
	return -1;
}

/* The row with this number has appeared. */
void
np_gaps_remove(int64 number)
{
	int			i = find(number);

	if (i < 0)
		return;
	if (gaps[i].first == number)
		gaps[i].first++;
	else if (gaps[i].last == number)
		gaps[i].last--;
	else if (gap_count < MAX_GAPS)
	{
		memmove(&gaps[i + 1], &gaps[i], sizeof(NpGap) * (gap_count - i));
		gap_count++;
		gaps[i].last = number - 1;
		gaps[i + 1].first = number + 1;
	}
	if (gaps[i].first > gaps[i].last)
		remove_gap(i);
}

/* Forget what can't appear any more, and what is behind what counts as read. */
void
np_gaps_cut(int64 settled, int64 read)
{
	int			kept = 0;

	for (int i = 0; i < gap_count; i++)
	{
		NpGap		gap = {Max(gaps[i].first, settled + 1), Min(gaps[i].last, read)};

		if (gap.first <= gap.last)
			gaps[kept++] = gap;
	}
	gap_count = kept;
}

/* All of them, in order. */
const NpGap *
np_gaps(int *count)
{
	*count = gap_count;
	return gaps;
}
