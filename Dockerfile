# The connector: the emulator with the three functions, as a user of its own, on a read-only file system.
#   docker build -t sophos-utmstack:0.2.0 .
#   docker run --read-only -v …:/etc/sophos-utmstack:ro -v …:/var/lib/sophos-utmstack sophos-utmstack:0.2.0
# One function alone (Knative, Cloud Run): give, in place of the entry point,
#   python -m functions_framework --source functions/fetch_page/main.py --target fetch_page --host 0.0.0.0 --port 8080
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS python
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*

FROM python AS packages
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
COPY requirements.lock /
# Without a registry: PIP="--no-index --find-links /wheels", and the folder as a volume of the build.
ARG PIP=""
RUN python3 -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes ${PIP} -r /requirements.lock \
 && /venv/bin/pip check \
 && /venv/bin/pip uninstall --yes --quiet pip
COPY lib /app/lib
COPY functions /app/functions
COPY emulator /app/emulator
# For the operator's page.
COPY README.md /app/README.md
COPY docs /app/docs
# Readable for everybody, whatever umask the checkout was made under. Compiled by content: the same bytes each time.
RUN chmod -R u=rwX,go=rX /app \
 && find /venv /app -name __pycache__ -prune -exec rm -rf {} + \
 && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /venv/lib /app

FROM python
RUN groupadd --system --gid 10001 connector \
 && useradd --system --uid 10001 --gid connector --no-create-home --home-dir /nonexistent connector \
 && rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- \
 && install -d -o connector -g connector -m 0700 /var/lib/sophos-utmstack
COPY --from=packages /venv /venv
COPY --from=packages /app /app
WORKDIR /app
# gunicorn, under a hosted function, needs a place for its heartbeat; this one can be written on a read-only file system too.
ENV TMPDIR=/dev/shm XDG_RUNTIME_DIR=/dev/shm
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SOPHOS_UTMSTACK_CONFIG=/etc/sophos-utmstack/connector.yaml
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "emulator"]
CMD ["run"]
