#!/usr/bin/env bash
# `make e2e`: the package on a real systemd. Exit 0: every step ok, 1: one failed, 77: no machine for it.
# Where it runs and what it needs: tests/e2e/driver.py.
set -euo pipefail

cd "$(dirname "$0")/../.."
exec /usr/bin/python3 -B -u -m tests.e2e.driver "$@"
