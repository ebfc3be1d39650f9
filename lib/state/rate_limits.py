"""`budgets/`: the calls that the instances of a credential have told one another of; one object a credential.

A damaged one is made again: nothing is known of the other instances' calls, until they tell, or a 429 does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, NamedTuple

from msgspec import Meta

from lib.errors import DamagedError
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "budgets/"
_MOST = 100_000
"""More calls in a step than any credential has: such a number is damage."""


class Step(NamedTuple):
    """Calls of a few seconds, told as one number."""

    at: float
    """Unix seconds, as late as the calls can have been."""
    calls: Annotated[int, Meta(ge=0, le=_MOST)]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What the instances of a credential have told."""

    holders: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    """The calls of each instance, in order of time."""
    strict_at: float | None = None
    """When a 429 showed last that bursts are refused, Unix seconds."""
    blocked_until: float = 0.0
    """No call before, Unix seconds."""
    told_at: float | None = None
    """When the two above were told, Unix seconds."""


RATE_LIMIT = Codec(RateLimit, "a credential's calls", later=("told_at",))


def rate_limit_key(client_id: str) -> str:
    """Where the calls of the credential are; the key does not tell the client id."""
    return f"{PREFIX}{sha256(client_id.encode()).hexdigest()[:16]}.json"


class RateLimits:
    """A store's rate limits."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, client_id: str) -> tuple[RateLimit, int]:
        """What was told of the credential, and the generation of its object; of a damaged one nothing is known."""
        key = rate_limit_key(client_id)
        stored = self._store.read(key)
        if stored is None:
            return RateLimit(), ABSENT
        try:
            return RATE_LIMIT.decode(stored.body), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, key, stored.body, error)
            return RateLimit(), stored.generation

    def write(self, client_id: str, limit: RateLimit, generation: int) -> int:
        """Tell the others; ConflictError where another instance was quicker."""
        return self._store.write(rate_limit_key(client_id), RATE_LIMIT.encode(limit), expected=generation)
