"""UTMStack's engine behind its Unix socket or a relay: `plugins.Engine/Input`, one acknowledgement a log.

One gRPC stream carries a delivery, since only within a stream is order defined. Logs are sent ahead of their
acknowledgements up to a window; what is not acknowledged when a stream ends is sent again, in order, on the next one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from lib.errors import ConnectorError, EngineDownError, EngineRefusedError, LogRefusedError
from lib.model.backoff import full_jitter
from lib.model.log import Log
from lib.utmstack.channel import OPTIONS, RECONNECTION, Credentials, reach, socket_path
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc

CLOSE_SECONDS = 5.0
"""How long the engine may take to end a stream whose logs are all acknowledged."""
PROBE_SECONDS = 5.0
LARGE = 64 * 1024
"""No engine refuses a smaller log for its size: behind a RESOURCE_EXHAUSTED for one, there is want of capacity."""
_RELAY_REMEDY = (
    "Check that the relay runs, that this host reaches it, and that `engine_access` is what the relay asks for "
    "(it hangs up on a missing or expired client certificate); waiting batches are kept and sent by themselves."
)
_REFUSALS = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@dataclass(slots=True)
class _Entry:
    """A log between being read and being acknowledged."""

    number: int
    message: plugins_pb2.Log
    size: int
    sent_at: float = 0.0
    acked: bool = False


@dataclass(slots=True)
class _Stream:
    """One gRPC stream of a delivery."""

    window_logs: int
    witness: int = 0
    """The number of a log that goes before all others, to tell a log that is refused from an engine that is full."""
    in_flight: dict[str, _Entry] = field(default_factory=dict)
    """Sent on this stream and not acknowledged, by id, oldest first."""
    over: threading.Event = field(default_factory=threading.Event)
    stalled: str = ""
    """Why the watchdog has ended it."""


class Engine:
    """The engine at `unix:/path`, or behind the relay at `grpcs://host:port`.

    Safe between threads; each delivery has a stream of its own.
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
        """`ack_timeout` in seconds; `tries` counts streams in a row that brought no acknowledgement.

        `credentials` are what a relay is shown, asked for when the channel is made.
        """
        self._path = socket_path(target)
        self._place = self._path or target
        self._relay = target.removeprefix("grpcs://")
        self._credentials = credentials
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._ack_timeout = ack_timeout
        self._window_logs = window_logs
        self._window_bytes = window_bytes
        self._tries = tries
        self._jitter = jitter
        self._channel: grpc.Channel | None = None
        self._opening = threading.Lock()
        self._calls = 0
        self._stale = False
        self.counts: Counter[str] = Counter()
        """Streams opened, logs sent again, acknowledgements that name no log in flight."""

    def deliver(self, logs: Iterator[Log], *, deadline: float | None = None) -> Iterator[int]:
        """Send the logs in order; yields how many of the first ones are acknowledged, rising, until all are.

        What the iterator raises comes out here, once everything read before it is acknowledged. `deadline` is a
        monotonic time at which waiting ends. Raises EngineDownError, EngineRefusedError, LogRefusedError.
        """
        delivery = _Delivery(logs, self._window_logs, self._window_bytes)
        if not delivery.begin():
            return
        self._reach()
        failures = 0
        narrow, witness = False, 0
        while True:
            settled = delivery.settled
            stream = _Stream(1 if narrow else self._window_logs, witness)
            try:
                yield from self._run(delivery, stream, deadline)
                if delivery.done:
                    delivery.raise_fault()
                    return
                error: ConnectorError = EngineDownError(
                    f"the engine ended the stream with {delivery.unacked} logs unacknowledged"
                )
            except grpc.RpcError as failure:
                alone = next(iter(stream.in_flight), "") if narrow and len(stream.in_flight) == 1 else ""
                named, large = _is_about_a_log(failure), _is_about_a_large_log(failure, stream)
                # Only where a small log has just passed before it is the engine not simply full.
                if alone and (named or (large and stream.witness and delivery.settled == settled)):
                    reason = f"the engine refused it: {failure.code().name}: {failure.details()}"
                    raise LogRefusedError(reason, log_id=alone) from None
                narrow = named or large
                witness = delivery.small() if alone and large else 0
                error = self._error(failure, stream)
            failures = 1 if delivery.settled > settled else failures + 1
            pause = full_jitter(failures, self._jitter(), base=0.5, cap=30.0)
            late = deadline is not None and time.monotonic() + pause >= deadline
            if failures >= self._tries or late or isinstance(error, EngineRefusedError):
                raise error
            self.counts["resent"] += len(stream.in_flight)
            time.sleep(pause)

    def probe(self, timeout: float = PROBE_SECONDS) -> None:
        """Open a stream, send nothing, and see it end; EngineDownError or EngineRefusedError says why it cannot be."""
        self._reach()
        try:
            with self._call(iter(()), timeout) as call:
                for _ in call:
                    pass
        except grpc.RpcError as failure:
            raise self._error(failure, _Stream(0)) from None

    def close(self) -> None:
        """Close the channel."""
        with self._opening:
            self._hang_up()

    def _run(self, delivery: _Delivery, stream: _Stream, deadline: float | None) -> Iterator[int]:
        """One stream, until it ends; grpc.RpcError when it ends badly."""
        self.counts["streams"] += 1
        with self._call(delivery.requests(stream)) as call:
            watchdog = threading.Thread(
                target=self._watch, args=(delivery, stream, call, deadline), name="ack watchdog", daemon=True
            )
            watchdog.start()
            try:
                for ack in call:
                    settled = delivery.acknowledge(stream, ack.lastId)
                    if settled is None:
                        self.counts["odd_acks"] += 1
                    else:
                        yield settled
            except grpc.RpcError:
                if not delivery.done:
                    raise
            finally:
                delivery.end(stream)
                call.cancel()
                watchdog.join()

    def _watch(self, delivery: _Delivery, stream: _Stream, call: grpc.Call, deadline: float | None) -> None:
        """Cancel a stream whose oldest log waits too long for its acknowledgement, or that does not end."""
        done_at: float | None = None
        while not stream.over.wait(min(1.0, self._ack_timeout / 4)):
            now = time.monotonic()
            sent_at = delivery.oldest(stream)
            if delivery.done:
                done_at = done_at or now
                if now - done_at > CLOSE_SECONDS:
                    stream.stalled = "did not end a stream whose logs are all acknowledged"
            elif sent_at is not None and now - sent_at > self._ack_timeout:
                stream.stalled = f"did not acknowledge a log within {self._ack_timeout:g} s"
            elif deadline is not None and now > deadline:
                stream.stalled = f"had {delivery.unacked} logs unacknowledged at the call's deadline"
            if stream.stalled:
                call.cancel()
                return

    @contextmanager
    def _call(self, requests: Iterator[plugins_pb2.Log], timeout: float | None = None) -> Iterator[Any]:
        """A stream, cancelled in the end."""
        with self._opening:
            if self._channel is None:
                self._channel = self._open()
            stub = plugins_pb2_grpc.EngineStub(self._channel)  # type: ignore[no-untyped-call]
            call = stub.Input(requests, timeout=timeout, metadata=self._metadata)
            self._calls += 1
        try:
            yield call
        except grpc.RpcError:
            # The channel to a relay is made anew, and shows what is valid then, once nobody uses this one.
            self._stale = self._path is None
            raise
        finally:
            call.cancel()
            with self._opening:
                self._calls -= 1
                if self._stale and not self._calls:
                    self._hang_up()

    def _open(self) -> grpc.Channel:
        if self._path is not None:
            return grpc.insecure_channel(f"unix://{self._path}", options=OPTIONS)
        shown = self._credentials()
        self._metadata = (("authorization", f"Bearer {shown.token}"),) if shown.token else ()
        tls = grpc.ssl_channel_credentials(shown.ca, shown.key, shown.certificate)
        return grpc.secure_channel(self._relay, tls, options=RECONNECTION)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel, self._stale = None, False

    def _reach(self) -> None:
        if self._path is not None:
            reach(self._path)

    def _error(self, failure: grpc.RpcError, stream: _Stream) -> ConnectorError:
        code, details = failure.code(), failure.details()
        if stream.stalled:
            return EngineDownError(f"the engine at {self._place} {stream.stalled}")
        text = f"the engine at {self._place} ended the stream: {code.name}: {details}"
        if code in _REFUSALS:
            return EngineRefusedError(text)
        return EngineDownError(text, remedy=None if self._path is not None else _RELAY_REMEDY)


class _Delivery:
    """Logs on their way, over as many streams as it takes.

    `requests` runs in gRPC's thread, everything else in the caller's and the watchdog's.
    """

    def __init__(self, logs: Iterator[Log], window_logs: int, window_bytes: int) -> None:
        self._logs = logs
        self._window_logs = window_logs
        self._window_bytes = window_bytes
        self._reading = threading.Lock()
        self._change = threading.Condition()
        self._window: dict[int, _Entry] = {}
        """Read and not settled, by number."""
        self._bytes = 0
        self._read = 0
        self._exhausted = False
        self._fault: BaseException | None = None
        self.settled = 0
        """How many of the first logs are acknowledged."""

    @property
    def done(self) -> bool:
        """Whether there is nothing more to send, and nothing that waits for its acknowledgement."""
        return self._exhausted and self.settled == self._read

    @property
    def unacked(self) -> int:
        """How many logs were read and are not settled."""
        return self._read - self.settled

    def begin(self) -> bool:
        """Read the first log; whether there is one."""
        self._read_one()
        if self.done:
            self.raise_fault()
        return not self.done

    def raise_fault(self) -> None:
        """Raise what the iterator of logs raised."""
        if self._fault is not None:
            raise self._fault

    def small(self) -> int:
        """The number of the first small log behind the oldest one, 0 where none is at hand."""
        number = self.settled + 2
        while True:
            if number > self._read and self._has_room:
                self._read_one(number)
            if number > self._read:
                return 0
            entry = self._unacked(number)
            if entry is not None and entry.size < LARGE:
                return number
            number += 1

    def requests(self, stream: _Stream) -> Iterator[plugins_pb2.Log]:
        """What is not acknowledged, then what is new, as far as the window allows; a witness before all."""
        if stream.witness and (entry := self._take(stream, stream.witness)):
            yield entry.message
        number = self.settled + 1
        while not stream.over.is_set():
            entry = self._take(stream, number)
            if entry is not None:
                number = entry.number + 1
                yield entry.message
            elif self._exhausted:
                return
            else:
                self._read_one(number, stream)

    def acknowledge(self, stream: _Stream, log_id: str) -> int | None:
        """Settle the log of that id (no id: the oldest); how many are settled now, or None for an unknown id."""
        with self._change:
            log_id = log_id or next(iter(stream.in_flight), "")
            entry = stream.in_flight.pop(log_id, None)
            if entry is None:
                return None
            entry.acked = True
            while (head := self._window.get(self.settled + 1)) is not None and head.acked:
                del self._window[head.number]
                self._bytes -= head.size
                self.settled += 1
            self._change.notify()
            return self.settled

    def oldest(self, stream: _Stream) -> float | None:
        """When the log was sent that waits longest for its acknowledgement on the stream."""
        with self._change:
            return next((entry.sent_at for entry in stream.in_flight.values()), None)

    def end(self, stream: _Stream) -> None:
        """Nothing more is read or sent on the stream once this returns."""
        with self._change:
            stream.over.set()
            self._change.notify_all()
        with self._reading:
            # A read that had begun has ended: whoever owns the iterator may go on with what it reads from.
            return

    def _take(self, stream: _Stream, number: int) -> _Entry | None:
        """The next entry to send, once the window allows; None where one has to be read first, or none is left."""
        with self._change:
            while not stream.over.is_set():
                entry = next((found for at in range(number, self._read + 1) if (found := self._unacked(at))), None)
                if entry is None and (self._exhausted or self._has_room):
                    return None
                if entry is not None and self._may_send(entry, stream):
                    entry.sent_at = time.monotonic()
                    stream.in_flight[entry.message.id] = entry
                    return entry
                self._change.wait()
            return None

    def _unacked(self, number: int) -> _Entry | None:
        entry = self._window.get(number)
        return None if entry is None or entry.acked else entry

    @property
    def _has_room(self) -> bool:
        return not self._window or (len(self._window) < self._window_logs and self._bytes < self._window_bytes)

    @staticmethod
    def _may_send(entry: _Entry, stream: _Stream) -> bool:
        """Never two logs in flight with one id: their acknowledgements could not be told apart."""
        return len(stream.in_flight) < stream.window_logs and entry.message.id not in stream.in_flight

    def _read_one(self, number: int = 1, stream: _Stream | None = None) -> None:
        """Read the next log into the window, unless that was done for an earlier stream, or this one has ended."""
        with self._reading:
            if self._read >= number or self._exhausted or (stream is not None and stream.over.is_set()):
                return
            try:
                log = next(self._logs, None)
                entry = None if log is None else _entry(number, log)
            except BaseException as error:  # noqa: BLE001 - raised where the delivery is waited for
                self._fault, entry = error, None
            with self._change:
                if entry is None:
                    self._exhausted = True
                else:
                    self._window[number] = entry
                    self._bytes += entry.size
                    self._read = number


def _entry(number: int, log: Log) -> _Entry:
    message = plugins_pb2.Log(
        id=log.id,
        dataType=log.data_type,
        dataSource=log.data_source,
        timestamp=log.timestamp,
        tenantId=log.tenant_id,
        raw=log.raw.decode(),
    )
    return _Entry(number, message, len(log.raw))


def _is_about_a_log(failure: grpc.RpcError) -> bool:
    """Whether the status names one log as its reason: too large for grpc-go's limit, or invalid."""
    if failure.code() == grpc.StatusCode.INVALID_ARGUMENT:
        return True
    too_large = "larger than max" in (failure.details() or "")
    return failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and too_large


def _is_about_a_large_log(failure: grpc.RpcError, stream: _Stream) -> bool:
    """Whether a large log in flight may be the reason, in whatever words."""
    is_exhausted = failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return is_exhausted and any(entry.size >= LARGE for entry in stream.in_flight.values())
