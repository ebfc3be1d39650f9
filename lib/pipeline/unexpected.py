"""What nobody expected, kept within the one stream that met it."""

from __future__ import annotations

import logging
from uuid import uuid4

from lib.errors import UnexpectedError

log = logging.getLogger(__name__)


def unexpected(what: object, cause: Exception) -> UnexpectedError:
    """What is told of the exception, once it is logged with its trace under an id of its own."""
    error = UnexpectedError(str(uuid4()))
    log.error("%s: unexpected failure %s", what, error.id, exc_info=cause)
    return error
