"""A process that is told to end more than once ends."""

import os
import subprocess
import sys

import pytest

from tests.site import ROOT

# Each signal is sent from within the handler of the one before, at each of its lines.
TOLD_AGAIN_WHILE_IT_IS_TOLD = """
import os, signal, sys
from emulator.ending import EndRequest

request = EndRequest()
assert not request.wait(0)
left = 20

def again(frame, event, argument):
    global left
    if left:
        left -= 1
        os.kill(os.getpid(), signal.{name})
    return again

sys.settrace(again)
os.kill(os.getpid(), signal.{name})
assert request.wait()
sys.settrace(None)
assert request.wait(0)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_within_the_handler_of_a_signal_are_taken(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOLD_AGAIN_WHILE_IT_IS_TOLD.replace("{name}", name)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
