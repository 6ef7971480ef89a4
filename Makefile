# SPDX-License-Identifier: GPL-2.0-only
#
# "make help" lists what can be made. Everything is built in $(BUILD); the
# source folders stay clean.

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=

# The kernel to build the module for: the running one if its headers are here,
# else the newest that has headers.
RUNNING := $(shell uname -r)
KDIR ?= $(or $(wildcard /lib/modules/$(RUNNING)/build),$(shell \
	ls -d /lib/modules/*/build 2>/dev/null | sort -V | tail -n 1))
# Debian's include/config/kernel.release does not say what uname says.
KREL = $(shell sed -n 's/.*UTS_RELEASE "\(.*\)"/\1/p' \
	$(KDIR)/include/generated/utsrelease.h)
MODULE = $(BUILD)/module-$(KREL)

# Kbuild mentions it every time when it finds no vmlinux to make BTF with, or
# no key to sign with.
NO_KEY = $(if $(wildcard $(KDIR)/certs/signing_key.pem),,CONFIG_MODULE_SIG_ALL=)
NO_BTF = $(if $(wildcard $(KDIR)/vmlinux),,CONFIG_DEBUG_INFO_BTF_MODULES=)

# The two Debian 12 kernels that everything is tested on.
KERNELS = 6.12 6.1
export KERNELS

# V=1 shows the commands, -s nothing.
V ?= 0
Q := $(if $(filter 0,$(V)),@)
SAY := $(if $(findstring s,$(firstword -$(MAKEFLAGS))),,$(Q))
say = $(if $(SAY),@printf '  %-7s %s\n' $(1) '$(2)',@:)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

.PHONY: all
all: module tools ## the module and the tools (default)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

# --- what Debian has to provide ---------------------------------------------

DEPS := bash build-essential pkg-config git python3 rsync cpio zstd lz4 xz-utils \
	bc flex bison kmod procps util-linux ca-certificates \
	linux-image-amd64 linux-headers-amd64 \
	linux-image-6.12-amd64 linux-headers-6.12-amd64 linux-source-6.12 \
	libelf-dev libssl-dev libdevmapper-dev libjson-c-dev \
	libkeyutils-dev zlib1g-dev libzstd-dev libcryptsetup-dev \
	qemu-system-x86 qemu-system-data qemu-utils seabios ipxe-qemu \
	busybox-static strace dmsetup cryptsetup-bin keyutils nbd-client fio \
	gnuplot-nox e2fsprogs xfsprogs zfs-fuse sparse codespell shellcheck clang \
	libclang-rt-14-dev coccinelle lcov

.PHONY: deps
deps: ## install the Debian packages that building and testing need
	@.ci/deps $(DEPS)

# --- the module -------------------------------------------------------------

# Kbuild writes beside its sources, so it gets a copy of them. rsync keeps the
# times of the files, and Kbuild builds what has changed. --delete does not
# touch what is excluded: the objects.
.PHONY: module
module: ## dm-qcow2.ko for KDIR
	@test -e "$(KDIR)/Makefile" || \
		{ echo "No kernel headers found; try 'make deps'." >&2; false; }
	$(if $(filter file,$(origin KDIR)),$(if \
		$(wildcard /lib/modules/$(RUNNING)/build),,@echo "No headers\
		for the running kernel $(RUNNING); building for $(KREL)\
		(KDIR=... chooses another)." >&2))
	@mkdir -p $(MODULE)/dm-qcow2
	@flock $(MODULE)/.lock $(MAKE) --no-print-directory _module

.PHONY: _module
_module:
	@rsync -rt --delete --include='*/' --include='*.[ch]' --exclude='*' \
		dm-qcow2/ $(MODULE)/dm-qcow2/
	@rsync -t Kbuild $(MODULE)/Kbuild
	$(Q)$(MAKE) -C $(KDIR) M=$(abspath $(MODULE)) $(NO_BTF) modules

# --- the core in user space -------------------------------------------------
#
# dm-qcow2/core is compiled into the tools and, with sanitizers, into the
# tests. Every variant has its own objects and library:
#
#	$(BUILD)/plain		-O2		tools, crash tests
#	$(BUILD)/asan		ASan and UBSan	unit tests
#	$(BUILD)/tsan		TSan		stress tests
#	$(BUILD)/cov		gcov		"make coverage"
#	$(BUILD)/fuzz		libFuzzer
#
# VARIANT=cov builds all tests in that one.

VARIANT ?=
WERROR ?=
WARNINGS := -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers \
	-Wcast-align -Wformat=2 -Winit-self -Wmissing-declarations \
	-Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wshadow \
	-Wstrict-prototypes -Wundef -Wwrite-strings -Wvla $(if $(WERROR),-Werror)
USER_CFLAGS = -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -g -pthread \
	$(WARNINGS) -Idm-qcow2/core -MMD -MP
USER_LIBS = -lz -lzstd -lpthread
TOOL_PKGS := devmapper json-c libcryptsetup libkeyutils
TOOL_CFLAGS = $(shell pkg-config --cflags $(TOOL_PKGS))
TOOL_LIBS = $(shell pkg-config --libs $(TOOL_PKGS)) $(USER_LIBS)

plain_FLAGS := -O2
asan_FLAGS := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
tsan_FLAGS := -O1 -fno-omit-frame-pointer -fsanitize=thread
cov_FLAGS := -O0 --coverage -fprofile-update=atomic
fuzz_FLAGS := $(asan_FLAGS) -fsanitize=fuzzer-no-link
VARIANTS := plain asan tsan cov fuzz

CORE_SRCS := $(wildcard dm-qcow2/core/*.c)
LIB_SRCS := $(wildcard tests/lib/*.c)
TOOL_SRCS := $(wildcard tools/qcow2setup/*.c)
TOOL_OBJS := $(TOOL_SRCS:%.c=$(BUILD)/plain/%.o)

# The objects of sources $(2) in variant $(1).
objects = $(patsubst %.c,$(BUILD)/$(1)/%.o,$(2))

define variant
$$(BUILD)/$(1)/%.o: %.c
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$$(CC) $$(USER_CFLAGS) $$(EXTRA_CFLAGS) $$($(1)_FLAGS) $$(CFLAGS) \
		-c -o $$@ $$<

$$(BUILD)/$(1)/core.a: $$(call objects,$(1),$$(CORE_SRCS))
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$(AR) crs $$@ $$^

$$(BUILD)/$(1)/lib.a: $$(call objects,$(1),$$(LIB_SRCS))
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$(AR) crs $$@ $$^
endef
$(foreach v,$(VARIANTS),$(eval $(call variant,$(v))))

# --- the tools --------------------------------------------------------------

.PHONY: tools
tools: $(if $(TOOL_SRCS),$(BUILD)/qcow2setup) ## qcow2setup

$(TOOL_OBJS): EXTRA_CFLAGS = $(TOOL_CFLAGS)

$(BUILD)/qcow2setup: $(TOOL_OBJS) $(BUILD)/plain/core.a
	$(call say,LD,$@)
	$(Q)$(CC) $(plain_FLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(TOOL_LIBS)

# --- the tests --------------------------------------------------------------

# Every tests/DIRECTORY/NAME.c is a program of its own, $(2) its variant.
define programs
$(1)_PROGRAMS := $$(patsubst %.c,$$(BUILD)/%,$$(wildcard tests/$(1)/*.c))

$$(call objects,$(2),$$(wildcard tests/$(1)/*.c)): EXTRA_CFLAGS = -Itests/lib

$$(BUILD)/tests/$(1)/%: $$(BUILD)/$(2)/tests/$(1)/%.o $$(BUILD)/$(2)/lib.a \
		$$(BUILD)/$(2)/core.a
	@mkdir -p $$(@D)
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$($(2)_FLAGS) $$(CFLAGS) $$(LDFLAGS) $$(EXTRA_LDFLAGS) -o $$@ $$^ \
		$$(USER_LIBS)

.PHONY: $(1)-programs
$(1)-programs: $$($(1)_PROGRAMS)
endef
$(eval $(call programs,unit,$(or $(VARIANT),asan)))
$(eval $(call programs,crash,$(or $(VARIANT),plain)))
$(eval $(call programs,stress,$(or $(VARIANT),tsan)))
$(eval $(call programs,functional,plain))
$(eval $(call programs,fuzz,fuzz))
$(foreach v,$(VARIANTS),$(eval \
	$(call objects,$(v),$(LIB_SRCS)): EXTRA_CFLAGS = -Itests/lib))
# only clang has it
$(BUILD)/fuzz/% $(BUILD)/tests/fuzz/%: override CC = clang
$(fuzz_PROGRAMS): EXTRA_LDFLAGS = -fsanitize=fuzzer
.SECONDARY:

# What tests/lib/qemuimg.c puts in front of qemu-img, and tests/tools/encrypt.sh in
# front of qcow2setup.
$(BUILD)/tests/preload/%.so: tests/preload/%.c $(wildcard tests/preload/*.h)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(USER_CFLAGS) $(EXTRA_CFLAGS) -O2 -fPIC -shared $(CFLAGS) \
		$(LDFLAGS) -o $@ $< $(EXTRA_LDFLAGS)

FAKEDM = $(BUILD)/tests/preload/fakedm.so
$(FAKEDM): EXTRA_CFLAGS = $(TOOL_CFLAGS)
$(FAKEDM): EXTRA_LDFLAGS = $(shell pkg-config --libs libkeyutils)

.PHONY: tools-programs
tools-programs: tools $(FAKEDM)

$(unit_PROGRAMS) $(crash_PROGRAMS): | $(BUILD)/tests/preload/again.so

# See tests/unit/allocs.h.
$(addprefix $(BUILD)/tests/unit/,cache check create failures repair): \
	EXTRA_LDFLAGS = -Wl,--wrap=malloc,--wrap=calloc,--wrap=posix_memalign

# Headers and libraries may only come with deps, so make looks again after it.
AFTER_DEPS = $(MAKE) --no-print-directory -j$(shell nproc)

.PHONY: test
test: deps ## everything: check, unit, crash, stress, tools, vm, guest, debug, ...
	@$(AFTER_DEPS) tools-programs unit-programs crash-programs stress-programs \
		fuzz-programs functional-programs
	@tests/run

.PHONY: check
check: deps ## sparse, coccicheck, clang, kernel-doc, checkpatch, and more
	@tests/run check

.PHONY: coverage
coverage: deps ## what the tests reach of the core, and suites of the module
	@tests/coverage/run

.PHONY: test-unit test-crash test-stress
test-unit: unit-programs ## the core under ASan and UBSan
test-crash: crash-programs ## the core with a crash after every write
test-stress: stress-programs ## the core under TSan
test-unit test-crash test-stress: test-%:
	@tests/run $*

.PHONY: fuzz
fuzz: deps ## images bent by libFuzzer; FUZZ_SECONDS=N
	@$(AFTER_DEPS) fuzz-programs
	@tests/run fuzz

.PHONY: test-tools
test-tools: tools-programs ## qcow2setup, without a kernel module
	@tests/run tools

.PHONY: test-guest
test-guest: tools functional-programs ## the module in a guest, on every kernel; TESTS=PATTERN
	@tests/run guest

.PHONY: test-debug test-kcsan
test-debug: deps ## all suites of the guest on a kernel with KASAN, lockdep and more
test-kcsan: deps ## all suites of the guest on a kernel with KCSAN
test-debug test-kcsan: test-%:
	@$(AFTER_DEPS) tools functional-programs
	@tests/run $*-all

# For hours, and with other random numbers each time.
.PHONY: crash
crash: SEED ?= $(shell shuf -n 1 -i 1-999999999)
crash: SCALE ?= 20
crash: deps ## crash states by the million, power cuts by the hundred; SCALE=N
	@$(AFTER_DEPS) tools crash-programs functional-programs
	@export SEED=$(SEED) SUITE_TIMEOUT=0; echo "SEED=$$SEED SCALE=$(SCALE)"; \
	status=0; CRASH_SCALE=$(SCALE) tests/run crash || status=1; \
	CYCLES=$$((20 * $(SCALE))) GUEST_SECONDS=40000 \
		TESTS='durability|replay' tests/run guest && exit $$status

# See tests/soak/run --help for what repeats it, or one guest of it.
.PHONY: soak
soak: deps ## everything at random, under memory pressure; HOURS=N, SEED=N
	@$(AFTER_DEPS) tools functional-programs
	@tests/soak/run

.PHONY: bench
bench: deps ## dm-qcow2 beside loop, dm-linear, qemu-nbd, dm-crypt; BENCH=PART
	@tests/bench/run

.PHONY: bench-check
bench-check: deps ## no I/O takes more instructions than it did
	@tests/run bench

.PHONY: demo
demo: deps ## see the module work, in a guest
	@$(AFTER_DEPS) tools
	@JOBS=1 tests/run demo

# --- installing -------------------------------------------------------------

VERSION = $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)
DKMS_SRC = $(DESTDIR)/usr/src/dm-qcow2-$(VERSION)

.PHONY: install
install: module install-tools ## install module, qcow2setup and documentation
	$(MAKE) -C $(KDIR) M=$(abspath $(MODULE)) INSTALL_MOD_DIR=updates \
		$(NO_KEY) modules_install $(if $(DESTDIR), \
		INSTALL_MOD_PATH=$(abspath $(DESTDIR)) DEPMOD=true)
	$(if $(DESTDIR),,depmod $(KREL))

DOC = $(DESTDIR)$(PREFIX)/share/doc/dm-qcow2

.PHONY: install-tools
install-tools: tools ## install qcow2setup and documentation, no module
	install -D -m 755 $(BUILD)/qcow2setup \
		$(DESTDIR)$(PREFIX)/sbin/qcow2setup
	install -D -m 644 Documentation/qcow2setup.8 \
		$(DESTDIR)$(PREFIX)/share/man/man8/qcow2setup.8
	install -d $(DOC)
	install -m 644 Documentation/*.rst $(DOC)/

.PHONY: uninstall
uninstall: ## remove what install has installed
	rm -f $(DESTDIR)/lib/modules/$(KREL)/updates/dm-qcow2.ko*
	$(if $(DESTDIR),,depmod $(KREL))
	rm -f $(DESTDIR)$(PREFIX)/sbin/qcow2setup
	rm -f $(DESTDIR)$(PREFIX)/share/man/man8/qcow2setup.8
	rm -rf $(DOC)

.PHONY: dkms-install
dkms-install: ## put the module's sources where DKMS builds them
	install -d $(DKMS_SRC)
	rsync -rt --delete dkms.conf Kbuild dm-qcow2 COPYING $(DKMS_SRC)/
	$(if $(DESTDIR),,dkms add -m dm-qcow2 -v $(VERSION))
	$(if $(DESTDIR),,dkms install -m dm-qcow2 -v $(VERSION))

.PHONY: dkms-uninstall
dkms-uninstall: ## remove what dkms-install has installed
	$(if $(DESTDIR),,dkms remove -m dm-qcow2 -v $(VERSION) --all)
	rm -rf $(DKMS_SRC)

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(BUILD)

-include $(shell find $(VARIANTS:%=$(BUILD)/%) -name '*.d' 2>/dev/null)
