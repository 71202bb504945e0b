"""A collector of traces: it receives OTLP over gRPC on the loopback."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Final

import attrs
import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"


@attrs.frozen
class ReceivedSpan:
    """A span. `service` is the `service.name` of the program that sent it; `trace`, `number` and `parent` are its ids."""

    service: str
    name: str
    trace: bytes
    number: bytes
    parent: bytes
    attributes: dict[str, str]


class Collector:
    """What has arrived at `address`, HOST:PORT."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: dict[tuple[bytes, bytes], ReceivedSpan] = {}
        """By the ids of trace and span."""

    def export(self, request: Any, _: Any) -> Any:
        """The call Export of `SERVICE`."""
        for group in request.resource_spans:
            service = _texts(group.resource.attributes).get("service.name", "")
            for span in (span for scope in group.scope_spans for span in scope.spans):
                ids = (span.trace_id, span.span_id, span.parent_span_id)
                self.spans[span.trace_id, span.span_id] = ReceivedSpan(service, span.name, *ids, _texts(span.attributes))
        return otlp.ExportTraceServiceResponse()

    def upwards(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """A span, its parent in the same trace, and so on up to the root, or to a span whose parent has not arrived."""
        found = [span]
        while parent := self.spans.get((span.trace, found[-1].parent)):
            found.append(parent)
        return found


def _texts(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes if each.value.string_value}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that receives inside the `with`."""
    collector = Collector()
    export: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=otlp.ExportTraceServiceRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": export}),))
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None)
