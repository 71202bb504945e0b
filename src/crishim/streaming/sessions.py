"""Exec and attach: connects the streams of a remote-command connection to those of a process.

The client opens the streams that its CRI request names (`channels.expected_streams`); when all are open the process is run
with them. At its end stdout and stderr are ended, the error stream gets the result, and the connection is closed. Streams that
were not requested are ignored, as in other servers.

When the client disconnects early, an exec'd process keeps running, with stdin at its end and its output refused, as in
containerd and CRI-O; an attachment is cancelled, and the container keeps running. When the server is stopped both are
cancelled, and the client gets a failure: an empty error stream would mean success.
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

__all__ = ["StreamTarget"]

_log = logging.getLogger(__name__)


class StreamTarget(Protocol):
    """The target of streams; `service.streams.Streams` is one. All errors are `CrishimError`s."""

    async def run_exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """Run a process to its end; see `SupportsExec`."""

    async def run_attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """Join a container's streams until its end; see `SupportsAttach`."""

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """Connect to a port of a pod; see `SupportsPortForward`."""


class LatestSize:
    """A terminal's sizes for a `ProcessIO`: an iteration gets the newest only, so that no queue grows."""

    def __init__(self) -> None:
        self._size: TerminalSize | None = None
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, size: TerminalSize) -> None:
        """Set the terminal's size."""
        self._size = size
        self._changed.set()

    def end(self) -> None:
        """End the sizes."""
        self._ended = True
        self._changed.set()

    async def follow(self) -> AsyncIterator[TerminalSize]:
        """Each size, from the newest on."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if (size := self._size) is not None:
                self._size = None
                yield size
            if self._ended:
                return


class RemoteCommand:
    """One exec or attach, which is its connection's `StreamHandler`; `run` is called once."""

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
            _log.info("a stream of type %r is ignored: it was not requested", name[:32])
            stream.discard()
            return
        self._streams[kind] = stream
        if len(self._streams) == len(self._expected):
            self._all_there.set()

    def reset(self, stream: Stream) -> None:
        """See `StreamHandler`. Readers and writers of the stream get its end."""

    def idle(self) -> None:
        """See `StreamHandler`."""
        self._fail(f"nothing was sent or received for {self._timeouts.idle:g} s")

    async def run(self, connection: StreamConnection) -> None:
        """Run the process or the attachment, and close the connection. Returns when both have ended.

        A client that disconnects ends its attachment, but not an exec'd process.
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
            self._fail("internal error")  # has no effect after an earlier status
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
                    self._send_status(encode_exit(self._protocol, end.code))
                case AttachRequest(container_id=container_id):
                    await while_connected(connection, self._target.run_attach(container_id, io))
                    self._send_status(encode_exit(self._protocol, 0))
        finally:
            if following is not None:
                following.cancel()

    def _fail(self, message: str) -> None:
        self._send_status(encode_failure(self._protocol, f"error {self._what} container: {message}"))

    def _send_status(self, status: bytes) -> None:
        """End the output, and send the result."""
        for kind in (StreamType.STDOUT, StreamType.STDERR):
            if (stream := self._streams.get(kind)) is not None:
                stream.end()
        if (error := self._streams.get(StreamType.ERROR)) is not None:
            error.put(status)
            error.end()


async def while_connected(connection: StreamConnection, work: Coroutine[Any, Any, Any]) -> None:
    """Await work for the client, which is cancelled when the connection ends."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow_sizes(stream: Stream, sizes: LatestSize) -> None:
    """Read the resize stream to its end, or to its first error; the session continues without it."""
    decoder = ResizeDecoder()
    try:
        while data := await stream.read():
            for size in decoder.feed(data):
                sizes.put(size)
    except ProtocolError as error:
        _log.info("the resize stream of a terminal is invalid and ignored: %s", error.message)
        stream.discard()
    finally:
        sizes.end()
