"""The objects below `charts/`: the page makes them, and can make them again.

A damaged one is copied to `dead/`, so that `status` names it, and counts as absent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from lib.errors import ConflictError, DamagedError, KeptError
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 4
"""How often an object is read and written again if another connector writes it at the same time."""


def load_object(store: ObjectStore, key: str, decode: Callable[[bytes], T]) -> tuple[T | None, int]:
    """The object, or None, and its generation. KeptError if it cannot be read, though it may be whole."""
    stored = store.read(key)
    if stored is None:
        return None, ABSENT
    try:
        return decode(stored.body), stored.generation
    except DamagedError as error:
        copy_damaged_to_dead(store, key, stored.body, error)
        return None, stored.generation


def read_object(store: ObjectStore, key: str, decode: Callable[[bytes], T]) -> T | None:
    """The object; None if there is none, or a damaged one; KeptError for a newer layout."""
    return load_object(store, key, decode)[0]


def update_object(
    store: ObjectStore,
    key: str,
    codec: Codec[T],
    update: Callable[[T | None], T | None],
    decode: Callable[[bytes], T] | None = None,
) -> None:
    """Write what `update` makes of the object; nothing if it makes None, or if the object is kept.

    If another connector writes it at the same time, `update` is called again with the new content; ConflictError if
    that goes on. `decode`: what reads the codec's older layouts too.
    """
    for left in reversed(range(TRIES)):
        try:
            content, generation = load_object(store, key, decode or codec.decode)
        except KeptError as error:
            log.warning("%s is not written: %s", key, error)
            return
        updated = update(content)
        try:
            if updated is not None:
                store.write(key, codec.encode(updated), expected=generation)
        except ConflictError:
            if not left:
                raise
        else:
            return
