"""CRI over gRPC: both services on one unix socket, from the table of `cri.routes`.

The socket has mode 0600 and is taken over only if no process serves on it: a lock file beside it shows that. Messages may have
up to 16 MiB in both directions, as CRI's clients expect. Ending the server leaves containers running.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from crishim.cri.dispatch import Dispatcher
from crishim.cri.routes import Unary
from crishim.errors import CrishimError, FailedPrecondition
from crishim.linux.sockets import is_served, private_files
from crishim.service.backends import MESSAGE_LIMIT

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_STATUS: Final = {status.value[0]: status for status in grpc.StatusCode}
_MESSAGE_BYTES: Final = 2048  # a status message travels in a header, and headers have a bound of 8 KiB
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.so_reuseport", 0),
)


@contextlib.asynccontextmanager
async def serve(dispatch: Dispatcher, path: str | Path, *, grace: float = 2.0) -> AsyncIterator[grpc.aio.Server]:
    """Serve on the unix socket `path` inside the `async with`; calls under way get `grace` seconds at its end.

    Raises `FailedPrecondition` if another process serves on the socket.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with own_socket(path):
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(_handlers(dispatch))
        with private_files():
            server.add_insecure_port(f"unix:{path}")
        await server.start()
        _log.info("serving CRI on %s", path)
        try:
            yield server
        finally:
            await server.stop(grace)


@contextlib.contextmanager
def own_socket(path: Path) -> Iterator[None]:
    """Own the path of a socket for the block: lock it, remove the socket of a dead server, and remove our own at the end.

    Raises `FailedPrecondition` if another process serves on it.
    """
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition("served by another process", "free", f"socket {path}") from None
        if path.is_socket():
            if is_served(path):
                raise FailedPrecondition("served by another process", "free", f"socket {path}")
            path.unlink()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _handlers(dispatch: Dispatcher) -> "tuple[grpc.GenericRpcHandler[bytes, bytes], ...]":
    services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
    for row in dispatch.routes.values():
        handler = (
            grpc.unary_unary_rpc_method_handler(_unary(dispatch, row.name))
            if isinstance(row, Unary)
            else grpc.unary_stream_rpc_method_handler(_stream(dispatch, row.name))
        )
        services.setdefault(row.service, {})[row.name] = handler
    return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())


def _unary(dispatch: Dispatcher, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def handle(request: bytes, context: Any) -> bytes:
        try:
            return await dispatch.call(name, request, context.invocation_metadata() or ())
        except CrishimError as error:
            return await _abort(context, error)

    return handle


def _stream(dispatch: Dispatcher, name: str) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
    async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            async for chunk in dispatch.stream(name, request, context.invocation_metadata() or ()):
                yield chunk
        except CrishimError as error:
            await _abort(context, error)

    return handle


async def _abort(context: Any, error: CrishimError) -> bytes:
    text = error.message.encode("utf-8", "replace")[:_MESSAGE_BYTES].decode("utf-8", "ignore")
    await context.abort(_STATUS[error.code], text)
    raise error  # not reached: abort raises
