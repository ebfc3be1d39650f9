"""Google Cloud Tasks over its REST protocol. Only one call is used; the client library would only slow the start.

Source: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.errors import ConfigError, RetryableError
from lib.model.host import is_loopback

if TYPE_CHECKING:
    import requests

TRIES = 3
TIMEOUT_SECONDS = 10
CONNECTIONS = 40
"""Open connections to the queue: one for each thread that adds tasks at once."""
SHORTEST_DISPATCH = 15
"""Seconds. Cloud Tasks accepts deadlines from 15 s to 30 min."""


class QueueDownError(RetryableError):
    """Cloud Tasks cannot be reached, throttles, or answers 5xx."""

    code = "queue_unavailable"
    title = "The task queue does not answer"
    remedy = (
        "Nothing to do: the scheduler tries again, and each task is added only once. If it lasts, check the network."
    )


@dataclass(frozen=True, slots=True)
class TaskTarget:
    """The URL that a task calls, and the service account that it uses."""

    url: str
    service_account: str
    dispatch_deadline: timedelta
    """The time limit of one call. Cloud Tasks repeats the call after that."""


class CloudTasks:
    """A task queue; safe between threads."""

    def __init__(
        self,
        queue: str,
        target: TaskTarget,
        *,
        api_url: str,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float],
    ) -> None:
        """`queue` is `projects/P/locations/L/queues/Q`. An `api_url` on loopback (for tests) needs no credentials."""
        self._queue = queue
        self._target = target
        self._url = f"{api_url}/v2/{queue}/tasks"
        self._sleep = sleep
        self._jitter = jitter
        self._session = _session(api_url)

    def add(self, name: str, request: Mapping[str, Any], not_before: datetime | None = None) -> bool:
        """Add a task that calls the target with the request; False if a task of that name was added before.

        Raises QueueDownError if the queue is unreachable, ConfigError if it refuses the task.
        """
        task = {
            "name": f"{self._queue}/tasks/{name}",
            "dispatchDeadline": f"{max(SHORTEST_DISPATCH, round(self._target.dispatch_deadline.total_seconds()))}s",
            "httpRequest": {
                "url": self._target.url,
                "httpMethod": "POST",
                "headers": {"Content-Type": "application/json"},
                "body": base64.b64encode(json.dumps(request).encode()).decode(),
                "oidcToken": {"serviceAccountEmail": self._target.service_account, "audience": self._target.url},
            },
        }
        if not_before is not None:
            task["scheduleTime"] = not_before.astimezone(UTC).isoformat().replace("+00:00", "Z")
        status = self._post({"task": task})
        if status == 409:
            return False
        if status == 200:
            return True
        raise ConfigError(
            f"queue {self._queue} refused a task: status {status}",
            remedy="Check the queue's name in `tasks`. Check that this function's service account may add tasks to it "
            "(roles/cloudtasks.enqueuer) and act as `tasks.service_account` (roles/iam.serviceAccountUser).",
        )

    def _post(self, body: Mapping[str, Any]) -> int:
        """The HTTP status of the answer. Repeating is safe: the task's name shows a repeat."""
        import requests  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415

        reason = ""
        for number in range(TRIES):
            if number:
                self._sleep(self._jitter() * 0.25 * 2**number)
            try:
                status = self._session.post(
                    self._url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False
                ).status_code
            except (requests.RequestException, GoogleAuthError) as error:
                reason = type(error).__name__
                continue
            if status != 429 and status < 500:
                return status
            reason = f"status {status}"
        raise QueueDownError(f"queue {self._queue} cannot be reached: {reason}")


def _session(api_url: str) -> requests.Session:
    import google.auth  # noqa: PLC0415 - a heavy import that only sites with a queue need
    import requests  # noqa: PLC0415
    from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
    from google.auth.transport.requests import AuthorizedSession  # noqa: PLC0415

    if is_loopback(urlsplit(api_url).hostname or ""):
        return _pooled(requests.Session())
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except DefaultCredentialsError:
        raise ConfigError(
            "there are no Google credentials for adding tasks to the queue",
            remedy="Run on Google Cloud with a service account, or remove `tasks` from the configuration.",
        ) from None
    authorized: Any = AuthorizedSession  # google-auth has no type hints for it
    return _pooled(authorized(credentials))


def _pooled(session: requests.Session) -> requests.Session:
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session
