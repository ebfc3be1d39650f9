"""Delivers logs to UTMStack's engine, behind its Unix socket or a relay: `plugins.Engine/Input`.

The engine acknowledges each log once. A delivery uses one gRPC stream on its own connection, because order is defined
only within a stream. Logs are sent ahead of their acknowledgements, up to a window. Logs that are not acknowledged when
a stream ends are sent again, in order, on the next stream. All work happens in the thread that takes the next count
from `deliver`; between two counts no log is read.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator

from lib.errors import ConnectorError, EngineDownError, EngineRefusedError, EngineSlowError, LogRefusedError
from lib.grpc_stream import Broken, ClientStream, Ended, Headers, Status
from lib.model.backoff import full_jitter
from lib.model.log import Log
from lib.model.text import several
from lib.utmstack.call import CallFailure, EngineCall
from lib.utmstack.channel import CONNECT_SECONDS, Credentials, RelayChannel, SocketChannel, socket_path
from lib.utmstack.window import Flight, Window

INPUT = "/plugins.Engine/Input"
CLOSE_SECONDS = 5.0
"""How long the engine may take to end a stream after all its logs are acknowledged."""
PROBE_SECONDS = 5.0
ID_CHARACTERS = 80
"""Characters of an unknown id that errors show."""
_REFUSALS = (Status.UNIMPLEMENTED, Status.PERMISSION_DENIED, Status.UNAUTHENTICATED)
_IDS_REMEDY = (
    "The engine must acknowledge each log with the id of that log. Find the program between this connector and "
    "UTMStack's event processor that changes ids. Waiting batches are sent later."
)


class GrpcEngine:
    """The engine at `unix:/path`, or behind the relay at `grpcs://host:port`.

    Safe between threads: each delivery has its own stream and connection.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: Callable[[], Credentials] = Credentials,
        ack_timeout: float = 30.0,
        window_logs: int = 500,
        window_bytes: int = 8 << 20,
        tries: int = 4,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`ack_timeout`: seconds without an acknowledgement after which a stream with unacknowledged logs has failed.

        `tries`: the number of streams in a row without an acknowledgement. `credentials` returns those for a relay; it
        is called at the first use and after a failed stream.
        """
        path = socket_path(target)
        self._channel = RelayChannel(target, credentials) if path is None else SocketChannel(path)
        self._ack_timeout = ack_timeout
        self._window_logs = window_logs
        self._window_bytes = window_bytes
        self._tries = tries
        self._jitter = jitter
        self.counts: Counter[str] = Counter()
        """Opened streams, logs sent again (`resent`), acknowledgements without a log in flight (`odd_acks`)."""

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        """Send the logs in order. Yield the number of acknowledged logs without a gap, rising, until all are.

        An exception of the iterator is raised here, after all logs read before it are acknowledged. `deadline` is a
        monotonic time at which waiting ends. `early` always holds the numbers, from 1, of logs that are acknowledged
        although one before them is not. A caller that stores them need not send these logs again. Raises
        EngineDownError, EngineSlowError (the engine acknowledges, but not everything before the deadline),
        EngineRefusedError, LogRefusedError.
        """
        window = Window(logs, self._window_logs, self._window_bytes, set() if early is None else early)
        if not window.read_one():
            window.raise_fault()
            return
        self._channel.reach()
        failures = 0
        flight = Flight(self._window_logs)
        while True:
            settled = window.settled
            self.counts["streams"] += 1
            failure = yield from self._run(window, flight, deadline)
            if failure is None or window.is_done:
                window.raise_fault()
                return
            has_settled = window.settled > settled
            following = self._following(window, flight, failure, failures, has_settled=has_settled)
            failures = 1 if has_settled else failures + 1
            pause = full_jitter(failures, self._jitter(), base=0.5, cap=30.0)
            late = deadline is not None and time.monotonic() + pause >= deadline
            if failures >= self._tries or late or isinstance(failure.error, EngineRefusedError):
                raise failure.error
            self.counts["resent"] += len(flight.in_flight)
            flight = following
            time.sleep(pause)

    def probe(self, timeout: float = PROBE_SECONDS) -> None:
        """Open a stream, send nothing, and end it; EngineDownError or EngineRefusedError if that fails."""
        self._channel.reach()
        nothing = Window(iter(()), 1, 1, set())
        nothing.read_one()
        run = self._run(nothing, Flight(1), time.monotonic() + timeout)
        try:
            next(run)
        except StopIteration as end:
            if end.value is not None:
                raise end.value.error from None

    def close(self) -> None:
        """Do nothing: no connection stays open between deliveries."""

    def _run(self, window: Window, flight: Flight, deadline: float | None) -> Generator[int, None, CallFailure | None]:
        """Run one stream to its end. Yield its counts; return its failure, or None."""
        try:
            call = self._call(window, flight, deadline)
        except EngineDownError as error:
            self._channel.renew()
            return CallFailure(error)
        failure: CallFailure | None = None
        counts: list[int] = []
        try:
            while call.ended is None and failure is None:
                paused = time.monotonic()
                # Sending comes before yielding, so that the engine works while the caller writes receipts.
                call.fill()
                yield from counts
                # The caller's time does not count as the engine's silence.
                call.quiet_since += time.monotonic() - paused
                counts = self._turn(window, flight, call, deadline)
                failure = self._failure(window, flight, call, deadline)
            yield from counts
        finally:
            call.close()
        if failure is not None:
            self._channel.renew()
        return failure

    def _call(self, window: Window, flight: Flight, deadline: float | None) -> EngineCall:
        token = self._channel.token
        metadata: Headers = () if token is None else ((b"authorization", b"Bearer " + token.encode()),)
        seconds = CONNECT_SECONDS if deadline is None else min(CONNECT_SECONDS, deadline - time.monotonic())
        connection = self._channel.connect(max(seconds, 0.1))
        stream = ClientStream(INPUT, authority=self._channel.authority, scheme=self._channel.scheme, metadata=metadata)
        return EngineCall(window, flight, connection, stream)

    def _turn(self, window: Window, flight: Flight, call: EngineCall, deadline: float | None) -> list[int]:
        limit = self._limit(window, call)
        odd_acks = flight.odd_acks
        counts = call.turn(limit if deadline is None else min(limit, deadline))
        if flight.odd_acks > odd_acks:
            self.counts["odd_acks"] += flight.odd_acks - odd_acks
        return counts

    def _limit(self, window: Window, call: EngineCall) -> float:
        """The monotonic time until which the engine may be silent."""
        return call.quiet_since + (min(CLOSE_SECONDS, self._ack_timeout) if window.is_done else self._ack_timeout)

    def _failure(self, window: Window, flight: Flight, call: EngineCall, deadline: float | None) -> CallFailure | None:
        """The failure of the stream; None if it continues or has ended well."""
        now = time.monotonic()
        if call.ended is not None:
            return self._ended(window, flight, call.ended)
        if now >= self._limit(window, call):
            return self._unacked(flight, self._error(self._silence(window, call)))
        if deadline is None or now < deadline:
            return None
        if window.is_done or not call.is_open:
            return CallFailure(self._error(self._silence(window, call)))
        left = several(window.unacked, "log")
        text = f"the engine at {self._channel.place} had not acknowledged {left} at the call's deadline"
        return self._unacked(flight, EngineSlowError(text) if flight.acks else EngineDownError(text))

    def _ended(self, window: Window, flight: Flight, end: Ended | Broken) -> CallFailure | None:
        if isinstance(end, Broken):
            return CallFailure(self._error(end.reason))
        if end.status is not Status.OK:
            text = f"ended the stream: {end.status.name}: {end.message}"
            return CallFailure(self._error(text, end.status), end.status, end.message)
        if window.is_done:
            return None
        text = f"the engine ended the stream but had not acknowledged {several(window.unacked, 'log')}"
        return self._unacked(flight, EngineDownError(text))

    def _silence(self, window: Window, call: EngineCall) -> str:
        if not call.is_open:
            return "did not open a stream in time"
        if window.is_done:
            return "did not end a stream whose logs are all acknowledged"
        return f"did not acknowledge a log within {self._ack_timeout:g} s"

    def _unacked(self, flight: Flight, error: ConnectorError) -> CallFailure:
        """The failure with that error. If most acknowledgements have unknown ids, the error says so instead."""
        if flight.odd_acks > flight.acks and flight.in_flight:
            shown = flight.odd_id[:ID_CHARACTERS].decode("utf-8", "replace")
            text = f"{flight.odd_acks} acknowledgements have ids that were not sent; the last one is {shown!r}"
            place = self._channel.place
            error = EngineDownError(f"the engine at {place} acknowledges unknown ids: {text}", remedy=_IDS_REMEDY)
        return CallFailure(error)

    def _error(self, text: str, status: Status | None = None) -> ConnectorError:
        text = f"the engine at {self._channel.place} {text}"
        return EngineRefusedError(text) if status in _REFUSALS else EngineDownError(text, remedy=self._channel.remedy)

    def _following(
        self, window: Window, flight: Flight, failure: CallFailure, failures: int, *, has_settled: bool
    ) -> Flight:
        """How the next stream sends logs, to find a log that the engine refuses; LogRefusedError once it is found.

        The first step is one log at a time. If the engine then fails at a large log, or repeatedly at one log, a small
        log is sent before it as a witness. If the witness passes and the log fails again, the log is the cause; if the
        witness fails too, the engine is. `failures` counts the streams right before this one that settled no log.
        """
        named, large = failure.is_about_a_log, failure.is_about_a_large_log(flight)
        again = failure.is_vague and failures > 0 and not has_settled
        if not named and not large and not again:
            return Flight(self._window_logs)
        if not flight.is_narrow or len(flight.in_flight) != 1:
            return Flight(1, is_narrow=True)
        (alone,) = flight.in_flight.values()
        # Only if a small log has just passed is it certain that the engine is not simply full.
        if failure.status is not None and (named or (large and flight.witness and not has_settled)):
            reason = f"the engine refused it: {failure.status.name}: {failure.details}"
            raise LogRefusedError(reason, log_id=alone.id.decode()) from None
        return Flight(1, is_narrow=True, witness=window.small() if large or again else 0)
