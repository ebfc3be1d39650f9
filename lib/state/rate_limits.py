"""`budgets/`: the calls that the instances of a credential publish to one another; one object for each credential.

A damaged object is replaced by an empty one. The other instances' calls are unknown until they publish again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, NamedTuple

from msgspec import Meta

from lib.errors import DamagedError
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "budgets/"
_MOST = 100_000
"""The limit of calls in a step. No credential has more; a greater number is damage."""


class CallCount(NamedTuple):
    """The calls of a few seconds as one number."""

    at: float
    """The latest possible time of the calls, in Unix seconds."""
    calls: Annotated[int, Meta(ge=0, le=_MOST)]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The published calls of a credential's instances."""

    holders: Mapping[str, tuple[CallCount, ...]] = field(default_factory=dict)
    """The calls of each instance, in order of time."""
    strict_at: float | None = None
    """The time of the last 429, after which bursts are off, in Unix seconds."""
    blocked_until: float = 0.0
    """No call may go before this time, in Unix seconds."""
    told_at: float | None = None
    """The time at which the two fields above were written, in Unix seconds."""


RATE_LIMIT = Codec(RateLimit, "a credential's calls", later=("told_at",))


def rate_limit_key(client_id: str) -> str:
    """The key of the credential's calls. It does not reveal the client id."""
    return f"{PREFIX}{sha256(client_id.encode()).hexdigest()[:16]}.json"


class RateLimits:
    """A store's rate limits."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, client_id: str) -> tuple[RateLimit, int]:
        """The published calls with their generation. A damaged object is copied to `dead/` and reads as empty."""
        key = rate_limit_key(client_id)
        stored = self._store.read(key)
        if stored is None:
            return RateLimit(), ABSENT
        try:
            return RATE_LIMIT.decode(stored.body), stored.generation
        except DamagedError as error:
            copy_damaged_to_dead(self._store, key, stored.body, error)
            return RateLimit(), stored.generation

    def write(self, client_id: str, limit: RateLimit, generation: int) -> int:
        """Publish the calls; return the new generation. ConflictError if another instance wrote first."""
        return self._store.write(rate_limit_key(client_id), RATE_LIMIT.encode(limit), expected=generation)
