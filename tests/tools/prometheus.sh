#!/bin/bash
# Prints folders of prometheus and promtool for the tests, separated by colons: that of `prometheus` on PATH, if there is
# one, and DIR/prometheus-SUITE for two of Debian's, which are fetched when they are missing (debian.sh): the older one
# still has discovery by Consul, which Debian took out, the newer one discovery by HTTP.
#
# usage: prometheus.sh [DIR]          (default: .tools in the repository)
set -euo pipefail

say() { echo "prometheus.sh: $*" >&2; }
works() { "$1/prometheus" --version >/dev/null 2>&1 && "$1/promtool" --version >/dev/null 2>&1; }

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-$(cd "$tools/../.." && pwd)/.tools}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
found=()

if on_path=$(command -v prometheus) && works "$(dirname "$on_path")"; then
  found+=("$(dirname "$on_path")")
fi
for suite in bullseye bookworm; do
  folder=$directory/prometheus-$suite
  if ! works "$folder"; then
    state=$(mktemp -d)
    "$tools/debian.sh" "$state" "$suite" prometheus || { rm -rf "$state"; say "no prometheus of $suite"; exit 1; }
    mkdir -p "$folder"
    # Beside the target first: another run may be doing the same, and a half-copied binary must never be found.
    for program in prometheus promtool; do
      install -m 0755 "$state/usr/bin/$program" "$folder/.$program.$$"
      mv "$folder/.$program.$$" "$folder/$program"
    done
    rm -rf "$state"
    works "$folder" || { say "Debian's prometheus of $suite does not run on this machine"; exit 1; }
  fi
  found+=("$folder")
done
(IFS=: && echo "${found[*]}")
