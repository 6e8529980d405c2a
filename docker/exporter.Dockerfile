# syntax=docker/dockerfile:1
# The exporter and engine builder: it has the TensorRT of the server, since a plan runs only with the
# version that built it. Build in the checkout's root:
#   docker build -f docker/exporter.Dockerfile -t lasttoken-exporter:latest .
# Use the same TRITON_IMAGE as for the server.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3

FROM ${TRITON_IMAGE} AS packages
WORKDIR /build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY . .
RUN docker/scripts/build_wheels.sh . /wheels export \
 && docker/scripts/install_locked.sh /opt/lasttoken docker/requirements/exporter.txt /wheels/*.whl
ARG TENSORRT=image
RUN if [ "${TENSORRT}" = image ]; then \
      docker/scripts/install_tensorrt.sh "$(/opt/lasttoken/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
    fi

FROM ${TRITON_IMAGE}
LABEL org.opencontainers.image.title="lasttoken exporter" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/lasttoken /opt/lasttoken
COPY docker/scripts/export_once.sh /opt/lasttoken/bin/
ENV PATH=/opt/lasttoken/bin:$PATH \
    LASTTOKEN_CACHE=/cache
USER 1000:1000
ENTRYPOINT ["lasttoken-export"]
CMD ["--help"]
