# syntax=docker/dockerfile:1
# Triton for NVIDIA GPUs. Build in the checkout's root:
#   docker build -f docker/server.Dockerfile -t lasttoken-server:latest .
# Pin the base by digest: docker buildx imagetools inspect nvcr.io/nvidia/tritonserver:26.07-py3, then
#   --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver@sha256:...
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3

FROM ${TRITON_IMAGE} AS packages
WORKDIR /build
COPY docker/requirements docker/requirements
COPY docker/scripts docker/scripts
RUN LASTTOKEN_TARGET=1 docker/scripts/install_locked.sh /opt/lasttoken/site docker/requirements/server-gpu.txt
# "none": without TensorRT's bindings, for ONNX Runtime alone.
ARG TENSORRT=image
RUN if [ "${TENSORRT}" = image ]; then docker/scripts/install_tensorrt.sh /opt/lasttoken/site; fi

FROM ${TRITON_IMAGE}
LABEL org.opencontainers.image.title="lasttoken server" \
      org.opencontainers.image.description="Text embeddings on NVIDIA Triton, without padding" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/lasttoken/site /opt/lasttoken/site
COPY docker/scripts/serve.sh docker/scripts/probe.py /opt/lasttoken/bin/
COPY client/src/lasttoken/local/check_repository.py /opt/lasttoken/bin/
ENV PYTHONPATH=/opt/lasttoken/site \
    PYTHONDONTWRITEBYTECODE=1 \
    MODEL_REPOSITORY=/models
USER 1000:1000
EXPOSE 8000 8001 8002
# Set MODEL to the ensemble's name; without it the health check asks for readiness only.
HEALTHCHECK --interval=30s --timeout=15s --start-period=15m --retries=3 \
  CMD ["/bin/sh", "-c", "if [ -n \"$MODEL\" ]; then exec python3 /opt/lasttoken/bin/probe.py \"$MODEL\"; else exec curl -fsS -o /dev/null http://127.0.0.1:8000/v2/health/ready; fi"]
ENTRYPOINT ["/opt/lasttoken/bin/serve.sh"]
