# A server for an exported artifact, which is mounted at /model; no torch inside.
FROM python:3.13-slim

# OpenMP, which OpenVINO computes with; Debian's servers keep no older version of it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[serve]' && rm -rf /src

RUN useradd --create-home --uid 1000 server
USER 1000
WORKDIR /home/server

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["flexdetr", "serve"]
# Inside the container every address is meant: what is reachable from outside, --publish decides.
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
