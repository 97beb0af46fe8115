#!/usr/bin/env bash
# `make test`: every test, in two processes side by side, as half of them mostly wait for a daemon.
# Arguments go to both. Prints the integration tests as they run, then what the other half said.
set -euo pipefail

cd "$(dirname "$0")/.."
PYTHON=.venv/bin/python
PURE=(tests/unit tests/property)
log=$(mktemp)
trap 'kill "$pure" 2>/dev/null || true; rm -f "$log"' EXIT

"$PYTHON" -m pytest -o cache_dir=.pytest_cache/pure "${PURE[@]}" "$@" >"$log" 2>&1 &
pure=$!
real_code=0 pure_code=0
echo "test: integration tests (unit and property tests run beside them)"
"$PYTHON" -m pytest "${PURE[@]/#/--ignore=}" tests "$@" || real_code=$?
wait "$pure" || pure_code=$?
echo "test: unit and property tests"
cat "$log"
none=5  # pytest: no test was chosen; one half may have none of those that the arguments name
if ((real_code == none && pure_code != none)); then real_code=0; fi
if ((pure_code == none && real_code != none)); then pure_code=0; fi
if ((real_code || pure_code)); then
    echo "test: FAILED (integration: exit $real_code, unit and property: exit $pure_code)" >&2
    exit 1
fi
echo "test: ok"
