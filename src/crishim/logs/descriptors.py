"""Pipes and terminals as byte readers and writers on the event loop."""

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Final

from crishim.interfaces.capabilities import ByteReader, ByteWriter
from crishim.model.process import TerminalSize

CHUNK: Final = 64 * 1024


class _Ready:
    """Waiting for a descriptor to be ready, by whatever pair of the loop's methods; one waiter at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiter: asyncio.Future[None] | None = None
        self._remove: Callable[[int], object] | None = None

    async def wait(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        """Return when the descriptor is ready, or when `wake` is called."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._remove = remove
        add(self._fd, self.wake)
        try:
            await self._waiter
        finally:
            self.wake()

    def wake(self) -> None:
        """Let the waiter go, and the loop watch the descriptor no longer."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            assert self._remove is not None
            self._remove(self._fd)
            if not waiter.done():
                waiter.set_result(None)


class DescriptorReader(ByteReader):
    """Reads from a pipe or a terminal's master side, which it owns from now on. One reader at a time.

    A terminal that nobody has open any more is at its end, and so is a reader that was closed.
    """

    def __init__(self, fd: int, chunk: int = CHUNK) -> None:
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._chunk = chunk
        self._left: int | None = None
        self._ready = _Ready(fd)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def read(self) -> bytes:
        """The next piece, of `chunk` bytes at most; empty at the end. The loop gets a turn before each."""
        await asyncio.sleep(0)
        while not self._closed and self._left != 0:
            try:
                data = os.read(self._fd, self._chunk if self._left is None else min(self._chunk, self._left))
            except BlockingIOError:
                await self._ready.wait(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b""
            if self._left is not None:
                self._left -= len(data)
            if not data:
                self._left = 0
            return data
        return b""

    def end_within(self, seconds: float) -> None:
        """The process has ended, and others may still hold the other end: wait `seconds` for them to let go of it.

        What is in the pipe by then is still read, and then there is an end. May be called again; the first call counts.
        """
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(seconds, self._cut)

    def close(self) -> None:
        """Read no more. May be called twice."""
        if not self._closed:
            self._closed = True
            self._ready.wake()
            if self._timer is not None:
                self._timer.cancel()
            os.close(self._fd)

    def _cut(self) -> None:
        if self._left is None:
            (self._left,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
        self._ready.wake()


class DescriptorWriter(ByteWriter):
    """Writes to a pipe or a terminal's master side, which it owns from now on. Writers beside each other take turns."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._turn = asyncio.Lock()
        self._ready = _Ready(fd)
        self._within_line = False
        self._closed = False

    async def write(self, data: bytes) -> None:
        """Hand over a piece; returns when all of it is in the pipe. Raises `BrokenPipeError` when nobody will read it."""
        rest = memoryview(data)
        async with self._turn:
            self._within_line = not data.endswith((b"\n", b"\r"))
            while rest:
                if self._closed:
                    raise BrokenPipeError(errno.EPIPE, "closed")
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    await self._ready.wait(self._loop.add_writer, self._loop.remove_writer)
                except OSError as error:
                    raise BrokenPipeError(errno.EPIPE, error.strerror) from error

    async def end_of_input(self) -> None:
        """Tell the reader that nothing more comes: a pipe is closed, a terminal in line mode gets its end-of-file character."""
        if self._closed:
            return
        if not os.isatty(self._fd):
            self.close()
            return
        modes = termios.tcgetattr(self._fd)
        if modes[3] & termios.ICANON:
            end = modes[6][termios.VEOF]
            with contextlib.suppress(BrokenPipeError):
                await self.write(end + end if self._within_line else end)

    def resize(self, size: TerminalSize) -> None:
        """Give the terminal its size; the processes in front of it get SIGWINCH. What is gone, or none, has no size."""
        with contextlib.suppress(OSError):
            rows, columns = min(size.height, 0xFFFF), min(size.width, 0xFFFF)
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Write no more. May be called twice."""
        if not self._closed:
            self._closed = True
            self._ready.wake()
            os.close(self._fd)
