# Builds, tests and installs tocsin. `make help` lists what there is.
#
# Nothing is listed by hand: each .c file below core/ goes into the program, the .c files of each folder
# of plugins/ become a plugin, each *_test.c below tests/unit/ goes into the one unit test program, each
# .c file of tests/fuzz/ becomes a fuzz target. Objects go to build/VARIANT/.

VERSION = 0.1.0

VARIANT ?= release
B       := build/$(VARIANT)

PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= /etc
PLUGINDIR  ?= $(PREFIX)/lib/tocsin/plugins

CC         = gcc
PKG_CONFIG = pkg-config
PYTHON     = /usr/bin/python3

# make V=1 shows the commands.
V ?=
Q    = $(if $(V),,@)
say  = @printf '  %-3s %s\n'

PACKAGES = libmosquitto jansson libconfig lua5.4 libpcre2-8 libssl sqlite3

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
           -Wvla -Wformat=2 -Wno-format-nonliteral -Werror
OPT_release = -O2 -g
OPT_asan    = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT_tsan    = -O1 -g -fsanitize=thread
OPT_fuzz    = -O1 -g -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
ifeq ($(VARIANT),fuzz)
CC = clang
endif

CPPFLAGS += -D_GNU_SOURCE -Icore -Icore/include -DTOCSIN_VERSION='"$(VERSION)"'
PLACES    = -DTOCSIN_PLUGINDIR='"$(PLUGINDIR)"' -DTOCSIN_SYSCONFDIR='"$(SYSCONFDIR)"'
# Points at which a process dies, when a test says so (core/store/fault.h).
ifneq ($(filter asan tsan,$(VARIANT)),)
CPPFLAGS += -DTOCSIN_FAULTS
endif
CFLAGS   += -std=c11 $(OPT_$(VARIANT)) $(WARNINGS) -pthread -fPIC -fvisibility=hidden
LDFLAGS  += $(filter -fsanitize=%,$(OPT_$(VARIANT))) -pthread -Wl,--as-needed
PACKAGE_CFLAGS = $(shell $(PKG_CONFIG) --cflags $(PACKAGES))
LDLIBS   += $(shell $(PKG_CONFIG) --libs $(PACKAGES)) -ldl -lm

CORE      := $(filter-out core/tocsin.c,$(wildcard core/*.c core/*/*.c core/*/*/*.c))
CORE_O    := $(CORE:%.c=$(B)/%.o)
PLUGINS   := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard plugins/*/*.c)))))
PLUGIN_SO := $(PLUGINS:%=$(B)/plugins/%.so)
UNIT      := $(wildcard tests/unit/*.c tests/unit/*/*.c)
TEST_PLUGINS := $(patsubst %.c,$(B)/%.so,$(wildcard tests/plugin/*.c))
PRELOADS  := $(patsubst %.c,$(B)/%.so,$(wildcard tests/preload/*.c))
UNIT_O    := $(UNIT:%.c=$(B)/%.o)
FUZZERS   := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
MODULES   := $(wildcard tests/tools/*.c tests/plugin/*.c)
TOOLS     := $(patsubst tests/tools/%.c,$(B)/%,$(wildcard tests/tools/*.c))
BENCHES   := $(patsubst tests/bench/%.c,$(B)/bench/%,$(wildcard tests/bench/*.c))
SOURCES    = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h')

.PHONY: all
all: build-deps ## build the program and the plugins (what `make` alone does)
	@$(MAKE) --no-print-directory compile

.PHONY: compile
compile: $(B)/tocsin $(PLUGIN_SO)

# What is compiled depends on how: another command line builds everything again; another place to install to, what
# looks there.
$(B)/flags: now = $(CC) $(CPPFLAGS) $(CFLAGS)
$(B)/places: now = $(PLACES)
$(B)/flags $(B)/places: FORCE
	@mkdir -p $(B)
	@echo '$(subst ','\'',$(now))' | cmp -s - $@ || echo '$(subst ','\'',$(now))' >$@
.PHONY: FORCE
FORCE:

PLACED := $(B)/core/daemon/setup.o $(B)/core/delivery/service.o
$(PLACED): $(B)/places
$(PLACED): private CPPFLAGS += $(PLACES)

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(dir $@)
	$(say) CC $@
	$(Q)$(CC) $(CPPFLAGS) $(if $(filter core/% tests/%,$<),$(PACKAGE_CFLAGS)) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/libtocsin.a: $(CORE_O)
	$(say) AR $@
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/tocsin: $(B)/core/tocsin.o $(B)/libtocsin.a
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# A plugin names what it links to in its own source: " * Libraries: libcurl zlib" (pkg-config's names).
plugin_libs = $(shell $(PKG_CONFIG) --libs $(shell sed -n 's/^ \* Libraries: *//p' $(1)) 2>/dev/null)
plugin_objs = $(patsubst %.c,$(B)/%.o,$(wildcard plugins/$(1)/*.c))
.SECONDEXPANSION:
$(PLUGIN_SO): $(B)/plugins/%.so: $$(call plugin_objs,$$*)
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -shared -o $@ $^ $(call plugin_libs,plugins/$*/$*.c) -lm

# ---- Tests --------------------------------------------------------------------------------------

$(B)/unit: $(UNIT_O) $(B)/libtocsin.a
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc -o $@ $^ -lcmocka $(LDLIBS)

.PHONY: unit
unit: test-deps ## build and run the unit tests (seconds)
	@$(MAKE) --no-print-directory run-unit

.PHONY: run-unit
run-unit: $(B)/unit $(PLUGIN_SO) $(TEST_PLUGINS)
	TOCSIN_PLUGINS=$(B)/plugins TOCSIN_TEST_PLUGINS=$(B)/tests/plugin $(B)/unit $(TESTS)

# Plugins for tests of how plugins are used: each .c file of tests/plugin/ is one.
# What is preloaded to be in the way of system calls: each .c file of tests/preload/.
$(TEST_PLUGINS) $(PRELOADS): %.so: %.o
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -shared -o $@ $<

# A tool is a file, and what is in the folder of its name.
tool_objs = $(patsubst %.c,$(B)/%.o,$(wildcard tests/tools/$(1)/*.c))
$(TOOLS): $(B)/%: $(B)/tests/tools/%.o $$(call tool_objs,$$*) $(B)/libtocsin.a
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

.PHONY: tools
tools: $(TOOLS) $(TEST_PLUGINS) $(PRELOADS)

.PHONY: check
check: test-deps ## build and run all tests
	@$(PYTHON) tests/check.py

.PHONY: system
system: test-deps ## run the system tests (TESTS='-k name' for some)
	@$(MAKE) --no-print-directory compile tools
	$(PYTHON) -m pytest -q tests/system $(TESTS)

BROKER ?= tocsin
.PHONY: wire
wire: test-deps ## play the wire conversations (BROKER=mosquitto or HOST:PORT for another broker, TESTS='pattern' for some)
	@$(MAKE) --no-print-directory compile
	TOCSIN_BUILD=$(B) $(PYTHON) tests/wire/runner.py --broker $(BROKER) $(TESTS)

SEEDS   ?= 100
WORKERS ?= 1
.PHONY: model
model: test-deps ## random clients against the broker (SEEDS=n, FIRST=seed, WORKERS=n)
	@$(MAKE) --no-print-directory compile
	$(PYTHON) -m tests.model --tocsin $(B)/tocsin --workers $(WORKERS) --seeds $(SEEDS) $(if $(FIRST),--first $(FIRST))

KILLS ?= 500
.PHONY: crash
crash: test-deps ## kill it KILLS=n times in each of several ways, and compare acknowledged with arrived (half an hour)
	@$(MAKE) --no-print-directory VARIANT=asan compile tools
	@$(MAKE) --no-print-directory compile tools
	$(PYTHON) tests/system/crash/run.py --kills $(KILLS)
	$(PYTHON) tests/system/crash/run.py --kills $(KILLS) --clock --places 20
	$(PYTHON) tests/system/crash/run.py --kills $(KILLS) --link mosquitto --restarts
	$(PYTHON) tests/system/crash/run.py --kills $(KILLS) --link mosquitto --broker-kills
	$(PYTHON) tests/system/crash/run.py --kills $(KILLS) --link tocsin --broker-kills
	$(PYTHON) tests/system/crash/sessions.py --kills $(KILLS)
	$(PYTHON) tests/system/crash/sessions.py --kills $(KILLS) --workers 2
	TOCSIN_BUILD=build/asan $(PYTHON) tests/system/crash/run.py --kills $(KILLS) --faults
	TOCSIN_BUILD=build/asan $(PYTHON) tests/system/crash/sessions.py --kills $(KILLS) --faults

.PHONY: asan tsan
asan: test-deps ## unit tests under the address and undefined behaviour sanitizers
	@$(MAKE) --no-print-directory VARIANT=asan run-unit
tsan: test-deps ## unit tests, then the threaded system tests, under the thread sanitizer
	@$(MAKE) --no-print-directory VARIANT=tsan run-unit compile tools TESTS='services* link* log delivery* mailbox loop acceptor'
	TOCSIN_BUILD=build/tsan $(PYTHON) -m pytest -q -m threads tests/system

SECONDS ?= 10
.PHONY: fuzz
fuzz: test-deps ## run each fuzz target for SECONDS=n
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzzers
	@set -e; for f in $(FUZZERS); do echo "fuzz: $$f"; mkdir -p build/corpus/$$f tests/fuzz/corpus/$$f; \
	  build/fuzz/fuzzers/$$f -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -print_final_stats=0 \
	    -verbosity=0 build/corpus/$$f tests/fuzz/corpus/$$f; done

.PHONY: fuzz-replay
fuzz-replay: test-deps ## replay the kept fuzz corpora
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzzers
	@set -e; for f in $(FUZZERS); do echo "replay: $$f"; \
	  build/fuzz/fuzzers/$$f -runs=0 -verbosity=0 tests/fuzz/corpus/$$f; done

.PHONY: fuzzers
fuzzers: $(FUZZERS:%=$(B)/fuzzers/%)
$(B)/fuzzers/%: $(B)/tests/fuzz/%.o $(B)/libtocsin.a
	@mkdir -p $(dir $@)
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

# A benchmark is a file, and what is in the folder of its name.
bench_objs = $(patsubst %.c,$(B)/%.o,$(wildcard tests/bench/$(1)/*.c))
$(BENCHES): $(B)/bench/%: $(B)/tests/bench/%.o $$(call bench_objs,$$*) $(B)/libtocsin.a
	@mkdir -p $(dir $@)
	$(say) LD $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

.PHONY: bench
bench: test-deps ## measure: what a message costs, stage by stage and end to end
	@$(MAKE) --no-print-directory compile $(BENCHES)
	$(PYTHON) tests/bench/bench.py
	$(PYTHON) tests/bench/store.py
	$(PYTHON) tests/bench/durable.py
	@$(MAKE) --no-print-directory bench-broker

.PHONY: bench-broker
bench-broker: test-deps ## measure the broker against mosquitto (LONG=1: for twenty minutes)
	@$(MAKE) --no-print-directory compile $(BENCHES)
	$(PYTHON) tests/bench/broker.py $(if $(LONG),--long)

MINUTES ?= 3
.PHONY: soak
soak: test-deps ## let 10,000 clients come and go for MINUTES=n, with one worker and with two
	@$(MAKE) --no-print-directory compile
	$(PYTHON) tests/bench/soak.py --minutes $(MINUTES) --workers 1
	$(PYTHON) tests/bench/soak.py --minutes $(MINUTES) --workers 2

.PHONY: format format-check tidy
format: ## rewrite the C sources with clang-format
	clang-format -i $(SOURCES)
format-check:
	clang-format --dry-run -Werror $(SOURCES)
tidy: test-deps ## clang-tidy over the C sources
	@printf '%s\n' $(filter core/%.c plugins/%.c,$(SOURCES)) | \
	  FLAGS='-std=c11 $(subst ',,$(CPPFLAGS) $(PLACES)) $(PACKAGE_CFLAGS)' xargs -P 2 -n 4 \
	    sh -c 'clang-tidy --quiet "$$@" -- $$FLAGS 2>/dev/null' tidy

# ---- Demo, installation -------------------------------------------------------------------------

.PHONY: demo
demo: build-deps ## build, then show the main job (SECONDS=n to end by itself)
	@$(MAKE) --no-print-directory compile
	@BUILD=$(B) $(if $(filter command,$(origin SECONDS)),DEMO_SECONDS=$(SECONDS)) examples/first-steps/demo

COMMANDS = run check explain send pub sub queue store why ledger plugins help version
.PHONY: man
man: all ## write the manual pages to build/man
	@mkdir -p build/man
	@for c in $(COMMANDS); do $(B)/tocsin help --man $$c >build/man/tocsin-$$c.1; done
	@$(B)/tocsin help --man tocsin >build/man/tocsin.1
	@$(B)/tocsin help --man tocsin.conf >build/man/tocsin.conf.5

.PHONY: install
install: man ## install below PREFIX= (and DESTDIR=)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PLUGINDIR) $(DESTDIR)$(PREFIX)/include/tocsin \
	  $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5 \
	  $(DESTDIR)$(SYSCONFDIR)/tocsin/conf.d
	install -m 755 $(B)/tocsin $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(PLUGIN_SO) $(DESTDIR)$(PLUGINDIR)/
	install -m 644 core/include/tocsin/*.h $(DESTDIR)$(PREFIX)/include/tocsin/
	install -m 644 build/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 build/man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -d $(DESTDIR)$(PREFIX)/share/doc/tocsin
	install -m 644 README.md $(wildcard plugins/*/*.md) $(DESTDIR)$(PREFIX)/share/doc/tocsin/
	cp -R examples $(DESTDIR)$(PREFIX)/share/doc/tocsin/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin|$(PREFIX)/bin|; s|/etc/tocsin|$(SYSCONFDIR)/tocsin|' conf/tocsin.service \
	  >$(DESTDIR)$(PREFIX)/lib/systemd/system/tocsin.service
	test -e $(DESTDIR)$(SYSCONFDIR)/tocsin/tocsin.conf || \
	  install -m 644 conf/tocsin.conf $(DESTDIR)$(SYSCONFDIR)/tocsin/

.PHONY: clean
clean: ## remove all that was built
	rm -rf build

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | sort | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

# ---- Packages of Debian 12 ----------------------------------------------------------------------

BUILD_DEPS = gcc libc6-dev pkg-config libmosquitto-dev libcurl4-openssl-dev libjansson-dev \
             libconfig-dev liblua5.4-dev libpcre2-dev libxxhash-dev zlib1g-dev libssl-dev libsqlite3-dev
TEST_DEPS  = git libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev python3 python3-pytest python3-pytest-xdist \
             mosquitto mosquitto-clients python3-paho-mqtt python3-aiosmtpd exim4-daemon-light openssl nsca nsca-client nagios4-core \
             tshark libmcrypt4 mandoc procps $(if $(shell sh -c 'command -v npm'),,npm)

# $(call need,PACKAGES): installs what is missing; without a missing one it asks no network.
need = @missing=; for p in $(1); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing:$$missing"; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q >/dev/null && \
	    apt-get install -y -q --no-install-recommends '"$$missing"' >/dev/null'; fi

.PHONY: build-deps test-packages test-deps
build-deps:
	$(call need,$(BUILD_DEPS))
test-deps: test-packages tests/node_modules/.package-lock.json
test-packages: build-deps
	$(call need,$(TEST_DEPS))

# Clients in JavaScript, as package-lock.json has them; npm writes the target.
tests/node_modules/.package-lock.json: tests/package-lock.json | test-packages
	@echo "installing: tests/node_modules"
	$(Q)cd tests && npm ci --silent --ignore-scripts --no-audit --no-fund
	$(Q)touch $@

-include $(shell find $(B) -name '*.d' 2>/dev/null)
