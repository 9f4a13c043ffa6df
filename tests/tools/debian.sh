#!/bin/bash
# Unpacks one package of Debian into DIR, through the mirror that apt uses on this machine, with Debian's signature
# checked. Needs no root, leaves /etc/apt and apt's own lists as they are.
#
# usage: debian.sh DIR SUITE PACKAGE[=VERSION] [SHA256]
set -euo pipefail

target=$1 suite=$2 package=$3 sha256=${4:-}

say() { echo "debian.sh: $*" >&2; }

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for needed in apt-get dpkg-deb sha256sum; do
  command -v "$needed" >/dev/null || { say "no $needed to fetch $package with"; exit 1; }
done
[[ -r $keyring ]] || { say "no $keyring to check Debian's $package with"; exit 1; }

# With lists, apt knows which of its sources is Debian; without them, a guess by path is tried: what is
# fetched from a wrong one would lack Debian's signature.
mirrors() {
  apt-get indextargets --format '$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(CREATED_BY)' 2>/dev/null |
    awk -F'|' '$2 == "Debian" && $3 == "Debian" && $4 == "Packages" { print $1 }'
  local sources=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
  cat "${sources[@]}" 2>/dev/null |
    sed -nE 's/^[[:space:]]*(deb([[:space:]]+\[[^]]*\])?|URIs:)[[:space:]]+//p' | tr -s '[:space:]' '\n' |
    grep -E '^(https?|file|mirror(\+[a-z]+)?):/' | grep -E '/debian(\.list)?/?$'
}

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state"/{lists/partial,cache/archives/partial,etc}
apt=(apt-get -q
  -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$state/etc"
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
  -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state/cache"
  -o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false
  -o Acquire::Languages=none -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any)

fetch() {
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$1" "$suite" "$keyring" \
    >"$state/etc/debian.sources"
  "${apt[@]}" update >&2 && (cd "$state" && "${apt[@]}" download "$package" >&2)
}

fetched=
while read -r mirror; do
  if fetch "$mirror"; then
    fetched=yes
    break
  fi
done < <(mirrors | awk '!seen[$0]++')
[[ -n $fetched ]] || { say "none of this machine's apt sources gave Debian's $package of $suite"; exit 1; }

packages=("$state"/*.deb)
if [[ -n $sha256 ]]; then
  echo "$sha256  ${packages[0]}" | sha256sum --check --quiet - >&2
fi
mkdir -p "$target"
dpkg-deb --extract "${packages[0]}" "$target"
