"""The keeper's event loop: descriptors, signals and deadlines of one thread. Standard library only."""

import os
import select
import signal
import sys
import time
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Calls back for descriptors that are ready and deadlines that have passed; `woken` after a SIGCHLD.

    An exception of a callback is written to stderr, and ends nothing else.
    """

    def __init__(self, woken: Callable[[], None]) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._deadlines: dict[object, tuple[float, Callable[[], None]]] = {}
        self._woken = woken
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self._wake, READ, self._drain)

    def watch(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor is ready for `events`, or has an error or an end; replaces its earlier watch."""
        if fd in self._callbacks:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor, before it is closed. Does nothing for one that is not watched."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def at(self, key: object, deadline: float, callback: Callable[[], None]) -> None:
        """Call back at a time of `time.monotonic`; a key has one deadline."""
        self._deadlines[key] = (deadline, callback)

    def cancel(self, key: object) -> None:
        """Drop a deadline."""
        self._deadlines.pop(key, None)

    def step(self) -> None:
        """Wait for what is next, and call back."""
        first = min((deadline for deadline, _ in self._deadlines.values()), default=None)
        for fd, _ in self._poll.poll(None if first is None else max(0.0, first - time.monotonic())):
            if (callback := self._callbacks.get(fd)) is not None:
                guarded(callback)
        if first is not None:
            now = time.monotonic()
            for key, (deadline, callback) in tuple(self._deadlines.items()):
                if deadline <= now:
                    self.cancel(key)
                    guarded(callback)

    def _drain(self) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass
        self._woken()


def guarded(callback: Callable[[], None]) -> None:
    """Call, and write the traceback of an exception to stderr."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - it is the fault of one container or client, and all others go on
        sys.excepthook(*sys.exc_info())
