#!/usr/bin/env bash
# Prints a folder in which tests find what they need to ask Terraform about AWS without AWS's provider: `schema.tgz`, the
# package that tests/aws_schema.py reads, and `venv`, whose Python can run tests/schema_provider.py. $1 is where to make
# it, $2 the Python to do it with.
set -euo pipefail

folder=${1:?folder}/terraform python=${2:?python}
readonly package=cdktf-cdktf-provider-aws==21.22.1  # of provider 6.25.0
readonly plugin=(tf==1.2.0 'protobuf>=5.28.3,<6' 'grpcio>=1.67,<2' 'msgpack>=1.1,<2' 'cryptography>43')

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [[ ! -e $folder/schema.tgz ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
  "$python" - "$work" "$folder/schema.tgz" <<'PYTHON'
import os, pathlib, sys, zipfile
work, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    part = target.with_name(f"schema.tgz.{os.getpid()}")
    part.write_bytes(wheel.read(name))
    part.replace(target)
PYTHON
fi
if [[ ! -e $folder/venv/complete ]]; then
  "$python" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${plugin[@]}" >&2
  touch "$folder/venv/complete"
fi
echo "$folder"
