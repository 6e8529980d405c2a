#!/usr/bin/env bash
# Exports a model into CLAIM/KEY/repository unless it is there, one builder at a time.
#   export_once.sh CLAIM KEY [arguments of lasttoken-export]
# The folder appears by a rename when the export is whole, so whoever waits for it never sees half of it.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: export_once.sh CLAIM KEY ARGUMENT..." >&2; exit 2; }
claim=$1 key=$2
shift 2
[[ $key =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || { echo "key is '$key': letters, digits, dots, dashes and underscores" >&2; exit 2; }
exec 9>"$claim/.$key.lock"
if ! flock --nonblock 9; then
  echo "another builder works on $key; waiting for it" >&2
  flock 9
fi
if [ -d "$claim/$key" ]; then
  echo "$key is there"
  exit 0
fi
rm -rf "$claim/.$key.part" # what a builder left that was killed: the lock says that none works on it
mkdir "$claim/.$key.part"
lasttoken-export "$@" --output "$claim/.$key.part/repository" 9>&-
mv "$claim/.$key.part" "$claim/$key"
echo "exported $key"
