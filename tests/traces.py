"""Traces that stay in memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crishim.interfaces.tracing import ServedRpc, serving
from crishim.tracing import tracer_of


class Recording:
    """A tracer whose spans stay in memory."""

    def __init__(self, sampling: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer = tracer_of(SimpleSpanProcessor(self._exporter), sampling, "1.2.3")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        (found,) = [span for span in self.spans if span.name.rpartition("/")[2] == name]
        return found

    def parents(self) -> list[tuple[str, str]]:
        """The name of each span with that of its parent, sorted; without the service."""
        names = {span.context.span_id: span.name.rpartition("/")[2] for span in self.spans if span.context}
        return sorted(
            (names[span.context.span_id], names[span.parent.span_id] if span.parent else "")
            for span in self.spans
            if span.context
        )

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """A traced RPC around the `with`."""
        rpc = self.tracer.begin_rpc("service", "rpc", ())
        with serving(ServedRpc(number=1, span=rpc)):
            yield
        assert rpc is not None
        rpc.end()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def status(span: ReadableSpan) -> str:
    return span.status.status_code.name
