"""The path of every call: decode, call, convert errors, encode. No socket, no gRPC.

    dispatch = Dispatcher(services)
    reply = await dispatch(request)                                # a message of any CRI stubs; its name selects the row
    reply_bytes = await dispatch.call("RunPodSandbox", request_bytes)
    async for reply_bytes in dispatch.stream("StreamContainers", request_bytes): ...

A call raises only `CrishimError`s (or `CancelledError`). Until `services` is entered every call is `Unavailable`.
"""

import itertools
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeAlias

import attrs
from google.protobuf import message_factory
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim.cri.calls import TypedCalls
from crishim.cri.routes import Row, Subscription, Unary, routes
from crishim.cri.subject import CREATED, RequestSubject
from crishim.errors import Code, CrishimError, InvalidArgument, Unavailable, Unimplemented, Unknown
from crishim.interfaces.tracing import ServedRpc, Tracer, serving
from crishim.service.services import Services

_log = logging.getLogger("crishim.rpc")

_EXPECTED: Final = frozenset({Code.OK, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.CANCELLED})
_READ: Final = re.compile("(List|Stream).*|.*(Status|Stats)|Version|RuntimeConfig|ImageFsInfo")
"""Read-only RPCs. A kubelet sends some 20 of these a second."""
_SERVER_FAULTS: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
"""The codes with which a server's span has failed (OpenTelemetry's semantic conventions for gRPC)."""

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""The metadata of a gRPC call."""


@attrs.frozen(kw_only=True)
class Call:
    """A finished call, for the log and other observers. `subject` is the id or image reference of the request."""

    method: str
    subject: str
    code: Code
    seconds: float
    message: str = ""


def log_call(call: Call) -> None:
    """Log one line per call: unexpected errors as warnings, successful reads at level DEBUG."""
    level = logging.INFO if call.code in _EXPECTED else logging.WARNING
    if call.code is Code.OK and _READ.fullmatch(call.method):
        level = logging.DEBUG
    if _log.isEnabledFor(level):
        note = f" {call.message}" if call.message else ""
        _log.log(level, "%s %s %s %.1f ms%s", call.method, call.subject or "-", call.code.name, call.seconds * 1e3, note)


class Dispatcher(TypedCalls):
    """Every RPC of CRI over one `Services`. `observe` is called with each finished call; `tracer` makes a span of each."""

    def __init__(self, services: Services, observe: Callable[[Call], None] = log_call, *, tracer: Tracer | None = None) -> None:
        self._services = services
        self._observe = observe
        self._tracer = tracer
        self._numbers = itertools.count(1)
        self.routes = routes()
        self._by_request = {row.request.DESCRIPTOR.name: row for row in self.routes.values()}

    async def _response(self, request: Message) -> Any:
        row = self._row_of(request)
        data = await self.call(row.name, request.SerializeToString())
        return self._reply_class(request, row)().FromString(data)

    async def _responses(self, request: Message) -> AsyncIterator[Any]:
        row = self._row_of(request)
        reply = self._reply_class(request, row)
        async for data in self.stream(row.name, request.SerializeToString()):
            yield reply().FromString(data)

    async def call(self, name: str, data: bytes, metadata: Metadata = ()) -> bytes:
        """The encoded response to the RPC `name`. Streaming RPCs raise `Unimplemented` here.

        `metadata` may have the client's trace context.
        """
        row = self._row(name)
        if not isinstance(row, Unary):
            raise Unimplemented(name, f"{name} streams its reply")
        watch = self._begin(row, metadata)
        with watch, serving(watch.rpc):
            arguments = row.decode(watch.parse(data))
            result = await row.call(self._services)(*arguments)
            watch.created(result)
            reply = row.encode(result)
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

    async def stream(self, name: str, data: bytes, metadata: Metadata = ()) -> AsyncIterator[bytes]:
        """The encoded responses to the streaming RPC `name`."""
        row = self._row(name)
        watch = self._begin(row, metadata)
        with watch:
            request = watch.parse(data)
            if isinstance(row, Unary):
                raise Unimplemented(name, f"{name} does not stream its reply")
            if isinstance(row, Subscription):
                async for event in row.subscribe(self._services):
                    yield row.encode(event).SerializeToString()
            else:
                with serving(watch.rpc):  # not around a yield: the consumer would run inside
                    result = await row.call(self._services)(*row.decode(request))
                for chunk in row.chunks(result):
                    yield chunk

    def _begin(self, row: Row, metadata: Metadata) -> "_CallRecord":
        span = None if self._tracer is None else self._tracer.begin_rpc(row.service, row.name, metadata)
        return _CallRecord(self._services, row, self._observe, ServedRpc(number=next(self._numbers), span=span))

    def _row(self, name: str) -> Row:
        row = self.routes.get(name)
        if row is None:
            raise Unimplemented(name, f"{name} is not a known RPC of CRI")
        return row

    def _row_of(self, request: Message) -> Row:
        row = self._by_request.get(request.DESCRIPTOR.name)
        if row is None:
            raise Unimplemented(request.DESCRIPTOR.name, f"{request.DESCRIPTOR.name} is not a known request of CRI")
        return row

    def _reply_class(self, request: Message, row: Row) -> type[Message]:
        file: Any = request.DESCRIPTOR.file  # protobuf has two descriptor classes, and the stubs name neither
        service = file.services_by_name[row.service.rpartition(".")[2]]
        name = service.methods_by_name[row.name].output_type.name
        return message_factory.GetMessageClass(file.message_types_by_name[name])


class _CallRecord:
    """Wraps one call: checks readiness before it, converts its errors, and calls the observer after it."""

    def __init__(self, services: Services, row: Row, observe: Callable[[Call], None], rpc: ServedRpc) -> None:
        self.rpc = rpc
        self._services = services
        self._row = row
        self._observe = observe
        self._subject = ""
        self._begin = 0.0

    def parse(self, data: bytes) -> Any:
        """The request decoded from `data`. Raises `InvalidArgument`."""
        try:
            request = self._row.request.FromString(data)
        except UNDECODABLE as error:
            raise InvalidArgument(self._row.request.DESCRIPTOR.name, f"cannot be decoded: {error}") from error
        subject = RequestSubject.of(request, self._services)
        self._subject = subject.name
        self.rpc.pod = subject.pod
        if self.rpc.span is not None:
            self.rpc.span.annotate(subject.attributes())
        return request

    def created(self, result: object) -> None:
        """Add the id of what the call has created to its span."""
        if self.rpc.span is not None and isinstance(result, str) and self._row.name in CREATED:
            self.rpc.span.annotate({CREATED[self._row.name]: result})

    def __enter__(self) -> None:
        self._begin = self._services.clock.monotonic()
        if not self._services.ready:
            error = Unavailable("the runtime is not initialised yet")
            self._end_span(error.code, error)  # `__exit__` is not called
            raise error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        code, message = Code.OK, ""
        if isinstance(error, CrishimError):
            code, message = error.code, error.message
        elif isinstance(error, Exception):
            code, message = Code.UNKNOWN, f"{type(error).__name__}: {error}"
        elif error is not None:
            code = Code.CANCELLED
        seconds = self._services.clock.monotonic() - self._begin
        call = Call(method=self._row.name, subject=self._subject, code=code, seconds=seconds, message=message)
        unexpected = isinstance(error, Exception) and not isinstance(error, CrishimError)
        with serving(self.rpc):
            if unexpected:
                _log.error("%s failed with an unexpected error", self._row.name, exc_info=error)
            self._observe(call)
        self._end_span(code, error)
        if unexpected:
            raise Unknown(message) from error

    def _end_span(self, code: Code, error: BaseException | None) -> None:
        if (span := self.rpc.span) is not None:
            span.annotate({"rpc.grpc.status_code": code.value})
            span.end(error if code in _SERVER_FAULTS else None)
