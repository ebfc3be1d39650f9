"""The relay: TLS gRPC in, the engine's Unix socket out, byte for byte."""

from emulator.relay.access import Certificates, RelayTokens
from emulator.relay.bounds import Bounds, Gate
from emulator.relay.server import Relay

__all__ = ["Bounds", "Certificates", "Gate", "Relay", "RelayTokens"]
