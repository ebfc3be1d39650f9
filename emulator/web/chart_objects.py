"""The objects below `charts/`: the page makes them, and can make them again.

A damaged one is copied to `dead/`, so that `status` names it, and counts as absent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from lib.errors import ConflictError, DamagedError, KeptError
from lib.state.codec import Codec
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 4
"""How often an object is read and written again if another connector writes it at the same time."""


def read_object(store: ObjectStore, key: str, decode: Callable[[bytes], T]) -> T | None:
    """The object; None if there is none, or a damaged one; KeptError for a newer layout."""
    stored = store.read(key)
    try:
        return None if stored is None else decode(stored.body)
    except DamagedError as error:
        copy_damaged_to_dead(store, key, stored.body if stored else b"", error)
        return None


def replace_object(store: ObjectStore, key: str, codec: Codec[Any], body: bytes) -> None:
    """Write the object's new content, unless it has a newer layout, or another connector writes it at the same time."""
    stored = None
    try:
        stored = store.read(key)
        if stored is not None:
            codec.load(stored.body)
    except DamagedError as error:
        copy_damaged_to_dead(store, key, stored.body if stored else b"", error)
    except KeptError as error:
        log.warning("%s is not written: %s", key, error)
        return
    with suppress(ConflictError):
        store.write(key, body, expected=stored.generation if stored else ABSENT)


def update_object(store: ObjectStore, key: str, codec: Codec[T], update: Callable[[T | None], T | None]) -> None:
    """Write what `update` makes of the object; nothing if it makes None, or if the object is kept.

    If another connector writes it at the same time, `update` is called again with the new content; ConflictError if
    that goes on.
    """
    for left in reversed(range(TRIES)):
        stored = content = None
        try:
            stored = store.read(key)
            if stored is not None:
                content = codec.decode(stored.body)
        except DamagedError as error:
            copy_damaged_to_dead(store, key, stored.body if stored else b"", error)
        except KeptError as error:
            log.warning("%s is not written: %s", key, error)
            return
        updated = update(content)
        try:
            if updated is not None:
                store.write(key, codec.encode(updated), expected=stored.generation if stored else ABSENT)
        except ConflictError:
            if not left:
                raise
        else:
            return
