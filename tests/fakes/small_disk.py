"""A store on a disk that is too small, then large enough, then read-only; to be run by `unshare -rm`.

Its own mount namespace keeps the disk from everybody else. Arguments: a folder, the engine's socket, Sophos's URL.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import requests

from lib.errors import StoreError
from lib.state.state import State
from lib.store.directory import DirectoryStore
from tests.audited import audit
from tests.fakes.dying import Life, live


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def lived(life: Life) -> list[str]:
    """The codes of the problems that a run met."""
    try:
        _, answers = live(life)
    except StoreError as error:
        return [error.code]
    return sorted({line["problem"]["code"] for line in answers if "problem" in line})


def main() -> None:
    folder = Path(sys.argv[1])
    life = Life(str(folder), sys.argv[2], sys.argv[3])
    told: dict[str, object] = {}
    mount(folder, "size=300k")
    told["full"] = [lived(life) for _ in range(3)]
    store = DirectoryStore(folder)
    told["leftovers"] = len(list((folder / ".tmp").iterdir()))
    told["damaged"] = [finding for line in audit(State.of(store))["streams"] for finding in line["findings"]]
    mount(folder, "remount,size=30m")
    told["large"] = [lived(life) for _ in range(2)]
    mount(folder, "remount,ro")
    told["idle"] = lived(life)
    requests.post(f"{life.url}/_control/append", json={"count": 5}, timeout=10).raise_for_status()
    told["read_only"] = lived(life)
    mount(folder, "remount,rw")
    told["again"] = lived(life)
    told["audit"] = audit(State.of(store))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
