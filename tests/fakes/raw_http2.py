"""Both ends of an HTTP/2 connection by hand: a caller that does as it likes, and an engine that follows a script."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from emulator.relay.http2 import INPUT

SECONDS = 20.0


class RawCaller:
    """A caller's connection to a relay; `h2` makes frames, `send` sends any bytes."""

    def __init__(
        self,
        port: int,
        ca: Path,
        *,
        protocols: tuple[str, ...] = ("h2",),
        greets: bool = True,
        buffer: int | None = None,
    ) -> None:
        """`buffer`: bytes that the system takes in for it."""
        context = ssl.create_default_context(cafile=ca)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        plain = socket.socket()
        if buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        plain.settimeout(SECONDS)
        plain.connect(("127.0.0.1", port))
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.events: list[h2.events.Event] = []
        if greets:
            self.h2.initiate_connection()
            self.flush()

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.send(self.h2.data_to_send())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, number: int, *more: tuple[str, str], path: str = INPUT, ends: bool = False) -> None:
        """Open a stream, without sending it yet."""
        common = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "relay.example.com")]
        self.h2.send_headers(
            number, [*common, ("content-type", "application/grpc"), ("te", "trailers"), *more], end_stream=ends
        )

    def tell(self, number: int, data: bytes) -> None:
        """Send data on a stream as its windows allow."""
        while data:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                assert self.hear(h2.events.WindowUpdated), "the relay has hung up"
            self.h2.send_data(number, data[: max(0, room)])
            data = data[max(0, room) :]
            self.flush()

    def hear(self, kind: type[h2.events.Event]) -> h2.events.Event | None:
        """Read until such an event comes; None when the relay has hung up instead."""
        at = 0
        with suppress(OSError, h2.exceptions.ProtocolError):
            while True:
                found = next((each for each in self.events[at:] if isinstance(each, kind)), None)
                if found is not None:
                    self.events.remove(found)
                    return found
                at = len(self.events)
                data = self.socket.recv(1 << 16)
                if not data:
                    return None
                self.events += self.h2.receive_data(data)
                self.flush()
        return None

    def refusal(self) -> bytes | None:
        """The gRPC status of the next stream that is answered with nothing else; None when the relay hangs up."""
        answer = self.hear(h2.events.ResponseReceived)
        return dict(answer.headers)[b"grpc-status"] if isinstance(answer, h2.events.ResponseReceived) else None

    def is_hung_up_on(self) -> bool:
        """Read until the relay hangs up; False where it does not for long."""
        try:
            while self.socket.recv(1 << 16):
                continue
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


class RawEngine:
    """An engine's socket; each connection's first stream gets what the script does once it has a message."""

    def __init__(self, path: Path, script: Callable[[H2Connection, socket.socket], None], window: int = 65_535) -> None:
        """`window`: bytes that may come ahead, on a stream and in all."""
        self._window = window
        path.unlink(missing_ok=True)
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        talk = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        talk.local_settings = Settings(client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        talk.initiate_connection()
        if self._window > 65_535:
            talk.increment_flow_control_window(self._window - 65_535)
        connection.sendall(talk.data_to_send())
        while data := connection.recv(1 << 16):
            events = talk.receive_data(data)
            connection.sendall(talk.data_to_send())
            if any(isinstance(each, h2.events.DataReceived) for each in events):
                self._script(talk, connection)
                if rest := talk.data_to_send():
                    connection.sendall(rest)
                # Until the relay hangs up.
                while connection.recv(1 << 16):
                    continue
                return
