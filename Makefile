# Lapidary: `make demo` runs the main job, `make check` the tests, `make help` lists the rest.
#
# One file, not recursive; the graphs are in pipelines/*.mk. A line `#: text` describes the target or variable in the next
# line for `make help`. Sources are found by wildcard: adding a program or a test is adding a file.

ifneq (4.3,$(firstword $(sort 4.3 $(MAKE_VERSION))))
$(error GNU make 4.3 or later is needed, this is $(MAKE_VERSION))
endif

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-builtin-variables
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDEXPANSION:

all: build

# Variables of the call: `make R=DIR`. Most are set with `:=`, so the environment doesn't reach them: a stray B or MODEL in it
# must not decide what is removed or built.
#: compiler
CC := gcc
AR := ar
#: 1: build with the address and undefined-behaviour sanitizers, in a place of its own
SAN :=
#: where objects go
B := build$(if $(SAN),/asan)
#: where programs go
BIN := $(if $(SAN),$B/bin,bin)
#: optimisation
CFLAGS := -O3 -g -pthread
#: 1: show commands
V :=
#: make check REQUIRE=cuda: a test that is skipped for want of that is a failure
REQUIRE :=

, := ,
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
SANITIZE := $(if $(SAN),-fsanitize=address$(,)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
override CFLAGS += -std=gnu11 -ffp-contract=off $(WARN) -D_GNU_SOURCE -Icommon -MMD -MP $(SANITIZE)
# Debian's msgpack-c lost its old name after version 4.
MSGPACK = $(if $(findstring /,$(shell $(CC) -print-file-name=libmsgpackc.so)),-lmsgpackc,-lmsgpack-c)
LDLIBS = $(MSGPACK) -ljansson -lpcre2-8 -lutf8proc -llapacke -lopenblas -lm -ldl
# In check builds a warning is an error. Not part of the flags stamp, or each change between build and check would rebuild all.
WERROR := $(if $(filter check%,$(MAKECMDGOALS)),-Werror)

SOURCES := $(wildcard common/*/*.c)
OBJECTS := $(SOURCES:%.c=$B/%.o)
PROGRAMS := $(patsubst filters/%.c,%,$(wildcard filters/*.c))
C_TESTS := $(wildcard tests/*/*.c)

# `$(call say,CC,$@)` stands before a command: a short line instead of the command, unless V=1 or make -n shows commands.
say = $(if $(V)$(findstring n,$(firstword -$(MAKEFLAGS))),,@printf '  %-7s %s\n' '$1' '$2'; )

# `target: $$(call changed,$$@,TEXT)` makes target out of date where it doesn't hold TEXT. Decided without running anything, so
# that `make -n` and a second run find nothing to do.
changed = $(if $(call same,$(strip $(file < $1)),$(strip $2)),,FORCE)
same = $(if $(subst x$1,,x$2)$(subst x$2,,x$1),,yes)
FORCE:

# Paths that targets and sentences are made of: no character that make or the shell would read in a way of its own.
unsafe := ' " ` \ $$ % : ; & | < > ( ) * ? [ ] { } ~ \#
safe = $(if $(or $(filter-out 1,$(words x$(value $1)x)),$(strip $(foreach c,$(unsafe),$(findstring $c,$(value $1))))), \
       $(error $1 is [$(value $1)]: make can't take paths with spaces, quotes or $(filter-out ' " `,$(unsafe)); use a link))
$(foreach path,B BIN R MODEL SMOLLM2 GRANITE,$(call safe,$(path)))
$(foreach path,B BIN R,$(if $(filter command,$(origin $(path))),$(if $($(path)),,$(error $(path) is empty))))

# Targets with a meaning of their own; fragments add theirs.
TARGETS := all build check check-oracles check-slow bench lint clean help
.PHONY: FORCE

#: the programs (the default)
build: $(PROGRAMS:%=$(BIN)/%) $(BIN)/eval

$B/%.o: %.c $B/flags | $B/needs-build
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS) $(WERROR) $(if $(filter tests/%,$<),-Itests) -c -o $@ $<

FLAGS = $(CC) $(CFLAGS)
$B/flags: $$(call changed,$$@,$$(FLAGS))
	@mkdir -p $(@D)
	@echo '$(FLAGS)' > $@

$B/libcommon.a: $(OBJECTS)
	$(call say,AR,$@)rm -f $@ && $(AR) rcs $@ $^

$(PROGRAMS:%=$(BIN)/%): $(BIN)/%: $B/filters/%.o $B/libcommon.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

# The same program by its short name, to be called with its path: `eval` alone is a builtin of every shell.
$(BIN)/eval: | $(BIN)/evaluate
	$(call say,LINK,$@)ln -sf evaluate $@

# Tests in C: unit tests get the assertions, benchmarks and slow tests may use them too.
$(C_TESTS:%.c=$B/%.o) $B/tests/check.o: | $B/needs-check
$(C_TESTS:%.c=$B/%): $B/%: $B/%.o $B/tests/check.o $B/libcommon.a
	$(call say,LINK,$@)$(CC) $(CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

-include $(OBJECTS:.o=.d) $(PROGRAMS:%=$B/filters/%.d) $(C_TESTS:%.c=$B/%.d) $B/tests/check.d

# The tests in the given folders: C programs, and bats, shell and Python scripts, all of which print TAP.
c_tests = $(patsubst %.c,$B/%,$(wildcard $(addsuffix /*.c,$1)))
scripts = $(wildcard $(foreach kind,bats sh py,$(addsuffix /*.$(kind),$1)))
# A make in a test gets the variables of this call and nothing else. The verdict is prove's exit status; sed puts the tests that were skipped, and why, in front of its last lines.
prove = @: > $B/skips; \
	BIN='$(abspath $(BIN))' B='$(abspath $B)' CC='$(CC)' REQUIRE='$(REQUIRE)' SKIPS='$(abspath $B)/skips' \
	PYTHON="$${PYTHON:-$$(pipelines/needs python)}" MAKEFLAGS='$(if $(MAKEOVERRIDES), -- $(MAKEOVERRIDES))' \
	prove --failures --comments -j"$$(nproc)" --exec tests/run $1 | sed -u '/^Files=/e tests/run --skipped $B/skips'

#: all tests that need nothing but the packages of `make deps`
check: build $(call c_tests,tests/unit) $B/needs-check
	$(call prove,$(call c_tests,tests/unit) $(call scripts,tests tests/cli))

#: tests against PyTorch, transformers, gguf, ... in a virtual environment that this makes (downloads)
check-oracles: build $(call c_tests,tests/oracles) $B/oracles/ready $B/needs-check
	$(call prove,$(call scripts,tests/oracles))

check-oracles: export PYTHON = $(abspath $B/oracles/bin/python)
$B/oracles/ready: tests/oracles/requirements.txt
	$(call say,VENV,$(@D))python3 -m venv $(@D) && $(@D)/bin/pip install -q -r $<
	@touch $@

#: kills, large files, and all tests again under the sanitizers
check-slow: build $(call c_tests,tests/slow) $B/needs-check
	$(call prove,$(call c_tests,tests/slow) $(call scripts,tests/slow))
	$(if $(SAN),,$(MAKE) check SAN=1 B=$B/asan BIN=$B/asan/bin)

#: speeds and their ratios to cat, OpenBLAS, numpy, ...
bench: build $(call c_tests,tests/bench) $B/needs-check
	@export BIN='$(abspath $(BIN))' B='$(abspath $B)' SKIPS=/dev/null \
	    PYTHON="$(or $(abspath $(wildcard $B/oracles/bin/python)),$$(pipelines/needs python))"; \
	for bench in $(call c_tests,tests/bench) $(call scripts,tests/bench); do tests/run "$$bench"; done

SCRIPTS = .ci/run $(shell grep -lE '^\#!.*(sh|bats)$$' pipelines/* tests/run tests/*/*.sh tests/*.sh 2>/dev/null)
#: layers, shellcheck, cppcheck
lint: $B/needs-lint
	@tests/layers.sh
	shellcheck $(SCRIPTS)
	shellcheck --exclude=SC2030,SC2031 $(wildcard tests/cli/*.bats)
	cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr --suppress=missingIncludeSystem -Icommon -Itests common filters tests

#: remove what was built; what pipelines made in $R stays
clean:
	rm -rf $B $(if $(filter bin $B/%,$(BIN)),$(BIN),$(PROGRAMS:%=$(BIN)/%) $(BIN)/eval)

# Makefiles without the dependencies that the compiler wrote: a command has a longest length.
FRAGMENTS = $(filter-out %.d,$(MAKEFILE_LIST))

#: this text
help:
	@echo 'make TARGET ... [VARIABLE=VALUE ...]'
	@echo; echo 'Targets:'
	@awk '/^#: / {text = substr($$0, 4); next} \
	      text && /^[a-z0-9-]+:/ {sub(/:.*/, ""); printf "  %-16s %s\n", $$0, text} {text = ""}' $(FRAGMENTS)
	@$(help_sentences)
	@echo; echo 'Variables:'
	@$(foreach v,$(VARIABLES),printf '  %-16s %s [%s]\n' '$v' "$$(awk -v v='$v' '/^#: / {text = substr($$0, 4); next} \
	      $$1 == v && text {print text; exit} {text = ""}' $(FRAGMENTS))" '$(subst ','\'',$($v))';)

VARIABLES = $(shell awk '/^\#: / {told = 1; next} told && /^[A-Z0-9_]+ [?:]?=/ {print $$1} {told = 0}' $(FRAGMENTS))

# The models first: the grammar asks for their names.
include pipelines/models.mk $(filter-out pipelines/models.mk,$(wildcard pipelines/*.mk))

.PHONY: $(TARGETS)
