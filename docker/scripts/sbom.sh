#!/usr/bin/env bash
# Writes a CycloneDX list (JSON) of the locked Python packages of each image.
#   sbom.sh FOLDER
# Needs cyclonedx-py (PyPI cyclonedx-bom) on the PATH, and no network: the locked files say it all.
# What the base images bring along is not in it: scan the built image for that.
set -euo pipefail
[ $# = 1 ] || { echo "usage: sbom.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
requirements=docker/requirements
list() { # IMAGE REQUIREMENTS...
  local image=$1
  shift
  cat "$@" | cyclonedx-py requirements --output-reproducible --output-format JSON --spec-version 1.6 \
    --output-file "$folder/lasttoken-$image.cdx.json" -
  echo "$folder/lasttoken-$image.cdx.json"
}
list gateway $requirements/gateway.txt
list exporter $requirements/exporter.txt
list server $requirements/server-gpu.txt
# Beside the exporter's packages it has the environment of Triton's Python models.
list server-cpu $requirements/exporter.txt model_repository/requirements.txt
