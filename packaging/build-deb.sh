#!/usr/bin/env bash
# Builds the Debian package from the working tree, outside of it, and puts it into dist/.
#
#   packaging/build-deb.sh [--suffix TEXT] [--out DIRECTORY]
#
# TEXT is appended to the version: +1 makes a package that upgrades one from the same tree. The same source
# gives the same bytes (SOURCE_DATE_EPOCH, else the commit's time).
set -euo pipefail

cd "$(dirname "$0")/.."
. packaging/common.sh

suffix=
out=dist
while (($#)); do
    case $1 in
        --suffix) suffix=${2:?} ;;
        --out) out=${2:?} ;;
        *) fail "unknown option $1; the comment at the top of packaging/build-deb.sh lists them" ;;
    esac
    shift 2
done

need_tools dpkg-buildpackage=dpkg-dev dh=debhelper dh_python3=dh-python python3=python3

version=$(read_version)$suffix
epoch=$(read_epoch)
work=$(mktemp -d "${TMPDIR:-/tmp}/tychod-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tychod-$version

export_tree "$tree" "$epoch"
vendor_modules "$tree" "$epoch"
cp -a "$tree/packaging/deb" "$tree/debian"
cat >"$tree/debian/changelog" <<END
tychod ($version) unstable; urgency=medium

  * Built from the source tree; see CHANGELOG.md.

 -- Tycho developers <maintainers@tychod.invalid>  $(date -u -R -d "@$epoch")
END

log=$work/build.log
(cd "$tree" && SOURCE_DATE_EPOCH=$epoch LC_ALL=C.UTF-8 dpkg-buildpackage -b -us -uc) >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    fail "dpkg-buildpackage failed, see above"
}

mkdir -p "$out"
rm -f "$out"/tychod_*_all.deb
mv "$work/tychod_${version}_all.deb" "$out/"
echo "$out/tychod_${version}_all.deb"
