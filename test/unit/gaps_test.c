/*
 * gaps_test.c
 *		The numbers of rows that can still appear, when there are more gaps than are kept.
 */
#include "unit.h"

#include "relay/gaps.h"

static void
forget_all(void)
{
	np_gaps_cut(INT64_MAX - 1, INT64_MAX - 1);
}

static bool
is_in_gap(int64_t number)
{
	int			count;
	const NpGap *gaps = np_gaps(0, &count);

	for (int i = 0; i < count; i++)
		if (gaps[i].first <= number && number <= gaps[i].last)
			return true;
	return false;
}

/* How many numbers are in gaps; that these are in order, and do not touch. */
static int64_t
sum(void)
{
	int			count;
	const NpGap *gaps = np_gaps(0, &count);
	int64_t		numbers = 0;

	for (int i = 0; i < count; i++)
	{
		CHECK(gaps[i].first <= gaps[i].last);
		CHECK(i == 0 || gaps[i - 1].last + 1 < gaps[i].first);
		numbers += gaps[i].last - gaps[i].first + 1;
	}
	return numbers;
}

static int
count_gaps(void)
{
	int			count;

	(void) np_gaps(0, &count);
	return count;
}

static void
test_few(void)
{
	forget_all();
	np_gaps_add(5, 4, 0);
	CHECK_INT(count_gaps(), 0);
	np_gaps_add(1, 10, 0);
	np_gaps_add(21, 21, 0);
	np_gaps_remove(5);
	np_gaps_remove(10);
	np_gaps_remove(21);
	np_gaps_remove(15);
	CHECK_INT(count_gaps(), 2);
	CHECK_INT(sum(), 8);
	np_gaps_cut(2, 8);
	CHECK_INT(sum(), 2 + 3);
	CHECK(!is_in_gap(2) && is_in_gap(3) && !is_in_gap(5) && is_in_gap(8) && !is_in_gap(9));
}

/* Far from each other they are kept, and two that are near become one: nothing that was between others is walked. */
static void
test_nearest(void)
{
	int64_t		number = 0;

	forget_all();
	for (int i = 0; i < NP_MAX_GAPS; i++, number += 1000)
		np_gaps_add(number + 1, number + 1, 0);
	CHECK_INT(sum(), NP_MAX_GAPS);
	/* two that are near, in between; and then one far behind all */
	np_gaps_cut(0, number - 2000);
	np_gaps_add(number - 1000 + 1, number - 1000 + 1, 0);
	np_gaps_add(number - 1000 + 3, number - 1000 + 3, 0);
	CHECK_INT(count_gaps(), NP_MAX_GAPS);
	np_gaps_add(number + 1000000, number + 1000000, 0);
	CHECK_INT(count_gaps(), NP_MAX_GAPS);
	CHECK_INT(sum(), NP_MAX_GAPS + 2);
	CHECK(is_in_gap(number - 1000 + 2) && is_in_gap(number + 1000000) && !is_in_gap(number));
}

/* Many more than are kept: none of them is lost, and what is far from all of them is in none. */
static void
test_many(void)
{
	int64_t		number = 1;

	forget_all();
	for (int i = 0; i < 5 * NP_MAX_GAPS; i++)
	{
		np_gaps_add(number, number, 0);
		number += i % 10 == 9 ? 100000 : 2;
	}
	CHECK_INT(count_gaps(), NP_MAX_GAPS);
	CHECK(sum() < 20 * NP_MAX_GAPS);
	number = 1;
	for (int i = 0; i < 5 * NP_MAX_GAPS; i++)
	{
		CHECK(is_in_gap(number));
		number += i % 10 == 9 ? 100000 : 2;
	}
}

static int
count_since(int64_t look)
{
	int			count;
	const NpGap *gaps = np_gaps(look, &count);

	CHECK(count == 0 || gaps[0].look >= look);
	return count;
}

/* By when they were found: one that is divided keeps that, and two that become one have the later one. */
static void
test_looks(void)
{
	forget_all();
	for (int i = 0; i < NP_MAX_GAPS; i++)
		np_gaps_add(i * 1000 + 1, i * 1000 + 3, i / 10);
	CHECK_INT(count_since(0), NP_MAX_GAPS);
	CHECK_INT(count_since(NP_MAX_GAPS / 10 - 1), 10);
	CHECK_INT(count_since(NP_MAX_GAPS / 10), 0);
	np_gaps_cut(1000, INT64_MAX);
	np_gaps_remove(1002);
	CHECK_INT(count_since(1), NP_MAX_GAPS - 10);
	np_gaps_add(NP_MAX_GAPS * 1000, NP_MAX_GAPS * 1000, NP_MAX_GAPS);
	CHECK_INT(count_since(NP_MAX_GAPS), 1);
	/* 1001 and 1003 become one, and then the nearest, which are the last two */
	CHECK_INT(count_since(1), NP_MAX_GAPS - 9);
	np_gaps_add(NP_MAX_GAPS * 1000 + 5, NP_MAX_GAPS * 1000 + 5, NP_MAX_GAPS + 1);
	CHECK_INT(count_since(NP_MAX_GAPS + 1), 1);
	CHECK(is_in_gap(NP_MAX_GAPS * 1000 + 2) || is_in_gap(1002));
	np_gaps_renew(NP_MAX_GAPS * 1000 - 2000, NP_MAX_GAPS + 2);
	CHECK(count_since(NP_MAX_GAPS + 2) >= 2 && count_since(NP_MAX_GAPS + 2) <= 4);
}

int
main(void)
{
	RUN(test_few);
	RUN(test_nearest);
	RUN(test_many);
	RUN(test_looks);
	return unit_done();
}
