"""One client's connection to the keeper. Standard library only."""

import json
import os
import socket
import time
from collections.abc import Callable

from crishim.keeper import wire
from crishim.keeper.container import KeeperContainer
from crishim.keeper.loop import READ, WRITE, Loop

BACKLOG = 1024 * 1024
"""How many bytes of output are queued for an attached client before its container is read no further."""

PATIENCE = 3.0
"""Seconds in which a client must have read half of a full queue. The server reads whatever its own clients do, unless it is
stopped or hangs: then it is dropped, and the container goes on.
"""

_PIECE = 64 * 1024
_MOST = 5

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


class Connection:
    """A connection, from its accept to `close`. `requested` is called with its request, and `closed` once at its end."""

    __slots__ = (
        *("_closed", "_eof", "_finishing", "_inbox", "_loop", "_open", "_outbox", "_paused", "_requested"),
        *("awaits", "behind", "container", "feeds", "fds", "socket"),
    )

    def __init__(
        self,
        loop: Loop,
        connected: socket.socket,
        requested: "Callable[[Connection, dict[str, Any]], None]",
        closed: "Callable[[Connection], None]",
    ) -> None:
        self._loop = loop
        self.socket = connected
        connected.setblocking(False)
        self._requested = requested
        self._closed = closed
        self._inbox = bytearray()
        self._outbox = bytearray()
        self.fds: list[int] = []
        self.container: KeeperContainer | None = None
        """What it is attached to."""
        self.awaits: KeeperContainer | None = None
        """Whose exit it waits for."""
        self.feeds = False
        self.behind = False
        """Whether its queue of output is full."""
        self._eof = False
        self._paused = False
        self._finishing = False
        self._open = True
        self.watch()

    def watch(self) -> None:
        """Watch for what is next. A hang-up is reported whatever one watches for, so a paused client is not watched."""
        events = (READ if not self._paused and not self._eof else 0) | (WRITE if self._outbox else 0)
        if events or self._eof:
            self._loop.watch(self.socket.fileno(), events, self._ready)
        else:
            self._loop.unwatch(self.socket.fileno())

    def reply(self, content: "dict[str, Any]", *, last: bool = True) -> None:
        """Send the reply; with `last` the connection ends then."""
        self._outbox += wire.message(content)
        self._finishing = self._finishing or last
        self._send()

    def offer(self, kind: int, data: bytes) -> None:
        """Send a piece of output. Never waits; a client that is `behind` afterwards should get no more yet."""
        if not self._open or self._finishing:
            return
        self._outbox += wire.frame(kind, data)
        self._send()
        if not self.behind and len(self._outbox) > BACKLOG:
            self.behind = True
            self._loop.at(self, time.monotonic() + PATIENCE, self._drop)

    def pause(self, *, paused: bool) -> None:
        """Read no more from it, or do so again."""
        if self._open and self.feeds and paused is not self._paused:
            self._paused = paused
            self.watch()

    def finish(self) -> None:
        """End the connection when all that is queued was sent."""
        if self._open:
            self._finishing = True
            self._send()

    def close(self) -> None:
        """End the connection at once. May be called twice."""
        if self._open:
            self._open = False
            self._outbox.clear()
            self._loop.unwatch(self.socket.fileno())
            self._closed(self)
            self._caught_up()
            self.socket.close()
            for fd in self.fds:
                os.close(fd)

    def _ready(self) -> None:
        if self._eof and not self._outbox:  # a hang-up: its other direction has ended, too
            self.close()
            return
        if self._outbox:
            self._send()
        if self._open and not self._paused and not self._eof:
            self._receive()

    def _send(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: self.socket.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if len(self._outbox) <= BACKLOG // 2:
            self._caught_up()
        if self._open:
            if self._finishing and not self._outbox:
                self.close()
            else:
                self.watch()

    def _caught_up(self) -> None:
        if self.behind:
            self.behind = False
            self._loop.cancel(self)
            if self.container is not None:
                self.container.streams.proceed()

    def _drop(self) -> None:
        self.reply({"error": "Aborted", "message": f"the output was not read for {PATIENCE:g} seconds"})
        self._caught_up()

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, _PIECE, _MOST)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        self.fds += fds
        if not data:
            self._end_input()
            return
        self._inbox += data
        try:
            while self._open and (frame := wire.take(self._inbox)) is not None:
                self._take(*frame)
        except ValueError:
            self.close()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == wire.STDIN:
            if self.feeds and self.container is not None:
                self.container.streams.feed(payload)
            return
        content = json.loads(payload)
        if not isinstance(content, dict):
            raise ValueError("not a request")  # noqa: TRY004 - as for what is no JSON
        self._requested(self, content)

    def _end_input(self) -> None:
        if self.container is None:
            self.close()
            return
        self._eof = True
        if self.feeds and self.container.streams.once:
            self.container.streams.end_input()
        self.watch()

    def dump(self) -> "dict[str, Any]":
        """The connection as JSON has it, for a successor with the same descriptors."""
        return {
            "fd": self.socket.fileno(),
            "inbox": self._inbox.decode("latin-1"),
            "outbox": self._outbox.decode("latin-1"),
            "fds": self.fds,
            "container": "" if self.container is None else self.container.name,
            "awaits": "" if self.awaits is None else self.awaits.name,
            "flags": [self.feeds, self._eof, self._paused, self._finishing],
        }

    def load(self, dumped: "dict[str, Any]", containers: dict[str, KeeperContainer]) -> None:
        """Take over what `dump` gave."""
        self._inbox += dumped["inbox"].encode("latin-1")
        self._outbox += dumped["outbox"].encode("latin-1")
        self.fds = dumped["fds"]
        self.container, self.awaits = containers.get(dumped["container"]), containers.get(dumped["awaits"])
        if self.container is not None:
            self.container.streams.attached.append(self)
        if self.awaits is not None:
            self.awaits.waiting.append(self)
        self.feeds, self._eof, self._paused, self._finishing = dumped["flags"]
        self.watch()
