"""Heavy work beside the page: a process of its own with low priority, a time limit, a memory limit, and progress.

The two processes share a private folder. `order.json` is the request, `progress.txt` the progress, and `answer.json`
the result. `emulator/web/work.py` is the other process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emulator.runtime import process
from lib.errors import ConnectorError

ORDER, PROGRESS, ANSWER, LOG = "order.json", "progress.txt", "answer.json", "log.txt"
POLL_SECONDS = 0.2


class WorkError(ConnectorError):
    """The work ended without a result."""

    code = "work_failed"
    title = "The work could not be done"
    remedy = "The log says why."


@contextmanager
def folder() -> Iterator[Path]:
    """A private folder. It is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="sophos-utmstack-") as name:
        yield Path(name)


def work(
    place: Path,
    order: Mapping[str, Any],
    env: Mapping[str, str],
    *,
    seconds: float,
    on_progress: Callable[[str], None],
    is_over: Callable[[], bool] = lambda: False,
) -> Any:
    """Run the order in a process and return its answer; WorkError if there is none within `seconds`.

    The calling thread must outlive the process: the kernel ends a child when the thread that started it ends.
    """
    (place / ORDER).write_text(json.dumps(order), "utf-8")
    command = [sys.executable, "-P", "-m", "emulator.web.work", str(place)]
    child = process.launch(command, env, place / LOG)
    end, reported = time.monotonic() + seconds, ""
    try:
        while not _has_ended(child):
            with suppress(OSError):
                if (text := (place / PROGRESS).read_text("utf-8")) != reported:
                    on_progress(reported := text)
            if is_over():
                raise WorkError("The connector is stopping.")
            if time.monotonic() > end:
                raise WorkError(f"It took more than {seconds:.0f} s and was stopped.", remedy="Choose fewer events.")
    finally:
        if child.poll() is None:
            process.stop(child, 1.0)
    return _answer(place)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        child.wait(POLL_SECONDS)
        return True
    return False


def _answer(place: Path) -> Any:
    try:
        answer = json.loads((place / ANSWER).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        log = (place / LOG).read_text("utf-8", "replace").strip().splitlines()
        raise WorkError(f"It ended without an answer: {log[-1][:300] if log else 'nothing is known'}.") from None
    if "problem" in answer:
        raise WorkError(answer["problem"]["detail"], remedy=answer["problem"]["remedy"])
    return answer["found"]
