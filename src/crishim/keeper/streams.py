"""The streams of one container in the keeper: its log, its output, its input, its terminal. Standard library only.

The rules are those of `logs.stdio`: output is read as it arrives, whether or not the disk is full; after the exit, output of
processes that still have the pipes open is awaited for `GRACE` seconds. The clients are the server's, which reads at once;
where it cannot, the container waits for it, up to `connection.PATIENCE`.
"""

import fcntl
import os
import struct
import sys
import termios
import time
from collections.abc import Callable

from crishim.keeper import wire
from crishim.keeper.loop import READ, WRITE, Loop
from crishim.logs.appending import append, open_log
from crishim.logs.pieces import Splitter, encode

GRACE = 1.0
"""Seconds for which output is awaited from processes that still have a container's pipes open after its exit."""

CHUNK = 16 * 1024

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, Protocol

    class Attached(Protocol):
        """A client that is attached."""

        behind: bool
        """Whether it has so much left to read that the container is to wait, for a limited time."""

        def offer(self, kind: int, data: bytes) -> None:
            """Send a piece of output. Never waits."""

        def pause(self, *, paused: bool) -> None:
            """Read no more input from it, or do so again."""

        def finish(self) -> None:
            """There is no more output."""


class _Output:
    """One stream of output; `left` are the bytes that are still read after the grace, None before."""

    __slots__ = ("left", "splitter", "stream")

    def __init__(self, stream: str, rest: bytes = b"", left: int | None = None) -> None:
        self.stream = stream
        self.splitter = Splitter(rest)
        self.left = left


class KeeperStreams:
    """The streams of one container. `log` is a path, empty for none."""

    __slots__ = (
        *("_begun", "_ending", "_failing", "_input", "_log", "_loop", "_outputs", "_path", "_pending", "_within_line"),
        *("attached", "deadline", "ended", "once", "terminal"),
    )

    def __init__(self, loop: Loop, log: str, *, terminal: bool, once: bool) -> None:
        """Open the log; its folder is created where it is missing. Raises `OSError`."""
        if log:
            os.makedirs(os.path.dirname(log), exist_ok=True)
        self._loop = loop
        self._path = log
        self._log = open_log(log) if log else -1
        self._failing = False
        self._begun = False
        self._outputs: dict[int, _Output] = {}
        self._input = -1
        self._pending = bytearray()
        self._within_line = False
        self._ending = False
        self.attached: list[Attached] = []
        self.terminal = terminal
        self.once = once
        self.deadline: float | None = None
        self.ended: Callable[[], None] | None = None

    @property
    def takes_input(self) -> bool:
        """Whether there is a stdin, and its end has not come."""
        return self._input >= 0 and not self._ending

    @property
    def has_input(self) -> bool:
        """Whether stdin is open."""
        return self._input >= 0

    def take(self, stream: str, fd: int) -> None:
        """Own our end of a stream: `stdin`, `stdout` or `stderr`."""
        os.set_blocking(fd, False)
        if stream == "stdin":
            self._input = fd
        else:
            self._outputs[fd] = _Output(stream)

    def begin(self) -> None:
        """Begin to read the output."""
        self._begun = True
        for fd in self._outputs:
            self._watch(fd)

    def complaint(self, limit: int) -> str:
        """Before `begin`: the first bytes of stderr that are there."""
        for fd, output in self._outputs.items():
            if output.stream == "stderr":
                try:
                    return os.read(fd, limit).decode("utf-8", "replace")
                except BlockingIOError:
                    pass
        return ""

    def feed(self, data: bytes) -> None:
        """Input of a client. While the container does not read it, its clients are paused."""
        if self.takes_input:
            self._within_line = not data.endswith((b"\n", b"\r"))
            self._pending += data
            self._flush()

    def end_input(self) -> None:
        """There is no more input: a pipe is closed, a terminal in line mode gets its end-of-file character."""
        if not self.takes_input:
            return
        if self.terminal:
            modes = termios.tcgetattr(self._input)
            if modes[3] & termios.ICANON:
                end: bytes = modes[6][termios.VEOF]
                self._pending += end + end if self._within_line else end
        self._ending = True
        self._flush()

    def resize(self, height: int, width: int) -> None:
        """Resize the terminal. Does nothing for pipes, and for a terminal that is closed."""
        for fd in self._outputs if self.terminal else ():
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", min(height, 0xFFFF), min(width, 0xFFFF), 0, 0))

    def reopen(self) -> None:
        """Continue in a new log file at the same path. Raises `OSError`, and then the old one is still written to."""
        if self._log >= 0:
            fd = open_log(self._path)
            os.close(self._log)
            self._log = fd

    def drain(self, deadline: float, ended: Callable[[], None]) -> None:
        """The process has exited: call `ended` when all output is in the log, which is soon after `deadline` at the latest."""
        self.deadline, self.ended = deadline, ended
        if self._outputs:
            self._loop.at(self, deadline, self._cut)
        else:
            self._end()

    def proceed(self) -> None:
        """Read output again, after a client that was behind has caught up or is gone."""
        if self._begun and not any(client.behind for client in self.attached):
            for fd in self._outputs:
                self._watch(fd)

    def close(self) -> None:
        """Close all descriptors; clients that are attached get the end. May be called twice."""
        self._loop.cancel(self)
        for fd, output in tuple(self._outputs.items()):
            self._write(output.stream, output.splitter.finish())
            self._drop(fd)
        self._close_input()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        for client in tuple(self.attached):
            client.finish()

    def _watch(self, fd: int) -> None:
        self._loop.watch(fd, READ, lambda: self._read(fd))

    def _read(self, fd: int) -> None:
        output = self._outputs[fd]
        try:
            data = os.read(fd, CHUNK if output.left is None else min(CHUNK, output.left)) if output.left != 0 else b""
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if data:
            if output.left is not None:
                output.left -= len(data)
            self._write(output.stream, output.splitter.feed(data))
            kind = wire.STDERR if output.stream == "stderr" else wire.STDOUT
            for client in tuple(self.attached):
                client.offer(kind, data)
            if output.left is None and any(client.behind for client in self.attached):
                for other in self._outputs:
                    self._loop.unwatch(other)
        if not data or output.left == 0:
            self._write(output.stream, output.splitter.finish())
            self._drop(fd)
            if not self._outputs:
                self._end()

    def _write(self, stream: str, pieces: "list[tuple[bytes, bool]]") -> None:
        if self._log >= 0 and pieces:
            error = append(self._log, encode(time.time_ns(), stream, pieces))
            if error is not None and not self._failing:
                print(f"output of a container is lost: {self._path}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
            self._failing = error is not None

    def _cut(self) -> None:
        """Read what is in the pipes now, and nothing that comes later."""
        for fd, output in tuple(self._outputs.items()):
            if output.left is None:
                (output.left,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
                self._watch(fd)
            self._read(fd)

    def _drop(self, fd: int) -> None:
        del self._outputs[fd]
        self._loop.unwatch(fd)
        os.close(fd)

    def _end(self) -> None:
        ended, self.ended = self.ended, None
        if ended is not None:
            self._loop.cancel(self)
            ended()

    def _flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: os.write(self._input, self._pending)]
        except BlockingIOError:
            self._loop.watch(self._input, WRITE, self._flush)
            self._pause(paused=True)
            return
        except OSError:  # nobody reads it any more
            self._close_input()
        if self._input >= 0:
            self._loop.unwatch(self._input)
        self._pause(paused=False)
        if self._ending and not self.terminal:
            self._close_input()

    def _pause(self, *, paused: bool) -> None:
        for client in tuple(self.attached):
            client.pause(paused=paused)

    def _close_input(self) -> None:
        self._pending.clear()
        if self._input >= 0:
            self._loop.unwatch(self._input)
            os.close(self._input)
            self._input = -1

    def dump(self) -> "dict[str, Any]":
        """The streams as JSON has them, for a successor with the same descriptors."""
        return {
            "log": [self._path, self._log],
            "outputs": [
                [fd, output.stream, output.splitter.rest.decode("latin-1"), output.left] for fd, output in self._outputs.items()
            ],
            "input": [self._input, self._pending.decode("latin-1"), self._within_line, self._ending],
            "terminal": self.terminal,
            "once": self.once,
            "deadline": self.deadline,
            "begun": self._begun,
        }

    @classmethod
    def load(cls, loop: Loop, dumped: "dict[str, Any]") -> "KeeperStreams":
        """The inverse of `dump`; who is attached, and what `drain` was given, are not in it."""
        streams = cls(loop, "", terminal=dumped["terminal"], once=dumped["once"])
        streams._path, streams._log = dumped["log"]
        streams._input, pending, streams._within_line, streams._ending = dumped["input"]
        streams.deadline = dumped["deadline"]
        for fd, stream, rest, left in dumped["outputs"]:
            streams._outputs[fd] = _Output(stream, rest.encode("latin-1"), left)
        streams._pending += pending.encode("latin-1")
        if dumped["begun"]:
            streams.begin()
        return streams

    def resume(self) -> None:
        """After `load`, when those who are attached are there: go on with input that the container has not read."""
        if self._pending:
            self._flush()

    def descriptors(self) -> list[int]:
        """All of them."""
        return [fd for fd in (self._log, self._input, *self._outputs) if fd >= 0]
