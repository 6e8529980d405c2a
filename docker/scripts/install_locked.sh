#!/usr/bin/env bash
# Makes an environment of exactly the locked packages and the given wheels, and checks it.
#   install_locked.sh ENVIRONMENT REQUIREMENTS [WHEEL...]
# With LASTTOKEN_TARGET=1 ENVIRONMENT is a plain folder for PYTHONPATH in place of a virtual
# environment: Triton's Python models run in the image's own interpreter.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: install_locked.sh ENVIRONMENT REQUIREMENTS [WHEEL...]" >&2; exit 2; }
environment=$1 requirements=$2
shift 2
quiet=(--quiet --disable-pip-version-check --no-cache-dir)
if [ "${LASTTOKEN_TARGET:-}" = 1 ]; then
  install=(python3 -m pip install "${quiet[@]}" --target "$environment" --no-warn-conflicts)
else
  python3 -m venv "$environment"
  install=("$environment/bin/python" -m pip install "${quiet[@]}")
fi
"${install[@]}" --require-hashes --only-binary :all: --no-deps --requirement "$requirements"
if [ $# -gt 0 ]; then
  "${install[@]}" --no-deps --no-index "$@"
fi
if [ "${LASTTOKEN_TARGET:-}" != 1 ]; then
  "$environment/bin/python" -m pip --disable-pip-version-check check
fi
