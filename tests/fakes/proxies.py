"""Real reverse proxies on loopback, with what the documents say to write into their configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.site import ROOT, free_port, until

UPSTREAM = "127.0.0.1:8080"
"""Where the connector is, in the documents' examples."""
NAME = "connector.example.com"
"""What the documents' examples call the proxy."""


def example(language: str) -> str:
    """The documents' example for a proxy."""
    text = (ROOT / "docs/configuration.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (wanted,) = (each for each in found if UPSTREAM in each)
    return str(wanted)


@contextmanager
def nginx(location: str, upstream: str, folder: Path) -> Iterator[str]:
    """nginx with that `location` block; its URL."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{ listen 127.0.0.1:{port}; {location.replace(UPSTREAM, upstream)} }}
        }}
        """
    )
    command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with _running(command, f"http://127.0.0.1:{port}", {}) as url:
        yield url


@contextmanager
def caddy(site: str, upstream: str, folder: Path) -> Iterator[str]:
    """Caddy with that site, without TLS; its URL."""
    port = free_port()
    text = site.replace(UPSTREAM, upstream).replace(f"{NAME} {{", f"http://:{port} {{\n\tbind 127.0.0.1")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{text}")
    homes = {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with _running(command, f"http://127.0.0.1:{port}", homes) as url:
        yield url


@contextmanager
def traefik(dynamic: str, upstream: str, folder: Path) -> Iterator[str]:
    """Traefik with those routers and services, under any name; its URL."""
    port = free_port()
    text = dynamic.replace(UPSTREAM, upstream).replace(f"Host(`{NAME}`)", "PathPrefix(`/`)")
    (folder / "dynamic.yaml").write_text(text)
    command = [
        "traefik", "--global.checknewversion=false", f"--entrypoints.web.address=127.0.0.1:{port}",
        f"--providers.file.filename={folder}/dynamic.yaml", "--providers.file.watch=false",
    ]  # fmt: skip
    with _running(command, f"http://127.0.0.1:{port}", {}) as url:
        yield url


@contextmanager
def _running(command: Sequence[str], url: str, env: Mapping[str, str]) -> Iterator[str]:
    everything = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:{Path(sys.executable).parent}", **env}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=everything) as process:
        try:
            until(lambda: _answers(f"{url}/healthz"), command[0])
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False
