/*
 * patience_test.c
 *		For how long others may hold something up.
 */
#include "unit.h"

#include "base/patience.h"

#define SECONDS(n)	((int64_t) (n) * 1000000)

/* The clock need not have begun when we did. */
#define BEGIN	SECONDS(1000000)

static void
test_one_after_the_other(void)
{
	NpPatience	patience = {0};

	CHECK(!np_patience_ends(&patience, BEGIN, SECONDS(30), false));
	CHECK(!np_patience_ends(&patience, BEGIN + SECONDS(15), SECONDS(30), true));
	CHECK(!np_patience_ends(&patience, BEGIN + SECONDS(30), SECONDS(30), true));
	CHECK(np_patience_ends(&patience, BEGIN + SECONDS(31), SECONDS(30), true));
	/* the next one in the same moment, and one soon after it went on */
	CHECK(np_patience_ends(&patience, BEGIN + SECONDS(31), SECONDS(30), true));
	CHECK(!np_patience_ends(&patience, BEGIN + SECONDS(51), SECONDS(30), false));
	CHECK(np_patience_ends(&patience, BEGIN + SECONDS(53), SECONDS(30), true));
}

static void
test_forgetting(void)
{
	NpPatience	patience = {0};

	CHECK_INT(np_patience_used(&patience, BEGIN), 0);
	np_patience_use(&patience, BEGIN, SECONDS(20));
	CHECK_INT(np_patience_used(&patience, BEGIN), SECONDS(20));
	CHECK_INT(np_patience_used(&patience, BEGIN + SECONDS(100)), SECONDS(10));
	/* what holds it up is no time in which it goes on */
	np_patience_use(&patience, BEGIN + SECONDS(110), SECONDS(10));
	CHECK_INT(np_patience_used(&patience, BEGIN + SECONDS(110)), SECONDS(20));
	CHECK_INT(np_patience_used(&patience, BEGIN + SECONDS(310)), 0);
	CHECK_INT(np_patience_used(&patience, BEGIN + SECONDS(1000)), 0);
}

int
main(void)
{
	RUN(test_one_after_the_other);
	RUN(test_forgetting);
	return unit_done();
}
