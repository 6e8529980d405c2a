#!/usr/bin/env bash
# Runs Triton with what a production server needs and nothing that it does not.
#   serve.sh [further arguments of tritonserver]
# Environment:
#   MODEL_REPOSITORY     folder of the models (/models)
#   TLS_FOLDER           folder with tls.crt and tls.key, and ca.crt to ask clients for certificates;
#                        empty: no TLS
#   EXIT_TIMEOUT_S       how long requests in flight may take at shutdown (30)
#   CONNECTION_AGE_MS    after which clients are asked to reconnect, so that new replicas get load (0: never)
#   CLOSED_APIS          protocols that nobody may call (shared-memory,statistics,trace,logging)
#   OTLP_ENDPOINT        where traces go, by OTLP over HTTP, such as http://collector:4318; empty: none
#   TRACE_RATE           one request of so many is traced; one that brings its caller's trace always (1000)
#   DRY_RUN              print the command and stop
set -euo pipefail
repository=${MODEL_REPOSITORY:-/models}
[ -d "$repository" ] || { echo "no model repository at $repository: mount one, or set MODEL_REPOSITORY" >&2; exit 1; }
# These calls are for nobody: whoever has the secret of this start, which is not kept anywhere. The
# repository's index and the configuration stay open: clients list models and read their cards
# there, and loading and unloading are refused by the model control mode.
closed=${CLOSED_APIS:-shared-memory,statistics,trace,logging}
nobody="nobody=$(head -c 24 /dev/urandom | base64 | tr -d '=+/')"
arguments=(
  "--model-repository=$repository"
  --model-control-mode=none
  --exit-on-error=true
  --strict-readiness=true
  --disable-auto-complete-config
  --allow-sagemaker=false
  --allow-vertex-ai=false
  "--exit-timeout-secs=${EXIT_TIMEOUT_S:-30}"
  "--grpc-restricted-protocol=$closed:$nobody"
  "--http-restricted-api=$closed:$nobody"
  --grpc-keepalive-time=30000
)
help=$(tritonserver --help 2>&1 || true) # not through a pipe: grep would close it on the program
if [[ $help == *--allow-client-shm* ]]; then
  arguments+=(--allow-client-shm=false)
fi
if [ "${CONNECTION_AGE_MS:-0}" != 0 ]; then
  arguments+=("--grpc-max-connection-age=$CONNECTION_AGE_MS" --grpc-max-connection-age-grace=60000)
fi
if [ -n "${TLS_FOLDER:-}" ]; then
  for file in tls.crt tls.key; do
    [ -r "$TLS_FOLDER/$file" ] || { echo "TLS_FOLDER is $TLS_FOLDER, which has no readable $file" >&2; exit 1; }
  done
  arguments+=(--grpc-use-ssl=1 "--grpc-server-cert=$TLS_FOLDER/tls.crt" "--grpc-server-key=$TLS_FOLDER/tls.key")
  if [ -e "$TLS_FOLDER/ca.crt" ]; then
    arguments+=(--grpc-use-ssl-mutual=1 "--grpc-root-cert=$TLS_FOLDER/ca.crt")
  fi
fi
if [ -n "${OTLP_ENDPOINT:-}" ]; then
  arguments+=(
    --trace-config=mode=opentelemetry
    "--trace-config=opentelemetry,url=${OTLP_ENDPOINT%/}/v1/traces"
    --trace-config=opentelemetry,resource=service.name=lasttoken-triton
    "--trace-config=rate=${TRACE_RATE:-1000}"
    --trace-config=level=TIMESTAMPS
  )
fi
if [ -n "${DRY_RUN:-}" ]; then
  printf '%s\n' tritonserver "${arguments[@]/$nobody/nobody=...}" "$@"
  exit 0
fi
exec tritonserver "${arguments[@]}" "$@"
