# nats_publish: publish to NATS JetStream from SQL.
#
# `make help` says what there is. `make demo`, `make test` and the like start from a machine that has only git and make: they
# install what is missing (test/setup) and run make again, so this file must be readable before PGXS is there.

EXTENSION   = nats_publish
MODULE_big  = nats_publish
PGFILEDESC  = "nats_publish - publish to NATS JetStream from SQL, triggers, an outbox or the WAL"
NP_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" nats_publish.control)

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA = $(sort $(wildcard sql/nats_publish--*.sql))
DOCS = $(sort $(wildcard doc/nats_publish_*))

PG_CPPFLAGS = -Isrc -DNP_VERSION='"$(NP_VERSION)"'
SHLIB_LINK += -lnats -lssl -lcrypto

# What a newer compiler warns of must not keep a user from building: only .ci/run, which sets this, stops at a warning.
ifeq ($(NATS_PUBLISH_CI),yes)
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
UNIT_SOURCES  = src/base/list.c src/base/patience.c src/base/percent.c src/base/server_url.c src/base/siphash.c src/base/subject.c src/change/template.c src/libnats/credentials.c src/message/protocol.c src/relay/gaps.c
UNIT_LIBS     = -lcrypto
UNIT_SANITIZE = address,undefined
UNIT_CFLAGS   = -std=gnu11 -g -O1 -Wall -Wextra -fno-omit-frame-pointer \
	-fsanitize=$(UNIT_SANITIZE) -fno-sanitize-recover=undefined

# The fuzz targets are plain C too, with PostgreSQL's libraries for clients where src/ includes postgres.h.
FUZZ_TARGETS  = $(patsubst test/fuzz/%_fuzz.c,%,$(sort $(wildcard test/fuzz/*_fuzz.c)))
FUZZ_CFLAGS   = $(UNIT_CFLAGS) -fsanitize=fuzzer -Wno-unused-parameter -Wno-sign-compare -Wno-ignored-attributes
FUZZ_SERVER   = test/fuzz/backend.c src/base/catch.c src/base/report.c src/base/encoding.c

EXTRA_CLEAN = $(UNIT_TESTS) $(FUZZ_TARGETS:%=test/fuzz/%_fuzz) \
	regression.diffs regression.out results output_iso tmp_check coverage

PG_CONFIG ?= pg_config
PG_VERSION := $(shell $(PG_CONFIG) --version 2>/dev/null)
PG_MAJOR := $(shell echo '$(PG_VERSION)' | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
# pgxs.mk comes with Debian's client, without the headers.
has_headers = $(wildcard $(shell $(1) --includedir-server 2>/dev/null)/postgres.h)
TOO_OLD := $(filter 9 10 11 12 13 14,$(PG_MAJOR))
PGXS := $(if $(TOO_OLD),,$(and $(call has_headers,$(PG_CONFIG)),$(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))))

.DEFAULT_GOAL = all

## make: builds the extension; PG_CONFIG=/path/to/pg_config says for which PostgreSQL
## make install: installs it there
## make uninstall: removes it; "Uninstalling" in doc/operations.md says what to do first
## make installcheck: tests the installed extension in a running server, or says what that server lacks
## make clean: removes what was built
ifneq ($(PGXS),)
# PostgreSQL's own flags and attributes are gcc's.
ifneq ($(findstring clang,$(CC)),)
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-attributes -Wno-ignored-optimization-argument
endif
include $(PGXS)
# pg_config's compiler flags do not track headers; there are few enough to rebuild everything.
$(OBJS): $(wildcard src/*/*.h) Makefile nats_publish.control .built_for

# The headers and the compiler that the objects were built with; another time it can be others. What `make dev` has built stays.
BUILT_FOR = $(PG_VERSION), $(realpath $(includedir_server)), $(CC), libnats \
	$(shell $(CC) -E -dM -include nats/version.h -xc /dev/null 2>/dev/null | sed -n 's/^.define NATS_VERSION_STRING //p')
.PHONY: always
always:
.built_for: export BUILT_FOR := $(BUILT_FOR)
.built_for: always
	@printf '%s\n' "$$BUILT_FOR" | cmp -s - $@ || printf '%s\n' "$$BUILT_FOR" >$@
EXTRA_CLEAN += .built_for

# PGXS installs them without their directory, and looks for them with it.
.PHONY: uninstall-docs
uninstall: uninstall-docs
uninstall-docs:
	rm -f $(addprefix '$(DESTDIR)$(docdir)/$(docmoduledir)'/, $(notdir $(DOCS)))
	@echo "A server whose shared_preload_libraries names nats_publish does not start any more: take it out there."

# Only the regress and isolation tests use the running server. The TAP tests make clusters of their own, in the locale of LANG:
# without it in SQL_ASCII, where text is any bytes.
.PHONY: installcheck-server
installcheck: export LANG := C.UTF-8
installcheck: installcheck-server
installcheck-server:
	@$(if $(REGRESS)$(ISOLATION),PATH='$(bindir)':"$$PATH" test/installcheck)
else
# With the headers of another version than pg_config's, it is a matter of saying so.
OTHERS := $(foreach other,$(sort $(wildcard /usr/lib/postgresql/*/bin/pg_config)),$(if $(call has_headers,$(other)),$(other)))
clean:
	rm -f nats_publish.so .built_for $(OBJS) $(UNIT_TESTS) $(FUZZ_TARGETS:%=test/fuzz/%_fuzz)
	rm -rf results tmp_check coverage
ifneq ($(TOO_OLD),)
WHY = PostgreSQL $(PG_MAJOR) is not supported: nats_publish needs 15 or later.
else ifneq ($(PG_VERSION),)
WHY = There are no headers of PostgreSQL $(PG_MAJOR) to build with: '$(PG_CONFIG)' names no postgres.h (--includedir-server) or no pgxs.mk (--pgxs).
else
WHY = Nothing says which PostgreSQL to build for: there is no '$(PG_CONFIG)'.
endif
all install uninstall installcheck:
	@echo "$(WHY)" >&2
	@echo "Debian: apt-get install postgresql-server-dev-$(if $(TOO_OLD)$(if $(PG_MAJOR),,none),NN where NN is your version,$(PG_MAJOR))" >&2
	@echo "Another PostgreSQL: make PG_CONFIG=$(or $(firstword $(OTHERS)),/path/to/pg_config)" >&2
	@exit 1
endif

## make help: this list
.PHONY: help
help:
	@sed -n 's/^## //p' Makefile

## make dev: a clean build for debugging, with assertions and the warnings that CI looks at
# -Wno-cpp: the C library remarks that _FORTIFY_SOURCE, which Debian's flags ask for, does nothing at -O0.
DEV_CFLAGS = -O0 -g -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-cpp -DUSE_ASSERT_CHECKING
.PHONY: dev
dev:
	$(MAKE) clean
	$(MAKE) all PG_CFLAGS='$(PG_CFLAGS) $(DEV_CFLAGS)'

## make test, make test T=name: a regress or isolation test, a TAP file or a unit test, by its name or number; or all of a kind (T="unit regress")
.PHONY: test
test:
	@test/setup test
	@test/run $(T)

## make unit: the unit tests alone
.PHONY: unit $(addprefix run-,$(UNIT_TESTS))
unit: $(addprefix run-,$(UNIT_TESTS))

$(UNIT_TESTS): %: %.c $(wildcard test/unit/*.h) $(UNIT_SOURCES) $(wildcard src/*/*.h)
	@$(CC) $(UNIT_CFLAGS) -Isrc -Itest/unit -o $@ $(filter %.c,$^) $(UNIT_LIBS)

# The ones that need libnats. Names are resolved when, and to what, a test says, and clocks are set.
WIRE_TESTS = $(addprefix test/unit/,wire_test wire_server_test wire_tls_test)
$(WIRE_TESTS): $(addprefix src/libnats/,connect_attempt.c handshake.c library.c library_connection.c wire.c tls.c)
$(WIRE_TESTS): UNIT_LIBS += -lnats -lssl -lpthread
test/unit/wire_test: UNIT_LIBS += -Wl,--wrap=getaddrinfo
test/unit/wire_server_test: UNIT_LIBS += -Wl,--wrap=getaddrinfo -Wl,--wrap=clock_gettime

$(addprefix run-,$(UNIT_TESTS)): run-%: %
	@./$< || { s=$$?; [ $$s -eq 2 ] || echo "not ok - $(notdir $<) ended with status $$s"; exit 1; }

## make fuzz, make fuzz SECONDS=60 TARGET=ack: look for so many seconds for an input that breaks what must hold for every input
SECONDS = 600
# given on make's command line; what the environment calls so is something else
T =
ON =
HEADERS =
STANDBY =
ROUNDS =
ONLY =
IMAGE =
TARGET  = $(FUZZ_TARGETS)
.PHONY: fuzz $(addprefix fuzz-,$(FUZZ_TARGETS))
fuzz:
	@test/setup fuzz
	@$(MAKE) -s -k $(addprefix fuzz-,$(TARGET))

$(addprefix fuzz-,$(FUZZ_TARGETS)): fuzz-%: test/fuzz/%_fuzz
	@test/fuzz/run $* $(SECONDS)

test/fuzz/%_fuzz: test/fuzz/%_fuzz.c $(wildcard test/fuzz/*.h src/*/*.h) test/unit/unit.h Makefile
	@clang $(FUZZ_CFLAGS) -Isrc -Itest/unit -Itest/fuzz $(FUZZ_CPPFLAGS) -o $@ $(filter %.c,$^) $(FUZZ_LIBS)

test/fuzz/subject_fuzz:  src/base/subject.c src/base/list.c src/message/protocol.c
test/fuzz/template_fuzz: src/change/template.c src/base/percent.c src/base/subject.c src/base/list.c src/base/server_url.c
test/fuzz/url_fuzz:      src/base/server_url.c src/base/list.c
test/fuzz/protocol_fuzz: src/message/protocol.c
test/fuzz/ack_fuzz:      src/message/puback.c src/message/protocol.c $(FUZZ_SERVER)
test/fuzz/header_fuzz:   src/message/message.c src/message/message_id.c src/message/argument.c src/message/schedule.c src/message/header.c src/message/header_json.c src/base/percent.c src/message/protocol.c src/base/subject.c src/base/list.c $(FUZZ_SERVER)
test/fuzz/ack_fuzz test/fuzz/header_fuzz: FUZZ_CPPFLAGS = -isystem $(includedir_server) -D_GNU_SOURCE
test/fuzz/ack_fuzz test/fuzz/header_fuzz: FUZZ_LIBS = -L$(pkglibdir) -L$(libdir) -lpgcommon -lpgport -lm

## make chaos, make chaos SECONDS=300 SEED=7 STANDBY=1: faults at random, and whether every promise is kept
SEED = 1
.PHONY: chaos
chaos:
	@test/setup chaos
	@CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) CHAOS_STANDBY=$(STANDBY) test/chaos/run

## make results: take what the tests printed last time as their expected output
.PHONY: results
results:
	cp results/*.out expected/

## make lint: floors, banned calls, cppcheck; make format: one style
.PHONY: lint format
lint: all
	@test/lint
format: all
	test/format $(wildcard src/*.c src/*/*.[ch] test/fuzz/*.[ch])

## make demo: see it work, on a private PostgreSQL and a private nats-server
.PHONY: demo
demo:
	@test/setup demo
	@test/demo

## make bench, make bench ROUNDS=3 ONLY=name: how fast it is, compared with plain C; bench-newer: with PostgreSQL 18 and nats-server
## 2.15, in a fresh system; plots: drawn from the newest results
.PHONY: bench bench-newer plots
bench:
	@ONLY='$(ONLY)' test/setup bench
	@ROUNDS='$(ROUNDS)' ONLY='$(ONLY)' test/bench/run
bench-newer:
	@test/setup bench-newer
	@ROUNDS='$(ROUNDS)' ONLY='$(ONLY)' test/bench/newer
plots:
	@test/setup plots
	@test/bench/plots.py

## make soak MINUTES=30: does anything grow under a mixed load?
MINUTES = 30
.PHONY: soak
soak:
	@test/setup soak
	@test/soak/run '$(MINUTES)' '$(OUT)'

## make dist: the committed tree as archives, for PGXN (zip) and for the Debian package
DIST = .
DIST_NAME = nats_publish-$(shell sed -n 's/^   "version": "\(.*\)",/\1/p' META.json)
.PHONY: dist
dist:
	git archive --format=zip --prefix=$(DIST_NAME)/ -o $(DIST)/$(DIST_NAME).zip HEAD
	git archive --format=tar.gz --prefix=$(DIST_NAME)/ -o $(DIST)/$(DIST_NAME).tar.gz HEAD

## make coverage, make coverage T=name: which lines of src/ the tests reach
.PHONY: coverage
coverage:
	@test/setup coverage
	@test/coverage $(T)

## make valgrind, make valgrind T=name: the regress and isolation tests in a server under valgrind
.PHONY: valgrind
valgrind:
	@test/setup valgrind
	@test/valgrind $(T)

## make sanitizers: the unit tests, those with a nats-server too, under each of the compiler's sanitizers
.PHONY: sanitizers
sanitizers:
	@test/setup sanitizers
	@test/sanitizers

## make compilers, make compilers HEADERS=/usr/include/postgresql/16/server: do gcc and clang warn, with the headers of any PostgreSQL?
.PHONY: compilers
compilers:
	@test/setup compilers
	@test/compilers $(HEADERS)

## make test-matrix, make test-matrix ON="trixie forky+19" T=name: every test, or one, on other releases of Debian, each in a fresh system
.PHONY: test-matrix
test-matrix:
	@test/setup test-matrix
	@T='$(T)' test/matrix $(ON)

## make test-upgrade UPGRADES="15-17 17-18": from one major version of PostgreSQL to another, by dump and restore and by pg_upgrade
UPGRADES = 15-17 15-18 17-18 18-19
.PHONY: test-upgrade
test-upgrade:
	@test/setup test-upgrade
	@test/upgrade/run $(UPGRADES)

## make test-fresh, make test-fresh ON="bookworm forky:versions": what a newcomer does, in fresh systems of each release
.PHONY: test-fresh
test-fresh:
	@test/setup test-fresh
	@test/fresh $(ON)

## make test-pools: do connection pools of Java keep their PostgreSQL connection while NATS is away? By hand
.PHONY: test-pools
test-pools:
	@test/setup demo
	@test/pools/run

## make test-image, make test-image IMAGE=18: what the Dockerfile and compose.yaml say, carried out without Docker. By hand
.PHONY: test-image
test-image:
	@test/setup packages
	@test/image $(IMAGE)

## make packages RELEASES="bookworm trixie": the Debian package, built, installed, used and removed in fresh systems
RELEASES = bookworm
.PHONY: packages
packages:
	@test/setup packages
	@test/packages $(RELEASES)

## make print-NAME: the value of a variable of this file
print-%:
	@echo '$*=$($*)'
