#!/bin/sh
# Unpacks a Debian (or Ubuntu) package's files into a folder, without installing it and without root.
#
#   get_debian_headers.sh PACKAGE DESTINATION
#
# Used for ONNX Runtime's C headers, which no wheel carries, and for Highway's. The package is looked
# for in this machine's own suite first, then in newer suites of the same mirror: headers do not
# depend on the system's libraries. apt checks signatures as always.
set -eu

if [ $# -ne 2 ]; then
  echo "usage: $0 PACKAGE DESTINATION" >&2
  exit 2
fi
package=$1
destination=$2

for tool in apt-get dpkg; do
  if ! command -v "$tool" > /dev/null; then
    echo "$0: no $tool: this finder needs Debian or Ubuntu; give the headers' folder to cmake instead" >&2
    exit 1
  fi
done

# The first mirror this machine trusts for the distribution itself.
target=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' \
  | awk '$3 == "Debian" || $3 == "Ubuntu" { print; exit }')
if [ -z "$target" ]; then
  echo "$0: apt has no Debian or Ubuntu source on this machine" >&2
  exit 1
fi
# shellcheck disable=SC2086
set -- $target
mirror=$1
own_suite=$2
case $3 in
  Debian) suites="$own_suite trixie forky sid" component=main ;;
  *) suites="$own_suite questing" component=universe ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts"
[ "$(id -u)" -ne 0 ] || chmod 755 "$work"

run_apt() {
  apt-get -q -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/parts" \
    -o APT::Sandbox::User= "$@"
}

for suite in $suites; do
  echo "deb $mirror $suite $component" > "$work/sources.list"
  if run_apt update > "$work/log" 2>&1 && (cd "$work" && run_apt download "$package" > log 2>&1); then
    mkdir -p "$destination"
    dpkg -x "$work/$package"_*.deb "$destination"
    echo "$package of $suite unpacked in $destination"
    exit 0
  fi
done
cat "$work/log" >&2
echo "$0: package $package is in none of the suites: $suites" >&2
exit 1
