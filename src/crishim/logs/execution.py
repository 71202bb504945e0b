"""The streams of an exec, copied with back-pressure to and from a client."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from crishim.errors import ResourceExhausted
from crishim.interfaces.capabilities import ByteReader, ByteWriter, ProcessIO
from crishim.logs.descriptors import DescriptorReader, DescriptorWriter
from crishim.logs.stdio import GRACE, ChildEnds, ForeignStreams
from crishim.model.process import TerminalSize

__all__ = ["ExecStreams"]

_log = logging.getLogger(__name__)

_STALLED: Final = 10.0
"""Seconds without progress after which the remaining output of an exited process is dropped."""


class ExecStreams:
    """The streams of one exec. Output that the client does not request, or no longer reads, is discarded.

    Call `open`, start the process with the descriptors, `copy` until it has exited, and in any case `close`.
    """

    def __init__(self, io: ProcessIO, *, tty: bool) -> None:
        self._io = io
        self._tty = tty
        self._ends: tuple[int, ...] = ()
        self._input: DescriptorWriter | None = None
        self._foreign: ForeignStreams | None = None
        self._outputs: list[tuple[DescriptorReader, ByteWriter | None]] = []
        self._delivered = 0

    def open(self) -> ChildEnds:
        """Create the descriptors. Raises `ResourceExhausted`."""
        try:
            return self._open_terminal() if self._tty else self._open_pipes()
        except OSError as error:
            raise ResourceExhausted(f"no streams for an exec: {error.strerror}") from error

    def adopt_terminal(self, master: int) -> None:
        """Instead of `open`: take over the master side of an existing terminal."""
        self._outputs.append((DescriptorReader(master), self._io.stdout))
        self._input = DescriptorWriter(os.dup(master))

    def adopt(self, foreign: ForeignStreams) -> None:
        """Instead of `open`: take over our ends of existing streams."""
        self._foreign = foreign
        if foreign.stdin is not None:
            self._input = DescriptorWriter(foreign.stdin)
        for fd, writer in ((foreign.stdout, self._io.stdout), (foreign.stderr, self._io.stderr)):
            if fd is not None:
                self._outputs.append((DescriptorReader(fd), writer))

    async def copy(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Copy until `ended` returns and all output is delivered.

        If other processes still have the pipes open then, their output is awaited for `GRACE` seconds, as with a container.
        """
        self._close_ends()
        outputs = [asyncio.create_task(self._copy_out(reader, writer)) for reader, writer in self._outputs]
        inputs = []
        if self._io.stdin is not None and self._input is not None:
            inputs.append(asyncio.create_task(self._copy_in(self._io.stdin, self._input)))
        if self._io.sizes is not None and self._tty and (self._input is not None or self._foreign is not None):
            inputs.append(asyncio.create_task(self._follow(self._io.sizes)))
        try:
            await ended()
            for reader, _ in self._outputs:
                reader.end_within(GRACE)
            await self._deliver(outputs)
        finally:
            for task in (*outputs, *inputs):
                task.cancel()
            await asyncio.gather(*outputs, return_exceptions=True)
            for outcome in await asyncio.gather(*inputs, return_exceptions=True):
                if isinstance(outcome, Exception):
                    _log.warning("the input of an exec failed: %r", outcome)

    async def _deliver(self, outputs: list[asyncio.Task[None]]) -> None:
        """Deliver the remaining output, as long as the client reads some of it within `_STALLED` seconds."""
        left = set(outputs)
        while left:
            before = self._delivered
            done, left = await asyncio.wait(left, timeout=_STALLED)
            for task in done:
                task.result()
            if not done and self._delivered == before:
                _log.warning("the client of an exec does not read; the rest of the output is dropped")
                return

    async def _copy_out(self, reader: DescriptorReader, writer: ByteWriter | None) -> None:
        while data := await reader.read():
            if writer is not None:
                try:
                    await writer.write(data)
                except (BrokenPipeError, ConnectionError):
                    writer = None
            self._delivered += len(data)

    async def _copy_in(self, stdin: ByteReader, writer: DescriptorWriter) -> None:
        with contextlib.suppress(BrokenPipeError):
            while data := await stdin.read():
                await writer.write(data)
        await writer.end_of_input()
        if self._foreign is not None:
            await self._foreign.stdin_ended()

    async def _follow(self, sizes: AsyncIterator[TerminalSize]) -> None:
        async for size in sizes:
            if self._foreign is not None:
                await self._foreign.resize(size)
            elif self._input is not None:
                self._input.resize(size)

    def close(self) -> None:
        """Close all descriptors."""
        self._close_ends()
        if self._input is not None:
            self._input.close()
        for reader, _ in self._outputs:
            reader.close()

    def _open_pipes(self) -> ChildEnds:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._ends = (nothing,)
        stdin = stdout = stderr = nothing
        if self._io.stdin is not None:
            stdin, into = os.pipe()
            self._ends = (*self._ends, stdin)
            self._input = DescriptorWriter(into)
        if self._io.stdout is not None:
            stdout = self._output(self._io.stdout)
        if self._io.stderr is not None:
            stderr = self._output(self._io.stderr)
        return ChildEnds(stdin, stdout, stderr)

    def _open_terminal(self) -> ChildEnds:
        master, slave = os.openpty()
        self._ends = (slave,)
        self.adopt_terminal(master)
        return ChildEnds(slave, slave, slave)

    def _output(self, writer: ByteWriter) -> int:
        out, end = os.pipe()
        self._ends = (*self._ends, end)
        self._outputs.append((DescriptorReader(out), writer))
        return end

    def _close_ends(self) -> None:
        ends, self._ends = self._ends, ()
        for fd in ends:
            os.close(fd)
