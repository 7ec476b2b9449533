# nats_publish: publish to NATS JetStream from SQL.
#
#   make && make install        build and install; PG_CONFIG=/path/to/pg_config chooses the server
#   make demo                   see it work
#   make test [T=name]          every test, or the one of that name
#
# `make demo`, `make test` and `make bench` start from a machine that has only git and make: they install
# what is missing (test/setup) and run make again, so this file must be readable before PGXS is there.

EXTENSION   = nats_publish
MODULE_big  = nats_publish
PGFILEDESC  = "nats_publish - publish to NATS JetStream from SQL and triggers"
NP_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" nats_publish.control)

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA = $(sort $(wildcard sql/nats_publish--*.sql))

PG_CPPFLAGS = -Isrc -DNP_VERSION='"$(NP_VERSION)"'
SHLIB_LINK += -lnats

# What a newer compiler warns of must not keep a user from building: only CI stops at a warning.
ifeq ($(CI),true)
COPT += -Werror
endif

# Bitcode would let the server's JIT inline our functions: no gain in functions that wait for a network,
# and it needs clang.
override with_llvm = no

# The tests of what one session can show, of two sessions, and of servers that come and go. Their expected
# output is in expected/ for both, which is what --outputdir does for the isolation tests.
REGRESS        = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS   = --inputdir=test --load-extension=$(EXTENSION)
ISOLATION      = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=$(EXTENSION)
TAP_TESTS      = 1
PROVE_TESTS    = $(sort $(wildcard test/t/*.pl))
PROVE_FLAGS   += -I test/perl

# The unit tests are plain C, so they run under the sanitizers, without a server.
UNIT_TESTS    = $(patsubst %.c,%,$(sort $(wildcard test/unit/*_test.c)))
UNIT_SOURCES  = $(wildcard src/subject.c src/protocol.c src/server_url.c src/template.c)
UNIT_CFLAGS   = -std=gnu11 -g -O1 -Wall -Wextra -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined

EXTRA_CLEAN = $(UNIT_TESTS) regression.diffs regression.out results output_iso tmp_check

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

.DEFAULT_GOAL = all
ifneq ($(PGXS),)
include $(PGXS)
# pg_config's compiler flags do not track headers; there are few enough to rebuild everything.
$(OBJS): $(wildcard src/*.h) Makefile nats_publish.control
else
all install installcheck clean:
	@echo "No PostgreSQL development files: '$(PG_CONFIG) --pgxs' names none." >&2
	@echo "Install them (Debian: postgresql-server-dev-NN), or give PG_CONFIG=/path/to/pg_config." >&2
	@exit 1
endif

## make dev: a clean build for debugging, with assertions and the warnings that CI looks at
# -Wno-cpp: the C library remarks that _FORTIFY_SOURCE, which Debian's flags ask for, does nothing at -O0.
DEV_CFLAGS = -O0 -g -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-cpp -DUSE_ASSERT_CHECKING
.PHONY: dev
dev:
	$(MAKE) clean
	$(MAKE) all PG_CFLAGS='$(PG_CFLAGS) $(DEV_CFLAGS)'

## make test, make test T=name: a regress or isolation test, a TAP file or a unit test, by its name
.PHONY: test
test:
	@test/setup test
	@test/run $(T)

## make unit: the unit tests alone
.PHONY: unit $(addprefix run-,$(UNIT_TESTS))
unit: $(addprefix run-,$(UNIT_TESTS))

$(UNIT_TESTS): %: %.c test/unit/unit.h $(UNIT_SOURCES) $(wildcard src/*.h)
	@$(CC) $(UNIT_CFLAGS) -Isrc -Itest/unit -o $@ $(filter %.c,$^) $(UNIT_LIBS)

# The only one that needs the library.
test/unit/wire_test: src/wire.c
test/unit/wire_test: UNIT_LIBS = -lnats -lpthread

$(addprefix run-,$(UNIT_TESTS)): run-%: %
	@./$< || { s=$$?; [ $$s -eq 2 ] || echo "not ok - $(notdir $<) ended with status $$s"; exit 1; }

## make results: take what the tests printed last time as what they are expected to print
.PHONY: results
results:
	cp results/*.out expected/

## make lint, make format
.PHONY: lint format
lint: all
	@test/lint
format: all
	test/format $(wildcard src/*.[ch])

## make demo
.PHONY: demo
demo:
	@test/setup
	@test/demo

## make bench, make bench ROUNDS=3 ONLY=name
.PHONY: bench
bench:
	@test/setup bench
	@$(MAKE) -s install
	@ROUNDS='$(ROUNDS)' ONLY='$(ONLY)' test/bench/run

## make print-NAME: what a variable of this file came to
print-%:
	@echo '$*=$($*)'
