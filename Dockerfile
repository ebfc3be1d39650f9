# The connector: the emulator with the three functions, as a user of its own, on a read-only file system.
#   docker build -t sophos-utmstack:0.1.0 .
#   docker run --read-only -v …:/etc/sophos-utmstack:ro -v …:/var/lib/sophos-utmstack sophos-utmstack:0.1.0
# One function alone (Knative, Cloud Run): give, in place of the entry point,
#   python -m functions_framework --source functions/fetch_page/main.py --target fetch_page --host 0.0.0.0 --port 8080
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS packages
COPY requirements.txt requirements.lock /
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check -r /requirements.txt -c /requirements.lock \
 && /venv/bin/pip check \
 && /venv/bin/pip uninstall --yes --quiet pip

FROM python:${PYTHON}-slim-bookworm
RUN groupadd --system --gid 10001 connector \
 && useradd --system --uid 10001 --gid connector --no-create-home --home-dir /nonexistent connector \
 && install -d -o connector -g connector -m 0700 /var/lib/sophos-utmstack
COPY --from=packages /venv /venv
WORKDIR /app
COPY lib lib
COPY functions functions
COPY emulator emulator
# gunicorn, under each function, needs a place for its heartbeat; this one can be written on a read-only file system too.
ENV TMPDIR=/dev/shm XDG_RUNTIME_DIR=/dev/shm
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SOPHOS_UTMSTACK_CONFIG=/etc/sophos-utmstack/connector.yaml
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "emulator"]
CMD ["run"]
