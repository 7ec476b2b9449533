/*-------------------------------------------------------------------------
 *
 * gaps.c
 *	  Numbers behind which a table was read, and whose rows can still appear.
 *
 * There are as many as there are transactions under way, or were rolled back
 * since the oldest of these began; what a large one has taken is one gap.  When
 * there are too many, the two that are nearest to each other become one, with
 * what is between them: reading a row again does no harm, but each look walks
 * all that is in gaps.
 *
 * Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/gaps.h"

#include <string.h>

static NpGap gaps[NP_MAX_GAPS]; /* in order */
static int	gap_count;

static void
remove_gap(int i)
{
	memmove(&gaps[i], &gaps[i + 1], sizeof(NpGap) * (gap_count - i - 1));
	gap_count--;
}

/* The gap that is nearest to the one behind it, of which the last one's begins with this number. */
static int
nearest(int64_t first)
{
	int			found = gap_count - 1;
	int64_t		least = first - gaps[found].last;

	for (int i = 0; i < gap_count - 1; i++)
		if (gaps[i + 1].first - gaps[i].last < least)
		{
			least = gaps[i + 1].first - gaps[i].last;
			found = i;
		}
	return found;
}

/* Numbers behind all gaps that there are; no look before had a higher number. */
void
np_gaps_add(int64_t first, int64_t last, int64_t look)
{
	int			i;

	if (first > last)
		return;
	if (gap_count == NP_MAX_GAPS)
	{
		i = nearest(first);
		if (i == gap_count - 1)
		{
			gaps[i].last = last;
			gaps[i].look = look;
			return;
		}
		gaps[i].last = gaps[i + 1].last;
		gaps[i].look = gaps[i + 1].look;
		remove_gap(i + 1);
	}
	gaps[gap_count++] = (NpGap) {first, last, look};
}

/* Numbers behind this one may have been given since: as if this look had found them. */
void
np_gaps_renew(int64_t number, int64_t look)
{
	for (int i = gap_count - 1; i >= 0 && gaps[i].last > number; i--)
		gaps[i].look = look;
}

static int
find(int64_t number)
{
	for (int i = 0; i < gap_count; i++)
		if (gaps[i].first <= number && number <= gaps[i].last)
			return i;
	return -1;
}

/* The row with this number has appeared. */
void
np_gaps_remove(int64_t number)
{
	int			i = find(number);

	if (i < 0)
		return;
	if (gaps[i].first == number)
		gaps[i].first++;
	else if (gaps[i].last == number)
		gaps[i].last--;
	else if (gap_count < NP_MAX_GAPS)
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
np_gaps_cut(int64_t horizon, int64_t read)
{
	int			kept = 0;

	for (int i = 0; i < gap_count; i++)
	{
		NpGap		gap = gaps[i];

		if (gap.first <= horizon)
			gap.first = horizon + 1;
		if (gap.last > read)
			gap.last = read;
		if (gap.first <= gap.last)
			gaps[kept++] = gap;
	}
	gap_count = kept;
}

/* Those of this look, or later ones, in order. */
const NpGap *
np_gaps(int64_t look, int *count)
{
	int			begin = gap_count;

	while (begin > 0 && gaps[begin - 1].look >= look)
		begin--;
	*count = gap_count - begin;
	return &gaps[begin];
}
