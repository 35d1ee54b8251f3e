# The server. `docker build .` makes it with torch's default build, which is the one for CUDA;
# `--build-arg TORCH_INDEX_URL=URL` takes torch, and nothing else, from another index, such as PyTorch's own for CPUs.

FROM python:3.11-slim-bookworm AS dependencies
# Without pip: the image has no use for it.
RUN python -m venv --without-pip /opt/archscore
WORKDIR /build
COPY deploy/requirements.txt ./
RUN pip --python /opt/archscore/bin/python install --no-cache-dir --no-deps --require-hashes -r requirements.txt
# By hash as well, of the files of both indexes: the one that pip takes from where it is told to must be one of them. The
# last command finds torch in place, and adds what this build of it needs besides: nothing, or the libraries of CUDA in
# the versions that torch pins.
COPY deploy/requirements-torch.txt ./
ARG TORCH_INDEX_URL
# hadolint ignore=DL3013
RUN sed 's/ --hash.*//' requirements-torch.txt > torch.txt \
 && pip --python /opt/archscore/bin/python download --no-cache-dir --no-deps \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --dest torch -r torch.txt \
 && pip --python /opt/archscore/bin/python install --no-cache-dir --no-deps --require-hashes \
      --no-index --find-links torch -r requirements-torch.txt \
 && rm -r torch \
 && pip --python /opt/archscore/bin/python install --no-cache-dir \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch

FROM dependencies AS archscore
# The kernels for CPUs are compiled here; the image itself has no compiler.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/requirements-build.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes --target /opt/hatchling -r requirements-build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY client client
COPY server server
# Into a prefix of its own, which becomes a small layer over the large one of the dependencies.
RUN ARCHSCORE_KERNELS=require PYTHONPATH=/opt/hatchling pip --python /opt/archscore/bin/python install \
      --no-cache-dir --no-deps --no-build-isolation --prefix /opt/layer .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="archscore-server" \
      org.opencontainers.image.description="Zero-cost scores for untrained neural architectures, served over gRPC" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# By number, so that Kubernetes can tell that it is not root. A volume takes over the owner of its directory.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/archscore archscore \
 && install --directory --owner archscore --group archscore --mode 0750 /var/lib/archscore
COPY --from=dependencies /opt/archscore /opt/archscore
COPY --from=archscore /opt/layer /opt/archscore
# A container's loopback is reached by nobody else, so the server listens on every address: it then wants TLS and
# tokens, or ARCHSCORE_INSECURE. Utility is the driver's library that NVML reads.
ENV PATH=/opt/archscore/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ARCHSCORE_HOST=0.0.0.0 \
    ARCHSCORE_METRICS_HOST=0.0.0.0 \
    ARCHSCORE_STORE=/var/lib/archscore/scores.sqlite \
    ARCHSCORE_CACHE_DIR=/var/lib/archscore
WORKDIR /var/lib/archscore
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=3 CMD ["archscore-server", "health"]
ENTRYPOINT ["archscore-server"]
