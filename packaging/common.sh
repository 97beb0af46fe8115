# shellcheck shell=bash
# What build-deb.sh and build-rpm.sh share. Sourced with the checkout as working directory.

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

# need_tools COMMAND=PACKAGE...: stops with one line that says what to install.
need_tools() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]} == 0)) || fail "missing tools; run: sudo apt-get install ${missing[*]}"
}

in_git() {
    [[ $(git rev-parse --show-toplevel 2>/dev/null) == "$PWD" ]]
}

read_version() {
    sed -n 's/^__version__ = "\(.*\)"$/\1/p' tychod/__init__.py
}

# The time that stands for "now" in a package, so that the same source gives the same bytes.
read_epoch() {
    if [[ -n ${SOURCE_DATE_EPOCH:-} ]]; then
        echo "$SOURCE_DATE_EPOCH"
    elif in_git && git log -1 --format=%ct 2>/dev/null; then
        :
    else
        stat -c %Y tychod/__init__.py
    fi
}

# Prints the files of the source tree, NUL-separated: what git tracks or would, as they lie there now.
list_source() {
    if in_git; then
        git ls-files -z --cached --others --exclude-standard
    else
        find . \( -name .git -o -name .venv -o -name .state -o -name build -o -name dist \
            -o -name __pycache__ -o -name '.*_cache' \) -prune -o -type f -print0
    fi | while IFS= read -r -d '' path; do
        if [[ -e $path || -L $path ]]; then printf '%s\0' "$path"; fi
    done
}

# export_tree DIRECTORY EPOCH: a clean copy of the source with fixed modes and times, its build's facts written.
export_tree() {
    mkdir -p "$1"
    list_source | tar -cf - --null --files-from=- --mtime="@$2" --mode=u=rwX,go=rX --owner=0 --group=0 |
        tar -xf - --no-same-owner -C "$1"
    SOURCE_DATE_EPOCH=$2 python3 -B -m tychod.version --write "$1/tychod"
}

# vendor_modules TREE EPOCH: puts the modules of packaging/vendor.txt into TREE/vendor. pip compares each
# wheel with its hash, also one that an earlier build has left under .state/vendor.
vendor_modules() {
    local tree=$1 epoch=$2 python=.venv/bin/python kept=.state/vendor
    mkdir -p "$kept" "$tree/vendor"
    if ! "$python" -c 'import pip' 2>/dev/null; then
        python=$tree/../pip/bin/python
        python3 -m venv "$tree/../pip" || fail "pip is needed; run: sudo apt-get install python3-venv"
    fi
    "$python" -m pip --disable-pip-version-check --quiet download --no-deps --no-cache-dir --require-hashes \
        --only-binary :all: --find-links "$kept" --dest "$kept" --requirement packaging/vendor.txt ||
        fail "the modules of packaging/vendor.txt could not be fetched: it needs the network (or PIP_FIND_LINKS)"
    "$python" -m zipfile -e "$kept"/nvidia_ml_py-*.whl "$tree/vendor"
    rm -rf "$tree/vendor/example.py" "$tree"/vendor/*.dist-info
    chmod -R u=rwX,go=rX "$tree/vendor"
    find "$tree/vendor" -exec touch -d "@$epoch" {} +
}
