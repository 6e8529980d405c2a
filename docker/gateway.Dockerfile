# syntax=docker/dockerfile:1
# The OpenAI-compatible gateway: CPU only. Build in the checkout's root:
#   docker build -f docker/gateway.Dockerfile -t lasttoken-gateway:latest .
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN docker/scripts/build_wheels.sh . /wheels client \
 && docker/scripts/install_locked.sh /opt/lasttoken docker/requirements/gateway.txt /wheels/*.whl

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="lasttoken gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/lasttoken /opt/lasttoken
COPY docker/scripts/gateway_health.py /opt/lasttoken/bin/
ENV PATH=/opt/lasttoken/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=3 \
  CMD ["python3", "/opt/lasttoken/bin/gateway_health.py"]
ENTRYPOINT ["lasttoken", "gateway"]
