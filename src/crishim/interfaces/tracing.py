"""The RPC that the current task serves, for log lines and for traces.

A task inherits both from the task that has started it, as with every context variable. So the work of an RPC also has them
after its client has disconnected, and work that several RPCs join has those of the first. What runs on its own from there on
(a wait for an exit, a retry) is started with `outside_rpcs`.
"""

import contextlib
import contextvars
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import attrs

from crishim.model.values import EMPTY

__all__ = ["ServedRpc", "Span", "SpanAttributes", "Tracer"]

SpanAttributes: TypeAlias = Mapping[str, str | int]
"""Named by OpenTelemetry's semantic conventions, where these have a name."""


class Span(Protocol):
    """A part of a trace that is recorded, from its creation until `end`."""

    @property
    @abstractmethod
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    @abstractmethod
    def child(self, name: str, attributes: SpanAttributes) -> "Span":
        """Begin a span below this one, which may have ended."""

    @abstractmethod
    def annotate(self, attributes: SpanAttributes) -> None:
        """Add attributes, until `end`."""

    @abstractmethod
    def end(self, error: BaseException | None = None) -> None:
        """End the span, with the status of an error if there is one. Called once."""


class Tracer(Protocol):
    """Decides which RPCs are traced."""

    @abstractmethod
    def begin_rpc(self, service: str, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span | None:
        """Begin the span of an RPC, below the client's span that the gRPC metadata name; None if it is not recorded.

        Called on the event loop, and never blocks or raises, whatever the metadata are.
        """


@attrs.define(kw_only=True, eq=False)
class ServedRpc:
    """An RPC under way. `number` counts the RPCs of this process; `pod` is `NAMESPACE/NAME`, empty if it concerns no pod."""

    number: int
    pod: str = ""
    span: Span | None = None

    @property
    def trace_id(self) -> str:
        """The id of its trace; empty if it is not traced."""
        return "" if self.span is None else self.span.trace_id


_rpc: Final[contextvars.ContextVar[ServedRpc | None]] = contextvars.ContextVar("crishim RPC", default=None)
_span: Final[contextvars.ContextVar[Span | None]] = contextvars.ContextVar("crishim span", default=None)


def current_rpc() -> ServedRpc | None:
    """The RPC that the current task serves; None outside of RPCs."""
    return _rpc.get()


@contextlib.contextmanager
def serving(rpc: ServedRpc) -> Iterator[None]:
    """Serve an RPC inside the `with`."""
    outer, parent = _rpc.set(rpc), _span.set(rpc.span)
    try:
        yield
    finally:
        _rpc.reset(outer)
        _span.reset(parent)


@contextlib.contextmanager
def span(name: str, attributes: SpanAttributes = EMPTY) -> Iterator[Span | None]:
    """A child of the current span around the `with`; None if nothing is traced. An exception is the span's error."""
    parent = _span.get()
    if parent is None:
        yield None
        return
    child = parent.child(name, attributes)
    token = _span.set(child)
    try:
        yield child
    except BaseException as error:
        child.end(error)
        raise
    else:
        child.end()
    finally:
        _span.reset(token)


def outside_rpcs() -> contextvars.Context:
    """A copy of the current context without an RPC, for `create_task(..., context=...)`."""
    context = contextvars.copy_context()
    context.run(_rpc.set, None)
    context.run(_span.set, None)
    return context
