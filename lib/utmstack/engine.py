"""UTMStack's engine behind its Unix socket or a relay: `plugins.Engine/Input`, one acknowledgement a log.

One gRPC stream, on a connection of its own, carries a delivery, since only within a stream is order defined. Logs are
sent ahead of their acknowledgements up to a window; what is not acknowledged when a stream ends is sent again, in
order, on the next one. All of it happens in the thread that asks for the next count: while nobody asks, no log is read.
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
from lib.utmstack.call import Call, Failure
from lib.utmstack.channel import CONNECT_SECONDS, Credentials, RelayChannel, SocketChannel, socket_path
from lib.utmstack.window import Flight, Window

INPUT = "/plugins.Engine/Input"
CLOSE_SECONDS = 5.0
"""How long the engine may take to end a stream whose logs are all acknowledged."""
PROBE_SECONDS = 5.0
ID_CHARACTERS = 80
"""How much is shown of an id that nobody sent."""
_REFUSALS = (Status.UNIMPLEMENTED, Status.PERMISSION_DENIED, Status.UNAUTHENTICATED)
_IDS_REMEDY = (
    "The engine has to acknowledge each log by the id that it was sent with: look for what stands between this "
    "connector and UTMStack's event processor and changes ids; waiting batches are kept and sent by themselves."
)


class Engine:
    """The engine at `unix:/path`, or behind the relay at `grpcs://host:port`.

    Safe between threads; each delivery has a stream and a connection of its own.
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
        """`ack_timeout`: seconds that the engine may owe acknowledgements without sending one.

        `tries` counts streams in a row that brought no acknowledgement. `credentials` are what a relay is shown, asked
        for at first and after a stream has failed.
        """
        path = socket_path(target)
        self._channel = RelayChannel(target, credentials) if path is None else SocketChannel(path)
        self._ack_timeout = ack_timeout
        self._window_logs = window_logs
        self._window_bytes = window_bytes
        self._tries = tries
        self._jitter = jitter
        self.counts: Counter[str] = Counter()
        """Streams opened, logs sent again (`resent`), acknowledgements that name no log in flight (`odd_acks`)."""

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        """Send the logs in order; yields how many of the first ones are acknowledged, rising, until all are.

        What the iterator raises comes out here, once everything read before it is acknowledged. `deadline` is a
        monotonic time at which waiting ends. `early` is kept up to date with the places, from 1, of the logs that are
        acknowledged though one before them is not: whoever remembers them need not send them again. Raises
        EngineDownError, EngineSlowError (it acknowledges, but not everything before the deadline),
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
        """Open a stream, send nothing, and see it end; EngineDownError or EngineRefusedError says why it cannot be."""
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
        """Nothing is kept open between deliveries."""

    def _run(self, window: Window, flight: Flight, deadline: float | None) -> Generator[int, None, Failure | None]:
        """One stream, until it ends: the counts that it brings, and in the end why it failed, where it did."""
        try:
            call = self._call(window, flight, deadline)
        except EngineDownError as error:
            self._channel.renew()
            return Failure(error)
        failure: Failure | None = None
        counts: list[int] = []
        try:
            while call.ended is None and failure is None:
                elsewhere = time.monotonic()
                # What is sent first keeps the engine at work while the counts are taken.
                call.fill()
                yield from counts
                call.quiet_since += time.monotonic() - elsewhere
                counts = self._turn(window, flight, call, deadline)
                failure = self._failure(window, flight, call, deadline)
            yield from counts
        finally:
            call.close()
        if failure is not None:
            self._channel.renew()
        return failure

    def _call(self, window: Window, flight: Flight, deadline: float | None) -> Call:
        token = self._channel.token
        metadata: Headers = () if token is None else ((b"authorization", b"Bearer " + token.encode()),)
        seconds = CONNECT_SECONDS if deadline is None else min(CONNECT_SECONDS, deadline - time.monotonic())
        connection = self._channel.connect(max(seconds, 0.1))
        stream = ClientStream(INPUT, authority=self._channel.authority, scheme=self._channel.scheme, metadata=metadata)
        return Call(window, flight, connection, stream)

    def _turn(self, window: Window, flight: Flight, call: Call, deadline: float | None) -> list[int]:
        limit = self._limit(window, call)
        odd_acks = flight.odd_acks
        counts = call.turn(limit if deadline is None else min(limit, deadline))
        if flight.odd_acks > odd_acks:
            self.counts["odd_acks"] += flight.odd_acks - odd_acks
        return counts

    def _limit(self, window: Window, call: Call) -> float:
        """Until when the engine may be silent, monotonic."""
        return call.quiet_since + (min(CLOSE_SECONDS, self._ack_timeout) if window.is_done else self._ack_timeout)

    def _failure(self, window: Window, flight: Flight, call: Call, deadline: float | None) -> Failure | None:
        """Why the stream is at its end, where it is, and not well."""
        now = time.monotonic()
        if call.ended is not None:
            return self._ended(window, flight, call.ended)
        if now >= self._limit(window, call):
            return self._unacked(flight, self._error(self._silence(window, call)))
        if deadline is None or now < deadline:
            return None
        if window.is_done or not call.is_open:
            return Failure(self._error(self._silence(window, call)))
        text = f"the engine at {self._channel.place} had {window.unacked} logs unacknowledged at the call's deadline"
        return self._unacked(flight, EngineSlowError(text) if flight.acks else EngineDownError(text))

    def _ended(self, window: Window, flight: Flight, end: Ended | Broken) -> Failure | None:
        if isinstance(end, Broken):
            return Failure(self._error(end.reason))
        if end.status is not Status.OK:
            text = f"ended the stream: {end.status.name}: {end.message}"
            return Failure(self._error(text, end.status), end.status, end.message)
        if window.is_done:
            return None
        text = f"the engine ended the stream with {window.unacked} logs unacknowledged"
        return self._unacked(flight, EngineDownError(text))

    def _silence(self, window: Window, call: Call) -> str:
        if not call.is_open:
            return "did not open a stream in time"
        if window.is_done:
            return "did not end a stream whose logs are all acknowledged"
        return f"did not acknowledge a log within {self._ack_timeout:g} s"

    def _unacked(self, flight: Flight, error: ConnectorError) -> Failure:
        """That, or in words of its own what an engine does that acknowledges under other ids."""
        if flight.odd_acks > flight.acks and flight.in_flight:
            shown = flight.odd_id[:ID_CHARACTERS].decode("utf-8", "replace")
            text = f"{flight.odd_acks} acknowledgements name no log that was sent, the last one {shown!r}"
            place = self._channel.place
            error = EngineDownError(f"the engine at {place} acknowledges under other ids: {text}", remedy=_IDS_REMEDY)
        return Failure(error)

    def _error(self, text: str, status: Status | None = None) -> ConnectorError:
        text = f"the engine at {self._channel.place} {text}"
        return EngineRefusedError(text) if status in _REFUSALS else EngineDownError(text, remedy=self._channel.remedy)

    def _following(
        self, window: Window, flight: Flight, failure: Failure, failures: int, *, has_settled: bool
    ) -> Flight:
        """How the next stream goes about it, to find out which log is the reason; LogRefusedError once that is known.

        First one log at a time; then, behind a large one, or one at which the engine fails again, a small one goes
        first as a witness. `failures` counts the streams right before this one that settled nothing.
        """
        named, large = failure.is_about_a_log, failure.is_about_a_large_log(flight)
        again = failure.is_vague and failures > 0 and not has_settled
        if not named and not large and not again:
            return Flight(self._window_logs)
        if not flight.is_narrow or len(flight.in_flight) != 1:
            return Flight(1, is_narrow=True)
        (alone,) = flight.in_flight.values()
        # Only where a small log has just passed before it is the engine not simply full.
        if failure.status is not None and (named or (large and flight.witness and not has_settled)):
            reason = f"the engine refused it: {failure.status.name}: {failure.details}"
            raise LogRefusedError(reason, log_id=alone.id.decode()) from None
        return Flight(1, is_narrow=True, witness=window.small() if large or again else 0)
