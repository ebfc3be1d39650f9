"""The access token of a credential. It stays in memory only and is renewed before it expires."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from lib.errors import ConfigError, ConnectorError, CredentialsError, NoAnswerError, ProtocolError
from lib.model.credential import InUse
from lib.sophos.http import Http, HttpAnswer
from lib.sophos.schemas import TokenSchema, check_envelope, load

log = logging.getLogger(__name__)

TOKEN_PATH = "/api/v2/oauth2/token"  # noqa: S105 - a path
EARLY_SECONDS = 120.0
"""How long before its expiry a token is renewed, as in Sophos's own script; at most a quarter of its lifetime."""


_WRONG = {
    "invalid_client_id": "the client id: there is no such client id",
    "invalid_client_secret": "the client secret: it does not belong to this client id",
}
"""What is wrong, by the end of Sophos's error code."""


class TokenCredential(Protocol):
    """A client id and secret, resolved at each use."""

    @property
    def client_id(self) -> Callable[[], str]:
        """Resolves the client id."""

    @property
    def client_secret(self) -> Callable[[], str]:
        """Resolves the client secret."""


class Tokens:
    """Tokens of the first credential that Sophos accepts.

    Safe between threads: only one thread requests a token; the others wait for it.
    """

    def __init__(
        self, http: Http, credentials: Sequence[TokenCredential], auth_url: str, monotonic: Callable[[], float]
    ) -> None:
        self._http = http
        self._credentials = credentials
        self.in_use: InUse | None = None
        """The credential of the latest token; None before the first token."""
        self._url = auth_url.rstrip("/") + TOKEN_PATH
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[str, str]] = {}
        """The client id and secret of each credential's last token request, by its index."""
        self._token = ""
        self._renew_at = 0.0

    def current(self, *, refused: str | None = None, deadline: float | None = None) -> str:
        """A valid token; `refused` is a token that an API has just refused. `deadline` is a monotonic time.

        Raises CredentialsError if Sophos refuses every credential, NoAnswerError if the deadline has passed.
        """
        with self._lock:
            if not self._token or self._token == refused or self._monotonic() >= self._renew_at:
                self._token = ""
                if deadline is not None and self._monotonic() >= deadline:
                    # The time was used up by waiting for the lock. If every waiting thread sent a short request of its
                    # own now, the times would add up.
                    raise NoAnswerError(f"POST {TOKEN_PATH}: no token within the call's time")
                self._renew(deadline)
            return self._token

    def is_replaced(self) -> bool:
        """Whether a credential has changed since its last token request. If so, the old token is dropped."""
        with self._lock:
            for at, asked in self._asked.items():
                with suppress(ConnectorError):  # A credential that cannot be read has not changed to a usable one.
                    if _pair(self._credentials[at]) != asked:
                        self._token = ""
                        return True
            return False

    def _renew(self, deadline: float | None) -> None:
        """Request a token with each credential in order, so that a corrected first one is used again."""
        refusal: CredentialsError | None = None
        for at, credential in enumerate(self._credentials):
            try:
                # Kept for a refused pair too: `is_replaced` then notices that an operator has corrected it.
                self._asked[at] = pair = _pair(credential)
                used = self._ask(pair, is_next=at > 0, deadline=deadline)
            except CredentialsError as error:
                refusal = refusal or error
            except ConfigError:
                if refusal is None:
                    raise
            else:
                if used.is_next and used != self.in_use:
                    log.warning("%s; using the next credential", refusal)
                self.in_use = used
                # Later ones are not in use any more. If one changes, no request would notice it.
                self._asked = {index: pair for index, pair in self._asked.items() if index <= at}
                return
        raise refusal or CredentialsError("no credential is configured")

    def _ask(self, pair: tuple[str, str], *, is_next: bool, deadline: float | None) -> InUse:
        client_id, client_secret = pair
        asked_at = self._monotonic()
        fields = self._http.request(
            "POST",
            self._url,
            form={
                "grant_type": "client_credentials",
                "client_id": client_id,
                "client_secret": client_secret,
                "scope": "token",
            },
            read=_read,
            deadline=deadline,
        )
        lifetime = float(fields["expires_in"])
        # Counted from the request: Sophos started the lifetime before its answer arrived.
        self._renew_at = asked_at + lifetime - min(EARLY_SECONDS, lifetime / 4)
        self._token = fields["access_token"]
        return InUse(client_id, is_next)


def _pair(credential: TokenCredential) -> tuple[str, str]:
    return credential.client_id(), credential.client_secret()


def _read(answer: HttpAnswer) -> dict[str, Any]:
    if answer.status in (400, 401, 403):
        # The token host answers 400 and 403 for wrong credentials too. A retry would not help.
        check_envelope(answer, f"POST {TOKEN_PATH}")
        word = answer.word("errorCode", "error")
        which = next((name for end, name in _WRONG.items() if word.endswith(f"{end})")), "the client id or secret")
        raise CredentialsError(f"Sophos refused {which}: {answer.status}{word}")
    if answer.status != 200:
        raise ProtocolError(f"Sophos answered {answer.status} to POST {TOKEN_PATH}")
    return dict(load(TokenSchema(), answer, f"POST {TOKEN_PATH}"))
