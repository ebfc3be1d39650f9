"""The codec of stored objects in many threads."""

import os
import subprocess
import sys

from tests.site import ROOT

TWO_THREADS_AT_ONCE = """
import threading
from dataclasses import dataclass

from lib.state.codec import Codec

learns, go = threading.Event(), threading.Event()


def number():
    \"\"\"The type of a field, which a thread needs its time to learn.\"\"\"
    if threading.current_thread() is not threading.main_thread():
        learns.set()
        assert go.wait(60)
    return int


@dataclass(frozen=True, slots=True)
class Inner:
    x: "number()"


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    name: str


codec, found = Codec(Outer, "an object"), []


def read():
    found.append(codec.decode(b'{"layout": 1, "inner": {"x": 1}, "name": "a"}').inner.x)


first, second = threading.Thread(target=read), threading.Thread(target=read)
first.start()
while first.is_alive() and not learns.wait(0.01):
    continue
second.start()
second.join(1)
go.set()
first.join()
second.join()
print(found)
"""


def test_two_threads_read_the_first_objects_of_a_kind_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS_AT_ONCE],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[1, 1]\n"), done.stderr
