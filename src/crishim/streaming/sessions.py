"""Exec and attach: a remote-command connection's streams on one side, a process's on the other.

The client opens the streams that its CRI request asks for (`channels.expected_streams`); when all are there the process is
run with them, and at its end stdout and stderr are ended, the error stream gets how it went, and the connection is closed.
Streams that nobody asked for are passed over, as the field does.

When the client leaves early, an exec'd process runs on, with its stdin at the end and its output refused, as containerd and
CRI-O have it; an attachment is cancelled, and the container goes on. When the server is stopped both are cancelled, and the
client is told that it was a failure: an error stream that ends empty would read as success.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from crishim.errors import CrishimError
from crishim.interfaces.capabilities import ByteStream, ProcessIO
from crishim.model.process import AttachRequest, ExecRequest, ExecSpec, Exit, TerminalSize
from crishim.model.values import ContainerId, SandboxId
from crishim.streaming.channels import (
    STREAM_TYPE,
    ChannelProtocol,
    ResizeDecoder,
    StreamType,
    encode_exit,
    encode_failure,
)
from crishim.streaming.connection import Stream, StreamConnection, Timeouts
from crishim.streaming.events import ProtocolError, header

_log = logging.getLogger(__name__)


class StreamTarget(Protocol):
    """What streams lead to; `service.streams.Streams` is one. Everything raised is a `CrishimError`."""

    async def run_exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """Run a process to its end; see `SupportsExec`."""

    async def run_attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Join a container's streams until its end; see `SupportsAttach`."""

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """Connect to a port of a pod; see `SupportsPortForward`."""


class LatestSize:
    """A terminal's sizes for a `ProcessIO`: whoever iterates gets the newest, however many came before. No memory grows."""

    def __init__(self) -> None:
        self._size: TerminalSize | None = None
        self._ended = False
        self._news = asyncio.Event()

    def put(self, size: TerminalSize) -> None:
        """The terminal has this size now."""
        self._size = size
        self._news.set()

    def end(self) -> None:
        """It will not change any more."""
        self._ended = True
        self._news.set()

    async def follow(self) -> AsyncIterator[TerminalSize]:
        """Each size, from the newest on."""
        while True:
            await self._news.wait()
            self._news.clear()
            if (size := self._size) is not None:
                self._size = None
                yield size
            if self._ended:
                return


class RemoteCommand:
    """One exec or attach. It is its connection's `StreamHandler`; `run` is called once."""

    def __init__(
        self,
        request: ExecRequest | AttachRequest,
        protocol: ChannelProtocol,
        expected: frozenset[StreamType],
        target: StreamTarget,
        timeouts: Timeouts,
    ) -> None:
        self._request = request
        self._protocol = protocol
        self._expected = expected
        self._target = target
        self._timeouts = timeouts
        self._streams: dict[StreamType, Stream] = {}
        self._all_there = asyncio.Event()
        self._what = "executing command in" if isinstance(request, ExecRequest) else "attaching to"

    def opened(self, stream: Stream) -> None:
        """See `StreamHandler`."""
        name = header(stream.headers, STREAM_TYPE) or ""
        kind = next((kind for kind in self._expected if kind.value == name and kind not in self._streams), None)
        if kind is None:
            _log.info("a stream of type %r is passed over: it was not asked for", name[:32])
            stream.discard()
            return
        self._streams[kind] = stream
        if len(self._streams) == len(self._expected):
            self._all_there.set()

    def reset(self, stream: Stream) -> None:
        """See `StreamHandler`. Whoever reads or writes the stream finds out."""

    def idle(self) -> None:
        """See `StreamHandler`."""
        self._fail(f"nothing was sent or received for {self._timeouts.idle:g} s")

    async def run(self, connection: StreamConnection) -> None:
        """Run the process, or be attached, and close the connection. Returns when both are over.

        A client that leaves takes its attachment with it, and leaves an exec'd process to its end.
        """
        try:
            if await self._client_is_ready(connection):
                await self._run(connection)
        except CrishimError as error:
            self._fail(error.message)
        except asyncio.CancelledError:
            self._fail("the streaming server was stopped")
            raise
        finally:
            self._fail("internal error")  # unheard when anything was said before
            await connection.close()

    async def _client_is_ready(self, connection: StreamConnection) -> bool:
        try:
            async with asyncio.timeout(self._timeouts.creation):
                await while_connected(connection, self._all_there.wait())
        except TimeoutError:
            missing = ", ".join(sorted(self._expected - self._streams.keys()))
            self._fail(f"the client did not open its streams within {self._timeouts.creation:g} s; missing: {missing}")
        return self._all_there.is_set()

    async def _run(self, connection: StreamConnection) -> None:
        stdin = self._streams.get(StreamType.STDIN)
        if stdin is not None and self._protocol.version == 1:
            stdin.end()
        resize = self._streams.get(StreamType.RESIZE)
        sizes = LatestSize() if resize is not None else None
        io = ProcessIO(
            stdin=stdin,
            stdout=self._streams.get(StreamType.STDOUT),
            stderr=self._streams.get(StreamType.STDERR),
            sizes=sizes.follow() if sizes is not None else None,
        )
        following = asyncio.ensure_future(_follow_sizes(resize, sizes)) if resize is not None and sizes is not None else None
        try:
            match self._request:
                case ExecRequest(container_id=container_id, cmd=cmd, tty=tty):
                    end = await self._target.run_exec(container_id, ExecSpec(argv=cmd, tty=tty), io)
                    self._tell(encode_exit(self._protocol, end.code))
                case AttachRequest(container_id=container_id):
                    await while_connected(connection, self._target.run_attach(container_id, io))
                    self._tell(encode_exit(self._protocol, 0))
        finally:
            if following is not None:
                following.cancel()

    def _fail(self, message: str) -> None:
        self._tell(encode_failure(self._protocol, f"error {self._what} container: {message}"))

    def _tell(self, status: bytes) -> None:
        """End the output, and say how it went."""
        for kind in (StreamType.STDOUT, StreamType.STDERR):
            if (stream := self._streams.get(kind)) is not None:
                stream.end()
        if (error := self._streams.get(StreamType.ERROR)) is not None:
            error.put(status)
            error.end()


async def while_connected(connection: StreamConnection, work: Coroutine[Any, Any, Any]) -> None:
    """Await work that has no meaning without the client: it is cancelled when the connection ends."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow_sizes(stream: Stream, sizes: LatestSize) -> None:
    """Read the resize stream to its end, or until it cannot be read; the session goes on without it then."""
    decoder = ResizeDecoder()
    try:
        while data := await stream.read():
            for size in decoder.feed(data):
                sizes.put(size)
    except ProtocolError as error:
        _log.info("a terminal's size is no longer followed: %s", error.message)
        stream.discard()
    finally:
        sizes.end()
