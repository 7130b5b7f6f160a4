# equifuse on a CPU, as a user without rights; it trains and serves:
#   docker build -t equifuse .
#   docker run --rm -v "$PWD/runs:/data/runs" equifuse train --data digits --fusion deq --out runs/mine
#   docker run --rm -v "$PWD/runs:/data/runs:ro" -p 8000:8000 equifuse serve runs/mine --host 0.0.0.0
# A folder that is mounted must be writable for user 1000. PyTorch's CPU wheel, for an image 4 GB smaller, is taken from
# the index of --build-arg PIP_EXTRA_INDEX_URL=<the address that pytorch.org shows for CPU>.
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY pyproject.toml constraints.txt locked.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/equifuse \
 && if [ "$(uname -m)" = x86_64 ]; then \
      /opt/equifuse/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement locked.txt; fi \
 && /opt/equifuse/bin/pip install --no-cache-dir --constraint constraints.txt ".[train,serve,explain]" \
 && /opt/equifuse/bin/python -m equifuse.kernels

FROM python:3.12-slim
COPY --from=build /opt/equifuse /opt/equifuse
RUN useradd --uid 1000 --create-home equifuse \
 && install --directory --owner equifuse /data
ENV PATH=/opt/equifuse/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["equifuse"]
CMD ["--help"]
