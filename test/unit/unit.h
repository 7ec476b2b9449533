/*
 * unit.h
 *		A test harness of one header, for the files that need no PostgreSQL.
 *
 * A test is a static void function of CHECKs; main() calls RUN for each and returns unit_done().
 * Prints one "ok" or "not ok" line for each test, which test/run counts. unit_done() is 2 when a
 * test failed, to tell that from a program that a sanitizer stopped.
 */
#ifndef UNIT_H
#define UNIT_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int unit_failed_tests;
static int unit_failed_checks;

#define CHECK(cond) \
	((cond) ? (void) 0 \
	 : (unit_failed_checks++, \
		(void) printf("# %s:%d: not true: %s\n", __FILE__, __LINE__, #cond)))

/* Two C strings; either may be NULL. */
#define CHECK_STR(actual, expected) unit_check_str((actual), (expected), __FILE__, __LINE__)

#define CHECK_INT(actual, expected) \
	unit_check_int((long long) (actual), (long long) (expected), __FILE__, __LINE__)

#define RUN(test) unit_run(#test, test)

static inline void
unit_check_str(const char *actual, const char *expected, const char *file, int line)
{
	if (actual == expected || (actual && expected && strcmp(actual, expected) == 0))
		return;
	unit_failed_checks++;
	printf("# %s:%d: got \"%s\", expected \"%s\"\n", file, line, actual ? actual : "(null)",
		   expected ? expected : "(null)");
}

static inline void
unit_check_int(long long actual, long long expected, const char *file, int line)
{
	if (actual == expected)
		return;
	unit_failed_checks++;
	printf("# %s:%d: got %lld, expected %lld\n", file, line, actual, expected);
}

static inline void
unit_run(const char *name, void (*test) (void))
{
	unit_failed_checks = 0;
	test();
	if (unit_failed_checks > 0)
		unit_failed_tests++;
	printf("%s - %s\n", unit_failed_checks > 0 ? "not ok" : "ok", name);
	fflush(stdout);
}

static inline int
unit_done(void)
{
	return unit_failed_tests > 0 ? 2 : 0;
}

#endif							/* UNIT_H */
