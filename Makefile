# pastfs: one Makefile for everything.  `make help` lists the targets.
#
# V chooses the variant (release, dev, asan, tsan, fuzz, cov), each in build/<V>; CC the compiler.

V ?= release
BUILD := build/$(V)
PREFIX ?= /usr/local
DESTDIR ?=
VERSION := $(shell cat VERSION)

PKGS := libzstd libcrypto libpq libxxhash libisal jansson libsodium lmdb fuse3
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
BASE_CFLAGS := -std=c17 -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -I. -MMD -MP -g \
	-DPASTFS_VERSION='"$(VERSION)"' -fno-strict-aliasing -fstack-protector-strong \
	-msse4.2 -pthread $(WARN) $(patsubst -I%,-isystem %,$(PKG_CFLAGS))
LDLIBS := $(PKG_LIBS) -lm -pthread

ifeq ($(V),release)
VARIANT := -O2 -D_FORTIFY_SOURCE=2 -fPIE
VARIANT_LD := -pie -Wl,-z,relro,-z,now
else ifeq ($(V),dev)
VARIANT := -O1 -Werror
else ifeq ($(V),asan)
VARIANT := -O1 -Werror -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
VARIANT_LD := -fsanitize=address,undefined
else ifeq ($(V),tsan)
VARIANT := -O1 -Werror -fsanitize=thread -fno-omit-frame-pointer
VARIANT_LD := -fsanitize=thread
else ifeq ($(V),fuzz)
CC := clang
VARIANT := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -DFUZZING
VARIANT_LD := -fsanitize=fuzzer,address,undefined
else ifeq ($(V),cov)
VARIANT := -O0 --coverage
VARIANT_LD := --coverage
else
$(error unknown variant V=$(V); use release, dev, asan, tsan, fuzz or cov)
endif

CFLAGS ?=
ALL_CFLAGS := $(BASE_CFLAGS) $(VARIANT) $(CFLAGS)

LIB_SRC := $(sort $(wildcard store/*.c store/base/*.c pgsync/*.c fs/*.c))
TOOL_SRC := $(sort $(wildcard tools/*.c))
SUPPORT_SRC := $(sort $(wildcard tests/support/*.c))
UNIT_SRC := $(sort $(wildcard tests/unit/*/*.c tests/unit/*/*/*.c tests/fault/*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
# Programs that are neither product nor test: the benchmark's ceiling, the golden repository's maker.
BENCH_SRC := $(sort $(wildcard tests/bench/*.c tests/golden/*.c))

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
LIB := $(BUILD)/libpastfs.a
PASTFS := $(BUILD)/pastfs
UNIT_BIN := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC))
FUZZ_BIN := $(patsubst %.c,$(BUILD)/%,$(FUZZ_SRC))
BENCH_BIN := $(patsubst %.c,$(BUILD)/%,$(BENCH_SRC))
# Everything of tools/ but main, so that tests can reach it.
TOOL_OBJ := $(call obj,$(filter-out tools/main.c,$(TOOL_SRC)))

.PHONY: all help deps check check-unit check-fuzz check-integration demo bench install uninstall \
	format lint clean units fuzzers benches fuzz-run
.DEFAULT_GOAL := all
.SECONDARY:

all: $(PASTFS)

help:
	@sed -n 's/^## //p' Makefile

## make                 build build/release/pastfs (V=dev|asan|tsan|fuzz|cov for others)
$(PASTFS): $(call obj,$(TOOL_SRC)) $(LIB)
	$(CC) $(ALL_CFLAGS) $(VARIANT_LD) -o $@ $^ $(LDLIBS)

$(LIB): $(call obj,$(LIB_SRC))
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

units: $(UNIT_BIN)
fuzzers: $(FUZZ_BIN)
benches: $(BENCH_BIN)

$(UNIT_BIN): $(BUILD)/%: $(BUILD)/%.o $(call obj,$(filter-out tests/support/fuzz_main.c,$(SUPPORT_SRC))) $(TOOL_OBJ) $(LIB)
	$(CC) $(ALL_CFLAGS) $(VARIANT_LD) -o $@ $^ $(LDLIBS) -lcmocka

ifeq ($(V),fuzz)
FUZZ_MAIN :=
else
FUZZ_MAIN := $(BUILD)/tests/support/fuzz_main.o
endif
$(FUZZ_BIN): $(BUILD)/%: $(BUILD)/%.o $(FUZZ_MAIN) $(LIB)
	$(CC) $(ALL_CFLAGS) $(VARIANT_LD) -o $@ $^ $(LDLIBS)

$(BENCH_BIN): $(BUILD)/%: $(BUILD)/%.o $(LIB)
	$(CC) $(ALL_CFLAGS) $(VARIANT_LD) -o $@ $^ $(LDLIBS)

## make deps            install the Debian packages that building and testing need (root or sudo)
deps:
	@tests/support/deps

## make check           install what is needed, build, and run every test
check: deps
	@$(MAKE) --no-print-directory V=release all
	@$(MAKE) --no-print-directory V=dev all units fuzzers
	@tests/run --variant dev

## make check-unit      unit, fault and corpus tests of the variant V alone
check-unit: units fuzzers
	@tests/run --variant $(V) --only unit,fuzz

## make demo            the whole thing at work on a throw-away PostgreSQL
demo: deps
	@$(MAKE) --no-print-directory V=release all
	@tests/support/demo

## make bench           speed, against peers in the same run (BENCH_MB=1024 sets the size)
bench: deps
	@$(MAKE) --no-print-directory V=release all benches
	@tests/bench/run

## make install         into $(DESTDIR)$(PREFIX): program, manual page, completion
install: $(PASTFS)
	install -D -m 0755 $(PASTFS) $(DESTDIR)$(PREFIX)/bin/pastfs
	install -D -m 0644 docs/pastfs.1 $(DESTDIR)$(PREFIX)/share/man/man1/pastfs.1
	install -D -m 0644 tools/pastfs.bash-completion \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pastfs

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/pastfs $(DESTDIR)$(PREFIX)/share/man/man1/pastfs.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pastfs

## make format          clang-format over all C files
FORMAT_SRC := $(sort $(wildcard store/*.[ch] store/base/*.[ch] pgsync/*.[ch] fs/*.[ch] tools/*.[ch] \
	tests/*/*.[ch] tests/unit/*/*.[ch] tests/unit/*/*/*.[ch]))
format:
	clang-format -i $(FORMAT_SRC)

## make lint            layers and doors, clang-tidy, cppcheck
lint:
	@tests/lint/run '$(ALL_CFLAGS)'

## make fuzz-run        run each fuzz target for FUZZ_SECONDS (10) seconds
FUZZ_SECONDS ?= 10
fuzz-run:
	@$(MAKE) --no-print-directory V=fuzz fuzzers
	@tests/fuzz/run $(FUZZ_SECONDS)

clean:
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
