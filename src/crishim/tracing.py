"""Traces by OpenTelemetry's SDK: spans are exported in batches, by OTLP over gRPC.

Spans are recorded on the event loop and exported by a thread. A collector that is away, or hangs, delays nothing: spans wait
in a bounded queue, and are dropped when it is full. The SDK reads its own environment variables too
(OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_MAX_QUEUE_SIZE, ...).
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from crishim.errors import Code, CrishimError
from crishim.interfaces.tracing import Span, SpanAttributes, Tracer

__all__ = ["RpcTracer", "exporting", "tracer_of"]

_GRACE: Final = 2.0
"""Seconds for the export of the last spans when the server ends."""

_TEXT: Final = 2048
"""The most characters of an attribute or of an error: a request may have a name of many megabytes."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_W3C: Final = frozenset(_PROPAGATOR.fields)


class RecordedSpan(Span):
    """A span of the SDK."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        """See `Span`."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def child(self, name: str, attributes: SpanAttributes) -> Span:
        """See `Span`."""
        parent = trace.set_span_in_context(self._span, Context())
        return RecordedSpan(self._tracer, self._tracer.start_span(name, parent, attributes=dict(attributes)))

    def annotate(self, attributes: SpanAttributes) -> None:
        """See `Span`."""
        self._span.set_attributes(attributes)

    def end(self, error: BaseException | None = None) -> None:
        """See `Span`. The attribute `error.type` is the name of a code of gRPC, or of an exception."""
        if error is not None:
            kind, message = _described(error)
            self._span.set_attribute("error.type", kind)
            self._span.set_status(trace.StatusCode.ERROR, message.encode("utf-8", "replace").decode()[:_TEXT])
        self._span.end()


class RpcTracer(Tracer):
    """Spans of RPCs by a tracer of the SDK's, which samples, limits and exports them."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin_rpc(self, service: str, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span | None:
        """See `Tracer`. An invalid trace context counts as none (W3C Trace Context, 3.2.2.3)."""
        carrier = {key: value for key, value in metadata if key in _W3C and isinstance(value, str)}
        span = self._tracer.start_span(
            f"{service}/{method}",
            _PROPAGATOR.extract(carrier, Context()),
            trace.SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return RecordedSpan(self._tracer, span) if span.is_recording() else None


def tracer_of(processor: SpanProcessor, sampling: float, version: str) -> RpcTracer:
    """A tracer whose spans go to `processor`. `sampling` is the share of RPCs without a parent that is recorded."""
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(sampling)),
        Resource.create({"service.name": "crishim", "service.version": version}),
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_span_attribute_length=_TEXT),
    )
    provider.add_span_processor(processor)
    return RpcTracer(provider.get_tracer("crishim", version))


@contextlib.asynccontextmanager
async def exporting(endpoint: str, sampling: float, version: str) -> AsyncIterator[RpcTracer]:
    """A tracer that exports to `endpoint`, `http://HOST:PORT` or `https://HOST:PORT`, inside the `async with`.

    At its end the spans that are still queued are exported, for two seconds at most.
    """
    exporter = OTLPSpanExporter(endpoint)
    processor = BatchSpanProcessor(exporter)
    try:
        yield tracer_of(processor, sampling, version)
    finally:
        await _close(processor, exporter)


async def _close(processor: BatchSpanProcessor, exporter: OTLPSpanExporter) -> None:
    """Export the rest. A daemon thread waits for it, since the interpreter would wait for one of the loop's executor."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        processor.shutdown()  # type: ignore[no-untyped-call]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=close, name="end of traces", daemon=True).start()
    try:
        async with asyncio.timeout(_GRACE):
            await closed.wait()
    except TimeoutError:
        exporter.shutdown(timeout_millis=0)  # ends the export under way


def _described(error: BaseException) -> tuple[str, str]:
    if isinstance(error, CrishimError):
        return error.code.name, error.message
    if isinstance(error, asyncio.CancelledError):
        return Code.CANCELLED.name, "cancelled"
    return type(error).__name__, str(error)
