"""A proxy between a client of CRI and a runtime, which passes every byte on and reports each finished call.

Deadlines, metadata and errors are passed on; a call that the client gives up is given up. Nothing is interpreted, so RPCs that
this version does not know are passed on, too, unreported.
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from crishim.errors import Code
from crishim.linux.sockets import private_files
from crishim.recording.lines import METHODS, RecordedCall
from crishim.server import own_socket
from crishim.service.backends import MESSAGE_LIMIT

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.default_authority", "localhost"),
    ("grpc.max_reconnect_backoff_ms", 3000),  # as the kubelet has it
)
_KEPT_METADATA: Final = ("traceparent", "tracestate", "authorization")
_MOST_REPLIES: Final = 1000
"""How many replies of one stream are reported; events may come for as long as a node lives."""

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def recording(listen: Path, endpoint: str, report: Callable[[RecordedCall], None]) -> AsyncIterator[None]:
    """Serve CRI at the unix socket `listen`, by the runtime at `endpoint`. `report` is called with each finished call.

    Raises `FailedPrecondition` if another process serves on the socket.
    """
    listen.parent.mkdir(parents=True, exist_ok=True)
    with own_socket(listen):
        async with grpc.aio.insecure_channel(endpoint, options=_OPTIONS) as channel:
            server = grpc.aio.server(options=_OPTIONS)
            server.add_generic_rpc_handlers((_Proxy(channel, report),))
            with private_files():
                server.add_insecure_port(f"unix:{listen}")
            await server.start()
            try:
                yield
            finally:
                await server.stop(1.0)


class _Proxy(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, channel: Any, report: Callable[[RecordedCall], None]) -> None:
        self._channel = channel
        self._report = report

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        method = METHODS.get(path.rpartition("/")[2])
        if method is not None and method.streams:
            return grpc.unary_stream_rpc_method_handler(self._stream(path))
        return grpc.unary_unary_rpc_method_handler(self._unary(path))

    def _unary(self, path: str) -> Any:
        async def handle(request: bytes, context: Any) -> bytes:
            watch = _Watch(path, request, context, self._report)
            call = self._channel.unary_unary(path)
            with watch:
                try:
                    reply: bytes = await call(request, timeout=watch.timeout, metadata=watch.metadata)
                except grpc.aio.AioRpcError as error:
                    watch.failed(error)
                    await context.abort(error.code(), error.details() or "")
                    raise
                watch.replies.append(reply)
                return reply

        return handle

    def _stream(self, path: str) -> Any:
        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            watch = _Watch(path, request, context, self._report)
            call = self._channel.unary_stream(path)
            with watch:
                try:
                    async for reply in call(request, timeout=watch.timeout, metadata=watch.metadata):
                        if len(watch.replies) < _MOST_REPLIES:
                            watch.replies.append(reply)
                        yield reply
                except grpc.aio.AioRpcError as error:
                    watch.failed(error)
                    await context.abort(error.code(), error.details() or "")

        return handle


class _Watch:
    """Collects one call, and reports it at its end."""

    def __init__(self, path: str, request: bytes, context: Any, report: Callable[[RecordedCall], None]) -> None:
        self._method = path.rpartition("/")[2]
        self._request = request
        self._report = report
        self._code, self._message = Code.CANCELLED, ""
        self._begin = time.monotonic()
        remaining = context.time_remaining()
        self.timeout: float | None = remaining if remaining is not None and remaining < 1e9 else None
        self.metadata = tuple((key, value) for key, value in context.invocation_metadata() or () if key in _KEPT_METADATA)
        self.replies: list[bytes] = []

    def failed(self, error: grpc.aio.AioRpcError) -> None:
        self._code, self._message = Code(error.code().value[0]), error.details() or ""

    def __enter__(self) -> None:
        """The call begins."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._method not in METHODS:
            return
        code = Code.OK if kind is None else self._code
        call = RecordedCall(
            method=self._method,
            request=self._request,
            replies=self.replies,
            code=code,
            message=self._message,
            deadline=self.timeout or 0.0,
            seconds=time.monotonic() - self._begin,
        )
        try:
            self._report(call)
        except OSError as error:  # a full disk must not stop a node
            _log.warning("a call of %s is not recorded: %s", self._method, error)
