"""The audit as `audit --json` tells it."""

from typing import Any

from lib import answers
from lib.pipeline import audit as audits
from lib.state.state import State


def audit(state: State, since: str = "") -> dict[str, Any]:
    """Every stream's chain from that day on, as JSON fields."""
    return answers.audited(audits.audit(state, since))
