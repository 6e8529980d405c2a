#!/usr/bin/env bash
# Fetches the Triton of PyPI's wheel and its models' environment into a cache folder.
#   fetch_triton.sh ENVIRONMENT CACHE       ENVIRONMENT: where lasttoken is installed
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: fetch_triton.sh ENVIRONMENT CACHE" >&2; exit 2; }
"$1/bin/python" - "$2" <<'PYTHON'
import sys
from pathlib import Path

from lasttoken.local.program import find_program
from lasttoken.local.server_environment import REQUIREMENTS

cache = Path(sys.argv[1])
cache.mkdir(parents=True, exist_ok=True)
program = find_program(cache, None, REQUIREMENTS, lambda text: print(text, file=sys.stderr))
print(program.path)
PYTHON
