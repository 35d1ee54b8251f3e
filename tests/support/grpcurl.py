"""What grpcurl does with a command line, as far as the documentation uses it: it knows services by reflection only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

_TIMEOUT = 60.0


def run(arguments: Sequence[str], address: str) -> list[Any]:
    """Runs a command line without its first word against a server, wherever it says that the server is.

    Returns:
        Names of services, the descriptor of what is described, or the messages of the answer.

    Raises:
        SystemExit: there is no such option.
        grpc.RpcError: the call failed.
    """
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-cacert", type=Path)
    parser.add_argument("-max-time", type=float, default=_TIMEOUT)
    parser.add_argument("-d", default="{}")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("target")
    parser.add_argument("verb")
    parser.add_argument("symbol", nargs="?")
    options = parser.parse_args(arguments)
    assert options.target.endswith(":50051")
    assert options.plaintext != bool(options.cacert), "in plain text or with TLS"
    if options.cacert:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(options.cacert.read_bytes()))
    else:
        channel = grpc.insecure_channel(address)
    headers = [(name.strip(), value.strip()) for name, _, value in (header.partition(":") for header in options.H)]
    with channel:
        server = _Reflection(channel, headers)
        if options.verb == "list":
            return server.services()
        if options.verb == "describe":
            return [server.pool(options.symbol).FindServiceByName(options.symbol)]
        service, _, name = options.verb.partition("/")
        method = server.pool(service).FindServiceByName(service).methods_by_name[name]
        return _call(channel, method, options.d, headers, options.max_time)


class _Reflection:
    """Asks a server what it has."""

    def __init__(self, channel: grpc.Channel, headers: Sequence[tuple[str, str]]) -> None:
        self._stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        self._headers = headers

    def services(self) -> list[str]:
        """Names of its services."""
        response = self._ask(reflection_pb2.ServerReflectionRequest(list_services=""))
        return [service.name for service in response.list_services_response.service]

    def pool(self, symbol: str) -> descriptor_pool.DescriptorPool:
        """A pool with the file that has a symbol, and the files that it imports."""
        response = self._ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
        pool = descriptor_pool.DescriptorPool()
        self._add(pool, response, set())
        return pool

    def _add(self, pool: descriptor_pool.DescriptorPool, response: Any, known: set[str]) -> None:
        for serialized in response.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            if file.name in known:
                continue
            known.add(file.name)
            for name in file.dependency:
                self._add(pool, self._ask(reflection_pb2.ServerReflectionRequest(file_by_filename=name)), known)
            pool.Add(file)

    def _ask(self, request: reflection_pb2.ServerReflectionRequest) -> Any:
        [response] = self._stub.ServerReflectionInfo(iter([request]), timeout=_TIMEOUT, metadata=self._headers)
        assert not response.HasField("error_response"), response
        return response


def _call(
    channel: grpc.Channel, method: MethodDescriptor, data: str, headers: Sequence[tuple[str, str]], timeout: float
) -> list[Any]:
    request = json_format.Parse(data, message_factory.GetMessageClass(method.input_type)())
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer_type = message_factory.GetMessageClass(method.output_type)
    call = make(path, request_serializer=type(request).SerializeToString, response_deserializer=answer_type.FromString)
    answer = call(request, timeout=timeout, metadata=headers)
    return list(answer) if method.server_streaming else [answer]
