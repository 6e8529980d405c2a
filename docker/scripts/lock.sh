#!/usr/bin/env bash
# Writes the hashed requirements of the images anew. Needs uv and the network.
#   docker/scripts/lock.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
hashed=(--quiet --no-emit-index-url --generate-hashes --only-binary :all:)
compile() { # NAME PYTHON
  uv pip compile "${hashed[@]}" --python-version "$2" --python-platform x86_64-manylinux_2_28 \
    --custom-compile-command docker/scripts/lock.sh \
    --output-file "docker/requirements/$1.txt" "docker/requirements/$1.in"
}
compile build 3.11
compile server-gpu 3.12
# The others are what uv.lock already pins, without this workspace's own packages.
exported=(--quiet --locked --no-dev --no-emit-workspace --format requirements.txt)
uv export "${exported[@]}" --package lasttoken --extra gateway --extra tracing \
  --output-file docker/requirements/gateway.txt >/dev/null
uv export "${exported[@]}" --package lasttoken-export \
  --output-file docker/requirements/exporter.txt >/dev/null
