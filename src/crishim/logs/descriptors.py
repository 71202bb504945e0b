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
    """Waits for a descriptor to be ready, by any pair of the loop's methods; one waiter at a time."""

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
        """Release the waiter, and stop watching the descriptor."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            assert self._remove is not None
            self._remove(self._fd)
            if not waiter.done():
                waiter.set_result(None)


class DescriptorReader(ByteReader):
    """Reads from a pipe or a terminal's master side, which it owns. One reader at a time.

    The stream ends when a terminal has no other end open any more, and when the reader is closed.
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
        """The next piece, of at most `chunk` bytes; empty at the end. Other tasks of the loop run before each."""
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
        """Called when the process has exited while others may still have the other end open: wait `seconds` for its close.

        Data in the pipe at that time is still read, and then the stream ends. May be called again; the first call counts.
        """
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(seconds, self._cut)

    def close(self) -> None:
        """Stop reading. May be called twice."""
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
    """Writes to a pipe or a terminal's master side, which it owns. Concurrent writes are serialized."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._write_lock = asyncio.Lock()
        self._ready = _Ready(fd)
        self._within_line = False
        self._closed = False

    async def write(self, data: bytes) -> None:
        """Write a piece; return when all of it is in the pipe. Raises `BrokenPipeError` when there is no reader any more."""
        rest = memoryview(data)
        async with self._write_lock:
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
        """Signal the end of input: a pipe is closed, a terminal in line mode gets its end-of-file character."""
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
        """Resize the terminal; its foreground processes get SIGWINCH. Does nothing for a pipe or a closed terminal."""
        with contextlib.suppress(OSError):
            rows, columns = min(size.height, 0xFFFF), min(size.width, 0xFFFF)
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Stop writing. May be called twice."""
        if not self._closed:
            self._closed = True
            self._ready.wake()
            os.close(self._fd)
