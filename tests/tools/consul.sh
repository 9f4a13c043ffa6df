#!/bin/bash
# Prints the path of a Consul binary for the tests: $CONSUL_BIN, or `consul` on PATH, or DIR/consul, which
# is fetched when it is missing: Debian's package, through the mirror that apt uses on this machine.
# Needs no root, leaves /etc/apt and apt's own lists as they are.
#
# usage: consul.sh [DIR]          (default: .tools in the repository)
set -euo pipefail

version=1.8.7+dfsg1-2+b3
suite=bullseye # the last Debian release that has the package
sha256_amd64=e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9

say() { echo "consul.sh: $*" >&2; }
works() { [[ -x $1 ]] && "$1" version >/dev/null 2>&1; }

directory=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.tools}

if [[ -n ${CONSUL_BIN:-} ]]; then
  works "$CONSUL_BIN" || { say "CONSUL_BIN is set to $CONSUL_BIN, which is no working consul"; exit 1; }
  echo "$CONSUL_BIN"
  exit
fi
if on_path=$(command -v consul) && works "$on_path"; then
  echo "$on_path"
  exit
fi
if works "$directory/consul"; then
  echo "$(cd "$directory" && pwd)/consul"
  exit
fi

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for needed in apt-get dpkg-deb sha256sum; do
  command -v "$needed" >/dev/null || { say "no consul here and no $needed to fetch it with: set CONSUL_BIN"; exit 1; }
done
[[ -r $keyring ]] || { say "no consul here and no $keyring to check Debian's with: set CONSUL_BIN"; exit 1; }

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
  "${apt[@]}" update >&2 && (cd "$state" && "${apt[@]}" download "consul=$version" >&2)
}

fetched=
while read -r mirror; do
  if fetch "$mirror"; then
    fetched=yes
    break
  fi
done < <(mirrors | awk '!seen[$0]++')
[[ -n $fetched ]] || { say "none of this machine's apt sources gave Debian's consul $version: set CONSUL_BIN"; exit 1; }

packages=("$state"/consul_*.deb)
if [[ $(dpkg --print-architecture) == amd64 ]]; then
  echo "$sha256_amd64  ${packages[0]}" | sha256sum --check --quiet - >&2
fi
dpkg-deb --extract "${packages[0]}" "$state/package"
mkdir -p "$directory"
# Beside the target first: another run may be doing the same, and a half-copied binary must never be found.
install -m 0755 "$state/package/usr/bin/consul" "$directory/.consul.$$"
mv "$directory/.consul.$$" "$directory/consul"
works "$directory/consul" || { say "Debian's consul does not run on this machine: set CONSUL_BIN"; exit 1; }
echo "$(cd "$directory" && pwd)/consul"
