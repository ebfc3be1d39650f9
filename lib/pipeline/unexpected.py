"""Unexpected exceptions: logged, and turned into an error of one stream."""

from __future__ import annotations

import logging
from uuid import uuid4

from lib.errors import UnexpectedError

log = logging.getLogger(__name__)


def unexpected(subject: object, cause: Exception) -> UnexpectedError:
    """Log the exception with its stack trace under a new id, and return the error that names the id."""
    error = UnexpectedError(str(uuid4()))
    log.error("%s: unexpected failure %s", subject, error.id, exc_info=cause)
    return error
