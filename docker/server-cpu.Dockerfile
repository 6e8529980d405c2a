# syntax=docker/dockerfile:1
# A server for laptops and tests: the Triton of PyPI's wheel (24.10, with known vulnerabilities) on the
# CPU. Publish its ports on loopback only. Build in the checkout's root:
#   docker build -f docker/server-cpu.Dockerfile -t lasttoken-server-cpu:latest .
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libpython3.11 python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN docker/scripts/build_wheels.sh . /wheels client export \
 && docker/scripts/install_locked.sh /opt/lasttoken docker/requirements/exporter.txt /wheels/*.whl
# Triton and the environment of its Python models, fetched now so that the server starts offline.
RUN docker/scripts/fetch_triton.sh /opt/lasttoken /opt/lasttoken-cache

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="lasttoken server for the CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libpython3.11 python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/lasttoken /opt/lasttoken
COPY --from=packages /opt/lasttoken-cache /opt/lasttoken-cache
COPY docker/scripts/probe.py /opt/lasttoken/bin/
COPY client/src/lasttoken/local/check_repository.py /opt/lasttoken/bin/
ENV PATH=/opt/lasttoken/bin:$PATH \
    LASTTOKEN_CACHE=/opt/lasttoken-cache
USER 1000:1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=30s --timeout=15s --start-period=2m --retries=3 \
  CMD ["/bin/sh", "-c", "exec python3 /opt/lasttoken/bin/probe.py \"${MODEL:-smollm2_135m}\""]
ENTRYPOINT ["lasttoken", "serve", "--host", "0.0.0.0"]
CMD ["/models"]
