#!/usr/bin/env bash
# `make e2e-kernels`: the shipped kernel programs on Debian's kernels, emulated. Exit 0: every step ok,
# 1: one failed, 77: it cannot run here. Which kernels and what it needs: tests/e2e/kernels/__main__.py.
set -euo pipefail

cd "$(dirname "$0")/../.."
exec /usr/bin/python3 -B -u -m tests.e2e.kernels "$@"
