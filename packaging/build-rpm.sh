#!/usr/bin/env bash
# Builds the RPM package from the working tree, outside of it, and puts it into dist/.
#
#   packaging/build-rpm.sh [--out DIRECTORY]
#
# The same source gives the same bytes (SOURCE_DATE_EPOCH, else the commit's time).
set -euo pipefail

cd "$(dirname "$0")/.."
. packaging/common.sh

out=dist
while (($#)); do
    case $1 in
        --out) out=${2:?} ;;
        *) fail "unknown option $1; the comment at the top of packaging/build-rpm.sh lists them" ;;
    esac
    shift 2
done

need_tools rpmbuild=rpm python3=python3

version=$(read_version)
epoch=$(read_epoch)
work=$(mktemp -d "${TMPDIR:-/tmp}/tychod-rpm.XXXXXX")
trap 'rm -rf "$work"' EXIT

export_tree "$work/tree" "$epoch"
vendor_modules "$work/tree" "$epoch"

log=$work/build.log
SOURCE_DATE_EPOCH=$epoch LC_ALL=C.UTF-8 rpmbuild -bb \
    --define "_topdir $work/top" --define "tree $work/tree" --define "pkg_version $version" \
    --define "_buildhost reproducible" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" \
    "$work/tree/packaging/rpm/tychod.spec" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    fail "rpmbuild failed, see above"
}

mkdir -p "$out"
rm -f "$out"/tychod-*.noarch.rpm
mv "$work/top/RPMS/noarch/tychod-$version-1.noarch.rpm" "$out/"
echo "$out/tychod-$version-1.noarch.rpm"
