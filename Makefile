# Every target has a comment after `##`; `make help` prints them and a test holds that none lacks one.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter that .venv is made with: the distribution's own, as the packages use it.
PYTHON ?= /usr/bin/python3
export PYTHON

STAMP := .venv/.setup$(subst /,-,$(PYTHON))
STATE := $(CURDIR)/.state

# numpy's BLAS threads and malloc's arenas cost memory and bring nothing here; the unit sets the same.
LEAN := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2

# The kernel programs. No path of this machine may get into them: the same source gives the same bytes.
CLANG ?= clang
LLVM_STRIP ?= llvm-strip
BPF_OBJECT := tychod/kernel/bpf/tychod.bpf.o
BPF_SOURCES := bpf/tychod.bpf.c bpf/tychod.h bpf/vmlinux.h
BPF_FLAGS := -O2 -g -target bpf -mcpu=v3 -Wall -Werror -fdebug-compilation-dir=/tychod
BPF_TOOLS := clang llvm libbpf-dev

TYPED := tychod tychoctl $(wildcard tests/sim tests/bench tests/accuracy)

# Prints the files whose first line names a shell.
FIND_SHELL_SCRIPTS := find . \( -name .git -o -name .venv -o -name .state -o -name build -o -name dist \) -prune \
	-o -type f -exec awk 'FNR == 1 && /^\#!.*[\/ ](ba|da)?sh( |$$)/ { print FILENAME } { nextfile }' {} +

# .venv first: making it may install the compiler.
.NOTPARALLEL:
.PHONY: help setup run test check bpf e2e e2e-kernels bench accuracy demo deb rpm

help: ## Print the targets and what they do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) $(BPF_OBJECT) ## Make .venv with tychod, tychoctl and the test tools (as root: installs system packages)

$(STAMP): pyproject.toml setup.py constraints.txt packaging/setup.sh
	@packaging/setup.sh
	@touch $@

run: $(STAMP) $(BPF_OBJECT) ## Run the daemon in the foreground on this machine, state and socket under .state/
	@mkdir -p $(STATE)/state
	@echo 'export TYCHOD_SOCKET=$(STATE)/tychod.sock'
	@$(LEAN) STATE_DIRECTORY=$(STATE)/state RUNTIME_DIRECTORY=$(STATE) exec .venv/bin/tychod

test: $(STAMP) $(BPF_OBJECT) ## Run every test that this machine can run; skips say why
	@$(LEAN) tests/run.sh

check: $(STAMP) ## Check format, lint, types and shell scripts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy $(TYPED)
	@if command -v shellcheck >/dev/null; then $(FIND_SHELL_SCRIPTS) | xargs -r shellcheck -x; \
	else echo 'check: shellcheck is not installed, shell scripts SKIPPED'; fi

bpf: $(BPF_OBJECT) ## Compile the kernel programs (clang, llvm, libbpf-dev)

# What needs the programs makes them where that can be done, and says what is missing where not.
$(BPF_OBJECT): $(BPF_SOURCES)
	@if ! command -v $(CLANG) >/dev/null || ! command -v $(LLVM_STRIP) >/dev/null; then \
		echo 'bpf: $(CLANG) or $(LLVM_STRIP) is missing, so CPU time cannot be counted in the kernel; install: $(BPF_TOOLS)' >&2; \
		exit $(if $(filter bpf,$(MAKECMDGOALS)),1,0); \
	fi; \
	echo 'bpf: compiling $<'; \
	$(CLANG) $(BPF_FLAGS) -c $< -o $@.tmp; \
	$(LLVM_STRIP) -g $@.tmp; \
	mv $@.tmp $@

e2e: ## Install the package on a machine with systemd and check it there (TYCHOD_E2E_EXEC or TYCHOD_NODEBOX)
	@tests/e2e/run.sh

e2e-kernels: ## Boot Debian's 6.1 and 6.12 kernels in qemu, without KVM, and check the kernel programs there
	@packaging/setup.sh --kernels
	@$(MAKE) -s bpf
	@tests/e2e/kernels.sh

bench: $(STAMP) $(BPF_OBJECT) ## Measure the daemon's cost: name, figure, target, ok or MISS, machine, load
	@packaging/setup.sh --libraries
	@$(LEAN) .venv/bin/python -m tests.bench

# SEEDS=3 for a quick look, ROWS="mixed steady" for a part, SEED0 for other seeds, JSON=FILE for all figures.
accuracy: $(STAMP) ## Print the errors against known truth: CPU shares, platform, GPUs; exit 1 on a MISS
	@$(LEAN) .venv/bin/python -m tests.accuracy

# SECONDS=20 ends by itself.
demo: $(STAMP) ## Run simulated BMC, RAPL and GPUs, tychod on them, and a live view, until Ctrl-C
	@$(LEAN) exec .venv/bin/python -m tests.sim.demo --seconds $(or $(SECONDS),0)

deb: ## Build the Debian package into dist/
	@packaging/setup.sh --packages
	@packaging/build-deb.sh

rpm: ## Build the RPM package into dist/
	@packaging/setup.sh --packages
	@packaging/build-rpm.sh
