#!/usr/bin/env bash
# Makes a machine ready for the checkout it stands in. Used by the Makefile and .ci/run.
#
#   packaging/setup.sh             system packages for development, then .venv with the project in it
#   packaging/setup.sh --packages  system packages that `make deb` and `make rpm` need, no .venv
#   packaging/setup.sh --libraries the distribution's own Python libraries, which the packages run on
#   packaging/setup.sh --kernels   what `make e2e-kernels` needs to build, and to boot other kernels
#   packaging/setup.sh --ci        all of it, and what the end-to-end check needs to make its machines
#
# As root on Debian it installs what is missing; otherwise it says what to install. PYTHON names the
# interpreter for .venv (default /usr/bin/python3: the packages run on the distribution's own).
set -euo pipefail

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-/usr/bin/python3}

BUILD_VENV=(python3 python3-venv python3-dev gcc libc6-dev pkg-config libsystemd-dev ca-certificates)
CHECK_TOOLS=(make git shellcheck)  # nice to have: what needs one of them says so and goes on
BUILD_BPF=(clang llvm libbpf-dev)  # without: no kernel accounting in the checkout, `make bpf` says so
RUN_BPF=(libbpf1 python3-bpfcc "linux-headers-$(dpkg --print-architecture 2>/dev/null || true)")
BUILD_PACKAGES=(make git python3 python3-venv build-essential debhelper dh-python lintian rpm "${BUILD_BPF[@]}")
LIBRARIES=(python3-numpy libopenblas0-pthread python3-msgpack python3-prometheus-client python3-pyroute2 python3-requests
    python3-rich python3-sdnotify python3-pystemd python3-tomli-w python3-urllib3 libbpf1)
TEST_CLIENT=(man-db tmux zsh)  # pages, terminals and completion; what needs one is skipped without
TEST_METRICS=(prometheus)  # promtool, and a Prometheus that scrapes
POLICY=/usr/sbin/policy-rc.d
EMULATE=(make python3 python3-numpy libbpf1 qemu-system-x86 "${BUILD_BPF[@]}")
MAKE_MACHINES=(mmdebstrap util-linux iproute2 systemd)

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

# Prints those of its arguments that are not installed.
missing_packages() {
    local package status
    for package in "$@"; do
        # shellcheck disable=SC2016  # dpkg-query expands the braces, not the shell
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $status == installed ]] || printf '%s\n' "$package"
    done
}

# logged WHAT COMMAND...: run it with its output in a log; on failure show the log's end and say WHAT.
logged() {
    local what=$1
    shift
    "$@" >.state/setup.log 2>&1 && return
    tail -n 15 .state/setup.log >&2
    fail "$what; more in .state/setup.log"
}

# Uses the names NEEDED and WISHED: packages without which nothing works, and those that can be missed.
install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "setup: not a Debian system; install what these names stand for: ${NEEDED[*]} ${WISHED[*]}" >&2
        return
    fi
    local needed wished
    mapfile -t needed < <(missing_packages "${NEEDED[@]}")
    mapfile -t wished < <(missing_packages "${WISHED[@]}")
    if ((EUID == 0)); then
        apt_install "${needed[@]}"
        # On its own: a name that this distribution lacks stops nothing.
        apt_install "${wished[@]}" || echo "setup: some checks are skipped without: ${wished[*]}" >&2
    elif ((${#needed[@]})); then
        fail "packages are missing; run: sudo apt-get install ${needed[*]} ${wished[*]}"
    elif ((${#wished[@]})); then
        echo "setup: some checks are skipped without them; run: sudo apt-get install ${wished[*]}" >&2
    fi
}

# In a shell of its own: the trap of start_no_services is no other's, and is over with it.
apt_install() (
    (($#)) || return 0
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
    echo "setup: installing $*"
    start_no_services
    # One broken source is no reason to stop: if it was needed, the installation fails and says so.
    "${apt[@]}" update >.state/setup.log 2>&1 || true
    logged "apt-get failed: check the network and /etc/apt, then try: apt-get install $*" \
        "${apt[@]}" install --no-install-recommends "$@"
    if [[ " $* " == *" prometheus "* ]]; then
        update-rc.d prometheus disable >>.state/setup.log 2>&1 || true
    fi
)

# Programs are wanted and not services: prometheus would listen on every address, and be in the tests' way.
start_no_services() {
    if [[ ! -e $POLICY ]] || grep -q 'tychod set-up' "$POLICY"; then
        trap 'rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\n# Of a running tychod set-up.\nexit 101\n' >"$POLICY"
        chmod 0755 "$POLICY"
    fi
}

# Prints which Python an interpreter is; two are the same where this is.
describe_python() {
    "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
}

# True where .venv is whole (an interrupted one has no pip) and made with $PYTHON.
venv_fits() {
    .venv/bin/python -c 'import pip' 2>/dev/null &&
        [[ $(describe_python .venv/bin/python) == "$(describe_python "$PYTHON")" ]]
}

make_venv() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$PYTHON is not Python 3.11 or newer; name one with: make setup PYTHON=/path/to/python3"
    venv_fits && return
    echo "setup: making .venv with $PYTHON"
    rm -rf .venv
    logged "$PYTHON cannot make a virtual environment: install its venv module (Debian: python3-venv)" \
        "$PYTHON" -m venv .venv
}

# Installs into .venv, in the constrained versions. --use-pep517: some dependencies have no pyproject.toml.
pip_install() {
    logged "pip could not install the Python packages: it needs the network (or PIP_FIND_LINKS) and a C compiler" \
        env PIP_CONSTRAINT="$PWD/constraints.txt" PIP_DISABLE_PIP_VERSION_CHECK=1 \
        .venv/bin/python -m pip install --quiet --use-pep517 "$@"
}

install_project() {
    echo "setup: installing the project and its test tools into .venv"
    pip_install setuptools
    pip_install --no-build-isolation --editable '.[test]'
}

main() {
    local mode=${1:-}
    NEEDED=("${BUILD_VENV[@]}")
    WISHED=("${CHECK_TOOLS[@]}" "${BUILD_BPF[@]}" "${RUN_BPF[@]}" "${TEST_CLIENT[@]}" "${TEST_METRICS[@]}")
    case $mode in
        "") ;;
        --packages) NEEDED=("${BUILD_PACKAGES[@]}") WISHED=() ;;
        --libraries) NEEDED=() WISHED=("${LIBRARIES[@]}") ;;
        --kernels) NEEDED=("${EMULATE[@]}") WISHED=() ;;
        --ci) NEEDED+=("${BUILD_PACKAGES[@]}" "${MAKE_MACHINES[@]}" "${EMULATE[@]}" "${TEST_CLIENT[@]}" "${TEST_METRICS[@]}") ;;
        *) fail "unknown option $mode; the comment at the top of packaging/setup.sh lists them" ;;
    esac
    mkdir -p .state
    exec 9>.state/setup.lock
    flock 9  # two makes in one checkout take turns
    install_packages
    if [[ -z $mode || $mode == --ci ]]; then
        make_venv
        install_project
    fi
}

main "$@"
