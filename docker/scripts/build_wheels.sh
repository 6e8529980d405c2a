#!/usr/bin/env bash
# Builds wheels of this project's packages with a locked build tool.
#   build_wheels.sh CHECKOUT OUTPUT PACKAGE...     PACKAGE: client, export or perf
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: build_wheels.sh CHECKOUT OUTPUT PACKAGE..." >&2; exit 2; }
checkout=$1 output=$2
shift 2
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
quiet=(--quiet --disable-pip-version-check --no-cache-dir)
"$tools/venv/bin/pip" install "${quiet[@]}" --require-hashes --only-binary :all: \
  --requirement "$checkout/docker/requirements/build.txt"
for package in "$@"; do
  "$tools/venv/bin/pip" wheel "${quiet[@]}" --no-deps --no-build-isolation \
    --wheel-dir "$output" "$checkout/$package"
done
