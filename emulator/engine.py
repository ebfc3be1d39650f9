"""A stand-in for UTMStack's engine: a real gRPC server on a Unix socket. It acknowledges logs, and fails on request.

Faults, each `name=value` on the command line:

    delay=SECONDS        wait before each acknowledgement
    silent_after=N       take logs and acknowledge nothing after the first N of the process
    hang_up_after=N      end each stream politely after N logs, without an acknowledgement for the last one
    abort_after=N        end each stream with UNAVAILABLE after N logs
    lose=N               never acknowledge every Nth log
    odd=N                name an unknown id in every Nth acknowledgement, then the right one
    shuffle=N            acknowledge N logs together, the last first; what is left over, at the stream's end
    empty_ids=1          acknowledge with an empty id
    twice=1              acknowledge everything twice
    status=NAME          end each stream at once with that gRPC status
    max_bytes=N          refuse larger messages as grpc-go does; default 4194304
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc

from emulator.ending import EndRequest
from lib.model.log import MAX_LOG_BYTES
from lib.model.text import several
from lib.utmstack.pb import plugins_pb2, plugins_pb2_grpc

FAULTS = (
    "delay",
    "silent_after",
    "hang_up_after",
    "abort_after",
    "lose",
    "odd",
    "shuffle",
    "empty_ids",
    "twice",
    "status",
    "max_bytes",
)
STREAMS = 32


class StandInEngine(plugins_pb2_grpc.EngineServicer):
    """The engine. It listens on `socket` from `start` to `close`, or in a `with`. `faults` may change at any time."""

    def __init__(self, socket: Path, *, record: Path | None = None, faults: Mapping[str, str] | None = None) -> None:
        self.socket = socket
        self.faults: dict[str, str] = dict(faults or {})
        self.received: list[plugins_pb2.Log] = []
        """All received logs in order; empty if logs are recorded in a file."""
        self.count = 0
        self.streams = 0
        self._record = record.open("a", encoding="utf-8") if record else None
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None
        self._over = threading.Event()

    def start(self) -> Self:
        """Start to listen; OSError if the socket cannot be created."""
        self.socket.unlink(missing_ok=True)
        self._over.clear()
        largest = int(self.faults.get("max_bytes", MAX_LOG_BYTES))
        self._server = grpc.server(ThreadPoolExecutor(STREAMS), options=[("grpc.max_receive_message_length", largest)])
        plugins_pb2_grpc.add_EngineServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        try:
            self._server.add_insecure_port(f"unix://{self.socket.absolute()}")
        except RuntimeError:
            raise OSError(f"cannot listen on {self.socket}") from None
        self._server.start()
        return self

    def stop(self) -> None:
        """End every stream and stop listening; `start` listens again."""
        self._over.set()
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._record is not None:
            self._record.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Take logs and acknowledge them, as the faults allow."""
        with self._lock:
            self.streams += 1
        status = self.faults.get("status")
        if status:
            context.abort(grpc.StatusCode[status], "a scripted fault")
        late: list[str] = []
        for taken, log in enumerate(request_iterator, 1):
            number = self._take(log)
            if taken == int(self.faults.get("hang_up_after", 0)):
                return
            if taken == int(self.faults.get("abort_after", 0)):
                context.abort(grpc.StatusCode.UNAVAILABLE, "a scripted fault")
            late[:0] = self._acks(log.id, number)
            if taken % int(self.faults.get("shuffle", 1)) == 0:
                yield from (plugins_pb2.Ack(lastId=log_id) for log_id in late)
                late.clear()
        yield from (plugins_pb2.Ack(lastId=log_id) for log_id in late)

    def Notify(self, request_iterator: Iterator[plugins_pb2.Message], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Acknowledge messages."""
        del context
        for message in request_iterator:
            yield plugins_pb2.Ack(lastId=message.id)

    def _take(self, log: plugins_pb2.Log) -> int:
        with self._lock:
            self.count += 1
            if self._record is None:
                self.received.append(log)
            else:
                self._record.write(json.dumps(_fields(log), ensure_ascii=False) + "\n")
                self._record.flush()
            return self.count

    def _acks(self, log_id: str, number: int) -> Iterator[str]:
        faults = self.faults
        if "delay" in faults:
            self._over.wait(float(faults["delay"]))
        if "silent_after" in faults and number > int(faults["silent_after"]):
            return
        if "lose" in faults and number % int(faults["lose"]) == 0:
            return
        if "odd" in faults and number % int(faults["odd"]) == 0:
            yield "an-id-that-nobody-sent"
        right = "" if faults.get("empty_ids") else log_id
        yield right
        if faults.get("twice"):
            yield right


def _fields(log: plugins_pb2.Log) -> dict[str, str]:
    return {
        "id": log.id,
        "dataType": log.dataType,
        "dataSource": log.dataSource,
        "timestamp": log.timestamp,
        "tenantId": log.tenantId,
        "raw": log.raw,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m emulator engine`."""
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append every log as a JSON line")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME=VALUE", help=f"one of {', '.join(FAULTS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 if an option is invalid."""
    faults = dict(fault.partition("=")[::2] for fault in args.fault)
    unknown = set(faults) - set(FAULTS)
    if unknown:
        print(f"engine: unknown fault {', '.join(sorted(unknown))}; known: {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    stop = EndRequest()
    try:
        engine = StandInEngine(args.socket, record=args.record, faults=faults).start()
    except OSError as error:
        print(f"engine: {error}", file=sys.stderr)
        return 2
    print(f"UTMStack's engine (stand-in) at unix:{args.socket}", flush=True)
    shown = 0
    while not stop.wait(10):
        if engine.count != shown:
            print(f"engine: {several(engine.count, 'log')} taken", flush=True)
            shown = engine.count
    engine.close()
    print(f"engine: {several(engine.count, 'log')} taken", flush=True)
    return 0
