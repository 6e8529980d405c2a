#!/usr/bin/env bash
# Installs TensorRT's Python bindings of exactly the version of the image's library.
#   install_tensorrt.sh TARGET
# NVIDIA's package index holds the real packages; those on PyPI only point there.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: install_tensorrt.sh TARGET" >&2; exit 2; }
version=$(python3 "$(dirname "$0")/match_tensorrt.py")
python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --target "$1" \
  --extra-index-url https://pypi.nvidia.com "tensorrt-cu13-bindings==$version.*"
# They are the module tensorrt_bindings; "tensorrt" comes with a package that would bring libraries
# of its own, of some gigabytes, in place of the image's.
if [ ! -e "$1/tensorrt/__init__.py" ]; then
  mkdir -p "$1/tensorrt"
  printf 'from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n' > "$1/tensorrt/__init__.py"
fi
PYTHONPATH="$1" python3 -c "
import sys, tensorrt
library = '$version'
assert tensorrt.__version__.startswith(library), f'bindings {tensorrt.__version__}, library {library}'
"
