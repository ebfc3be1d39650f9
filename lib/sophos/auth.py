"""The access token: one in memory for each credential, renewed before it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from lib.errors import ConfigError, ConnectorError, CredentialsError, NoAnswerError, ProtocolError
from lib.model.credential import InUse
from lib.sophos.http import Answer, Http
from lib.sophos.schemas import TokenSchema, check_envelope, load

log = logging.getLogger(__name__)

TOKEN_PATH = "/api/v2/oauth2/token"  # noqa: S105 - a path
EARLY_SECONDS = 120.0
"""How long before its end a token is renewed, as Sophos's own script does; of a short-lived one, a quarter."""


_WRONG = {
    "invalid_client_id": "the client id: it knows none such",
    "invalid_client_secret": "the client secret: it is not the one of this client id",
}
"""What the end of Sophos's word names as wrong."""


class Credential(Protocol):
    """A client id and secret, resolved when asked for."""

    @property
    def client_id(self) -> Callable[[], str]:
        """Resolves the client id."""

    @property
    def client_secret(self) -> Callable[[], str]:
        """Resolves the client secret."""


class Tokens:
    """Tokens of a credential, or of the next one where it is refused.

    Safe between threads: who comes while one is fetched waits for it.
    """

    def __init__(
        self, http: Http, credentials: Sequence[Credential], auth_url: str, monotonic: Callable[[], float]
    ) -> None:
        self._http = http
        self._credentials = credentials
        self.in_use: InUse | None = None
        """Whose the latest token is; None before the first."""
        self._url = auth_url.rstrip("/") + TOKEN_PATH
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[str, str]] = {}
        """What each credential was when it was last asked with."""
        self._token = ""
        self._renew_at = 0.0

    def current(self, *, refused: str | None = None, deadline: float | None = None) -> str:
        """A token that holds; `refused` is one that an API has just refused.

        Raises CredentialsError where Sophos refuses every credential.
        """
        with self._lock:
            if not self._token or self._token == refused or self._monotonic() >= self._renew_at:
                self._token = ""
                if deadline is not None and self._monotonic() >= deadline:
                    # Whoever waited here before has used the time up; each asking for a moment more would add up.
                    raise NoAnswerError(f"POST {TOKEN_PATH}: no token within the call's time")
                self._renew(deadline)
            return self._token

    def is_replaced(self) -> bool:
        """Whether a credential is another now than it was last asked with; then no token of the old one is used."""
        with self._lock:
            for at, asked in self._asked.items():
                with suppress(ConnectorError):  # One that cannot be read is none to try.
                    if _pair(self._credentials[at]) != asked:
                        self._token = ""
                        return True
            return False

    def _renew(self, deadline: float | None) -> None:
        """Ask with each credential in its order, so that the first one is in use again once it is set right."""
        refusal: CredentialsError | None = None
        for at, credential in enumerate(self._credentials):
            try:
                self._asked[at] = pair = _pair(credential)
                used = self._ask(pair, is_next=at > 0, deadline=deadline)
            except CredentialsError as error:
                refusal = refusal or error
            except ConfigError:
                if refusal is None:
                    raise
            else:
                if used.is_next and used != self.in_use:
                    log.warning("%s; the next credential is used", refusal)
                self.in_use = used
                return
        raise refusal or CredentialsError("there is no credential")

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
        self._renew_at = asked_at + lifetime - min(EARLY_SECONDS, lifetime / 4)
        self._token = fields["access_token"]
        return InUse(client_id, is_next)


def _pair(credential: Credential) -> tuple[str, str]:
    return credential.client_id(), credential.client_secret()


def _read(answer: Answer) -> dict[str, Any]:
    if answer.status in (400, 401, 403):
        # The token host answers 400 and 403 for credentials too; none of them gets better by asking again.
        check_envelope(answer, f"POST {TOKEN_PATH}")
        word = answer.word("errorCode", "error")
        which = next((name for end, name in _WRONG.items() if word.endswith(f"{end})")), "the client id or secret")
        raise CredentialsError(f"Sophos refused {which}: {answer.status}{word}")
    if answer.status != 200:
        raise ProtocolError(f"Sophos answered {answer.status} to POST {TOKEN_PATH}")
    return dict(load(TokenSchema(), answer, f"POST {TOKEN_PATH}"))
