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

TYPED := tychod tychoctl $(wildcard tests/sim tests/bench)

# Prints the files whose first line names a shell.
FIND_SHELL_SCRIPTS := find . \( -name .git -o -name .venv -o -name .state -o -name build -o -name dist \) -prune \
	-o -type f -exec awk 'FNR == 1 && /^\#!.*[\/ ](ba|da)?sh( |$$)/ { print FILENAME } { nextfile }' {} +

.PHONY: help setup run test check e2e bench deb rpm

help: ## Print the targets and what they do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Make .venv with tychod, tychoctl and the test tools (as root: installs system packages)

$(STAMP): pyproject.toml setup.py constraints.txt packaging/setup.sh
	@packaging/setup.sh
	@touch $@

run: $(STAMP) ## Run the daemon in the foreground on this machine, state and socket under .state/
	@mkdir -p $(STATE)/state
	@echo 'export TYCHOD_SOCKET=$(STATE)/tychod.sock'
	@$(LEAN) STATE_DIRECTORY=$(STATE)/state RUNTIME_DIRECTORY=$(STATE) exec .venv/bin/tychod

test: $(STAMP) ## Run every test that this machine can run; skips say why
	@$(LEAN) .venv/bin/python -m pytest

check: $(STAMP) ## Check format, lint, types and shell scripts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy $(TYPED)
	@if command -v shellcheck >/dev/null; then $(FIND_SHELL_SCRIPTS) | xargs -r shellcheck -x; \
	else echo 'check: shellcheck is not installed, shell scripts SKIPPED'; fi

e2e: ## Install the package on a machine with systemd and check it there (TYCHOD_E2E_EXEC or TYCHOD_NODEBOX)
	@tests/e2e/run.sh

bench: $(STAMP) ## Measure the daemon's cost: name, figure, target, ok or MISS, machine, load
	@packaging/setup.sh --libraries
	@$(LEAN) .venv/bin/python -m tests.bench

deb: ## Build the Debian package into dist/
	@packaging/setup.sh --packages
	@packaging/build-deb.sh

rpm: ## Build the RPM package into dist/
	@packaging/setup.sh --packages
	@packaging/build-rpm.sh
