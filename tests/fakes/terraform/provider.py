"""A provider of Terraform's for tests: real schemas, an imagined cloud behind them.

Terraform reaches it by `TF_REATTACH_PROVIDERS`, over gRPC, as it reaches a provider under a debugger. Which arguments
there are, of which types, and which of them are needed, Terraform itself checks by the schema.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import msgspec
from grpc_tools import protoc  # type: ignore[import-untyped] # it has none

from tests.fakes.terraform.cloud import Cloud, RefusedError

HERE = Path(__file__).parent
UNKNOWN = msgspec.msgpack.Ext(0, b"\0")
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}

Value = dict[str, Any]


@cache
def pb() -> Any:
    """The protocol's messages, generated when they are first needed."""
    with TemporaryDirectory() as folder:
        status = protoc.main(["protoc", f"-I{HERE}", f"--python_out={folder}", str(HERE / "tfplugin5.proto")])
        if status:
            raise RuntimeError("tfplugin5.proto cannot be compiled")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("tfplugin5_pb2")
        finally:
            sys.path.remove(folder)


@cache
def schemas() -> dict[str, Any]:
    """Every provider's schemas, as `extract.py` wrote them."""
    found: dict[str, Any] = json.loads((HERE / "schemas.json").read_text())
    return found


class Provider:
    """One provider's side of the protocol; the methods have the protocol's names."""

    def __init__(self, schema: Mapping[str, Any], cloud: Cloud) -> None:
        self._schema = schema
        self._cloud = cloud

    def GetSchema(self, _: Any) -> Any:  # noqa: N802
        """Which arguments there are."""
        reply = pb().GetProviderSchema.Response(provider=_message(self._schema["provider"]))
        for name, each in self._schema["resources"].items():
            reply.resource_schemas[name].CopyFrom(_message(each))
        for name, each in self._schema["data"].items():
            reply.data_source_schemas[name].CopyFrom(_message(each))
        return reply

    def PrepareProviderConfig(self, request: Any) -> Any:  # noqa: N802
        """Every configuration that fits the schema will do."""
        return pb().PrepareProviderConfig.Response(prepared_config=request.config)

    def ValidateResourceTypeConfig(self, _: Any) -> Any:  # noqa: N802
        """What fits the schema is valid."""
        return pb().ValidateConfig.Response()

    ValidateDataSourceConfig = ValidateResourceTypeConfig

    def Configure(self, _: Any) -> Any:  # noqa: N802
        """There is nobody to log in to."""
        return pb().Configure.Response()

    def UpgradeResourceState(self, request: Any) -> Any:  # noqa: N802
        """There is one version."""
        return pb().UpgradeResourceState.Response(upgraded_state=pb().DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request: Any) -> Any:  # noqa: N802
        """Nobody else changes anything."""
        return pb().ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any) -> Any:  # noqa: N802
        """Of a new resource, what the cloud adds is not known yet."""
        planned, prior = _decoded(request.proposed_new_state), _decoded(request.prior_state)
        if planned is not None and prior is None:
            planned = _each_computed(self._schema["resources"][request.type_name], planned, lambda *_: UNKNOWN)
        return pb().PlanResourceChange.Response(planned_state=_encoded(planned))

    def ApplyResourceChange(self, request: Any) -> Any:  # noqa: N802
        """Make, change or remove it."""
        planned, prior = _decoded(request.planned_state), _decoded(request.prior_state)
        if planned is None or prior is not None:
            return pb().ApplyResourceChange.Response(new_state=request.planned_state)
        schema = self._schema["resources"][request.type_name]
        try:
            wanted = _each_computed(schema, planned, lambda *_: None)
            added = self._cloud.resource(request.type_name, wanted)
        except RefusedError as error:
            told = pb().Diagnostic(severity=1, summary=f"{request.type_name}: {error}")
            return pb().ApplyResourceChange.Response(new_state=_encoded(None), diagnostics=[told])
        made = _each_computed(schema, planned, lambda name, kind: added.get(name, _made(name, kind)))
        return pb().ApplyResourceChange.Response(new_state=_encoded(made))

    def ReadDataSource(self, request: Any) -> Any:  # noqa: N802
        """What the cloud knows."""
        wanted = _decoded(request.config)
        found = self._cloud.data(request.type_name, wanted)
        schema = self._schema["data"][request.type_name]
        state = _each_computed(schema, wanted, lambda name, kind: found.get(name, _made(name, kind)))
        return pb().ReadDataSource.Response(state=_encoded(state))

    def Stop(self, _: Any) -> Any:  # noqa: N802
        """There is nothing to stop."""
        return pb().Stop.Response()


@contextmanager
def serving(cloud: Cloud) -> Iterator[dict[str, str]]:
    """Serve every provider; the environment by which Terraform finds them."""
    attached: dict[str, Any] = {}
    servers = []
    for name, schema in schemas().items():
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((_handlers(Provider(schema, cloud)),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        attached[f"registry.terraform.io/hashicorp/{name}"] = {
            "Protocol": "grpc",
            "ProtocolVersion": 5,
            "Pid": os.getpid(),
            "Test": True,
            "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
        }
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps(attached)}
    finally:
        for server in servers:
            server.stop(None).wait()


def _handlers(provider: Provider) -> grpc.GenericRpcHandler:
    service = pb().DESCRIPTOR.services_by_name["Provider"]
    factory = importlib.import_module("google.protobuf.message_factory")

    def handler(method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        call: Callable[[Any], Any] = getattr(provider, method.name)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _: call(request),
            request_deserializer=factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: handler(method) for method in service.methods}
    )


def _message(schema: Mapping[str, Any]) -> Any:
    return pb().Schema(block=_block(schema))


def _block(schema: Mapping[str, Any]) -> Any:
    kinds = pb().Schema
    return kinds.Block(
        attributes=[
            kinds.Attribute(
                name=name,
                type=json.dumps(kind).encode(),
                required="r" in flags,
                optional="o" in flags,
                computed="c" in flags,
            )
            for name, (kind, flags) in schema["attributes"].items()
        ],
        block_types=[
            kinds.NestedBlock(
                type_name=name,
                block=_block(each),
                nesting=NESTING[each["nesting"]],
                min_items=each["min"],
                max_items=each["max"],
            )
            for name, each in schema["blocks"].items()
        ],
    )


def _each_computed(schema: Mapping[str, Any], value: Value, make: Callable[[str, Any], Any]) -> Value:
    """The value with what is computed in it, and not known, made."""
    found = dict(value)
    for name, (kind, flags) in schema["attributes"].items():
        if "c" in flags and (found.get(name) is None or isinstance(found[name], msgspec.msgpack.Ext)):
            found[name] = make(name, kind)
    for name, each in schema["blocks"].items():
        if isinstance(found.get(name), list):
            found[name] = [_each_computed(each, one, make) for one in found[name]]
    return found


def _made(name: str, kind: Any) -> Any:
    """Something of that type."""
    if isinstance(kind, str):
        return {"string": f"made-{name}", "number": 1, "bool": False}[kind]
    return {} if kind[0] == "map" else []


def _decoded(value: Any) -> Any:
    return msgspec.msgpack.decode(value.msgpack) if value.msgpack else json.loads(value.json)


def _encoded(value: Any) -> Any:
    return pb().DynamicValue(msgpack=msgspec.msgpack.encode(value))
