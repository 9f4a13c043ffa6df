"""A Terraform plugin that has a schema and does nothing: with it ``terraform validate`` says whether a configuration
fits the provider, and ``terraform test`` runs with ``mock_provider``, which asks the plugin for nothing else.

It is one process, to which Terraform is told to attach itself, since Terraform would start another for each of hundreds
of test runs. It runs in an environment of its own (tests/tools/terraform.sh), because the package that has Terraform's
plugin protocol wants an older protobuf than TensorFlow does.

usage: python tests/schema_provider.py SCHEMA.json SOCKET (until standard input closes; says 'ready')
"""

from __future__ import annotations

import json
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from tf.gen import grpc_controller_pb2 as control
from tf.gen import grpc_controller_pb2_grpc as controller
from tf.gen import grpc_stdio_pb2_grpc as stdio
from tf.gen import tfplugin_pb2 as protocol
from tf.gen import tfplugin_pb2_grpc as service

_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}


def _block(block: dict[str, Any]) -> Any:
    return protocol.Schema.Block(
        attributes=[
            protocol.Schema.Attribute(
                name=name,
                type=json.dumps(its["type"]).encode(),
                **{word: its[word] for word in ("required", "optional", "computed")},
            )
            for name, its in sorted(block["attributes"].items())
        ],
        block_types=[
            protocol.Schema.NestedBlock(
                type_name=name,
                block=_block(its["block"]),
                nesting=_NESTING[its["nesting"]],
                min_items=its["min"],
                max_items=its["max"],
            )
            for name, its in sorted(block["blocks"].items())
        ],
    )


def _schema(block: dict[str, Any]) -> Any:
    return protocol.Schema(block=_block(block))


class Provider(service.ProviderServicer):  # type: ignore[misc]
    """What is asked of a provider before anything is planned; all else is answered 'unimplemented'."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = protocol.GetProviderSchema.Response(
            provider=_schema(schema["provider"]),
            provider_meta=protocol.Schema(block=protocol.Schema.Block()),
            resource_schemas={name: _schema(block) for name, block in schema["resources"].items()},
            data_source_schemas={name: _schema(block) for name, block in schema["data"].items()},
        )

    def GetMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.GetMetadata.Response()

    def GetProviderSchema(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._schema

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.ValidateDataResourceConfig.Response()

    def GetFunctions(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.GetFunctions.Response()

    def StopProvider(self, request: Any, context: Any) -> Any:  # noqa: N802
        return protocol.StopProvider.Response()


class Controller(controller.GRPCControllerServicer):  # type: ignore[misc]
    """Terraform says goodbye after each command; the next one is answered all the same."""

    def Shutdown(self, request: Any, context: Any) -> Any:  # noqa: N802
        return control.Empty()


class Output(stdio.GRPCStdioServicer):  # type: ignore[misc]
    """What the plugin would print: nothing."""

    def StreamStdio(self, request: Any, context: Any) -> Any:  # noqa: N802
        return iter(())


def serve(schema: dict[str, Any], socket: str) -> grpc.Server:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    service.add_ProviderServicer_to_server(Provider(schema), server)
    controller.add_GRPCControllerServicer_to_server(Controller(), server)
    stdio.add_GRPCStdioServicer_to_server(Output(), server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    return server


if __name__ == "__main__":
    running = serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    running.stop(grace=None).wait()
