#!/bin/bash
# Prints the path of a Consul binary for the tests: $CONSUL_BIN, or `consul` on PATH, or DIR/consul, which
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

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
sha256=
if [[ $(dpkg --print-architecture) == amd64 ]]; then sha256=$sha256_amd64; fi
"$tools/debian.sh" "$state" "$suite" "consul=$version" "$sha256" || { say "no consul here: set CONSUL_BIN"; exit 1; }
mkdir -p "$directory"
# Beside the target first: another run may be doing the same, and a half-copied binary must never be found.
install -m 0755 "$state/usr/bin/consul" "$directory/.consul.$$"
mv "$directory/.consul.$$" "$directory/consul"
works "$directory/consul" || { say "Debian's consul does not run on this machine: set CONSUL_BIN"; exit 1; }
echo "$(cd "$directory" && pwd)/consul"
