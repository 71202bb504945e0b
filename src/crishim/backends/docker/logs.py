"""Writes CRI log files from the engine's own copy of a container's output.

One task per container follows the engine's log and writes the CRI file; after a restart of this process or of the engine it
continues at the end of the file. The engine's copy is limited in size (see `convert.log_config`): output that is rotated away
there before it was read is lost.

Engines have faults when a followed copy is rotated: 20.10 repeats some entries, and after a burst may send no more. So
repetitions are dropped, and a silent stream is compared with the copy's last entry and opened again if it should have sent
that.

A log is complete when it was read once more after the container's exit: the engine shows a container as exited only when its
copy is complete. That is recorded in a file, so that a later process does not write a log again that the kubelet has removed.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.observed import runs
from crishim.backends.docker.wire import LogEntries, LogEntry, Repeats
from crishim.errors import CrishimError, NotFound, Unavailable
from crishim.interfaces.seats import Clock
from crishim.interfaces.tracing import outside_rpcs
from crishim.logs.follower import LogFollower
from crishim.model.values import ContainerId

_log = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds to wait for the end of the engine's stream after a container's exit; a follower may miss that end."""

_SILENCE: Final = 2.0
"""Seconds of silence after which a stream is compared with the engine's copy."""

_ENTRY: Final = 40
"""The minimal size of an entry in the engine's copy, beside its content."""

_PAUSE: Final = 0.1
"""Seconds before a stream that ended too early is opened again."""

_TURN: Final = 128
"""Entries that are written before other tasks of the event loop run: an entry may be one byte."""

_NANO: Final = 1_000_000_000


class Logs:
    """The logs of all containers; `notes` is a folder for the records of complete logs, `file_size` the size of a file of the
    engine's copy.
    """

    def __init__(self, engine: Engine, clock: Clock, notes: Path, file_size: int) -> None:
        self._file_size = file_size
        self._engine = engine
        self._clock = clock
        self._notes = notes
        self._logs: dict[ContainerId, _Log] = {}

    def prepare(self, container_id: ContainerId, path: str, *, tty: bool) -> None:
        """Create the file, before the start. Raises as `LogFollower` does; without a path it does nothing."""
        if path and container_id not in self._logs:
            self._logs[container_id] = _Log(
                self._engine, self._clock, container_id, Path(path), tty=tty, file_size=self._file_size
            )

    def follow(self, container_id: ContainerId, path: str, *, tty: bool) -> None:
        """Follow the log from now on, at the end of the file. Does nothing for a log that is complete or already followed."""
        if not path or (self._notes / container_id).exists():
            return
        try:
            self.prepare(container_id, path, tty=tty)
            self._logs[container_id].run(self._complete)
        except CrishimError as error:
            _log.warning("the log of container %s cannot be written: %s", container_id, error)

    async def finished(self, container_id: ContainerId) -> None:
        """Return when all output of the exited container is in its log. Raises `Unavailable` if the engine could not be
        reached.
        """
        log = self._logs.get(container_id)
        if log is not None:
            await log.finished(TIMEOUT, self._complete)

    def reopen(self, container_id: ContainerId) -> None:
        """As `LogFollower.reopen`. Does nothing without a log."""
        log = self._logs.get(container_id)
        if log is not None:
            log.reopen()

    def forget(self, container_id: ContainerId) -> None:
        """Forget a removed container; its log file stays."""
        log = self._logs.pop(container_id, None)
        if log is not None:
            log.close()
        (self._notes / container_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop writing."""
        logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()

    def _complete(self, container_id: ContainerId) -> None:
        try:
            self._notes.mkdir(parents=True, exist_ok=True)
            (self._notes / container_id).touch()
        except OSError as error:  # a later process then reads the end of this log again
            _log.warning("the completion of the log of container %s cannot be recorded: %s", container_id, error)


class _Log:
    """The log of one container."""

    def __init__(
        self, engine: Engine, clock: Clock, container_id: ContainerId, path: Path, *, tty: bool, file_size: int
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._id = container_id
        self._path = path
        self._tty = tty
        self._file_size = file_size
        self._path_of_logs = f"/containers/{container_id}/logs"
        self._entries = 0
        self._read_bytes = 0
        self._newest = 0
        self._follower: LogFollower | None = LogFollower(path)
        self._task: asyncio.Task[None] | None = None
        self._complete = False

    def run(self, complete: Callable[[ContainerId], None]) -> None:
        """Follow in a task, unless that is under way or done."""
        if not self._complete and (self._task is None or self._task.done()):
            if self._task is not None:  # an earlier one has failed
                self._open_again()
            self._task = asyncio.create_task(self._follow(complete), name=f"log of {self._id}", context=outside_rpcs())

    async def finished(self, timeout: float, complete: Callable[[ContainerId], None]) -> None:
        """Return when the log is complete; if the stream does not end, the engine's copy is read without following."""
        if self._task is None:
            return
        before = -1
        while not (await asyncio.wait({self._task}, timeout=timeout))[0]:
            if before == self._entries:
                _log.warning("the engine does not end the log of container %s; it is read again", self._id)
                self._task.cancel()
                await asyncio.wait({self._task})
                self.run(complete)
            before = self._entries
        if not self._task.cancelled() and isinstance(error := self._task.exception(), Unavailable):
            raise error

    def reopen(self) -> None:
        """Continue in a new file."""
        if self._follower is not None:
            self._follower.reopen()

    def close(self) -> None:
        """Stop writing. May be called twice."""
        if self._task is not None:
            self._task.cancel()
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    async def _follow(self, complete: Callable[[ContainerId], None]) -> None:
        try:
            while True:
                await self._followed()
                ended = not runs(await self._engine.inspect(self._id))
                self._open_again()
                if ended:
                    break
                await self._clock.sleep(_PAUSE)
            await self._read(follow=0)  # output may be missing if the container exited while it was followed
        except NotFound:  # it was removed meanwhile
            _log.debug("container %s was removed while its log was read", self._id)
        except Unavailable:
            raise
        except CrishimError as error:
            _log.warning("the log of container %s is incomplete: %s", self._id, error)
        self._complete = True
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        complete(self._id)

    async def _followed(self) -> None:
        """Write the engine's log until its stream ends, or fails to send an entry."""
        reading = asyncio.create_task(self._read(follow=1), name=f"reading the log of {self._id}")
        before = -1
        try:
            while not (await asyncio.wait({reading}, timeout=_SILENCE))[0]:
                if before == self._entries and self._may_have_rotated and await self._has_more():
                    _log.warning("the engine has stopped sending the log of container %s; it is opened again", self._id)
                    return
                before = self._entries
            await reading
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self, *, follow: int) -> None:
        assert self._follower is not None
        since, entries, repeats = self._follower.since, LogEntries(tty=self._tty), Repeats()
        query: dict[str, Any] = {"stdout": 1, "stderr": 1, "follow": follow, "timestamps": 1}
        if since:
            query["since"] = f"{since // _NANO}.{since % _NANO:09d}"
        async with self._engine.stream("GET", self._path_of_logs, "container", self._id, query=query) as pieces:
            async for piece in pieces:
                ready = entries.feed(piece)
                while turn := tuple(itertools.islice(ready, _TURN)):
                    self._write(turn, since, repeats)
                    await asyncio.sleep(0)
        self._write(entries.finish(), since, repeats)

    def _write(self, entries: Iterable[LogEntry], since: int, repeats: Repeats) -> None:
        new = []
        for entry in entries:
            self._entries += 1
            self._read_bytes += len(entry.content) + _ENTRY
            self._newest = max(self._newest, entry.time)
            if entry.time >= since and not repeats.again(entry):
                new.append((entry.time, entry.stream, entry.content))
        if self._follower is not None:
            self._follower.write_all(new)

    @property
    def _may_have_rotated(self) -> bool:
        return self._read_bytes > self._file_size // 2

    async def _has_more(self) -> bool:
        """Whether the engine's copy has entries that were not sent."""
        query = {"stdout": 1, "stderr": 1, "tail": 1, "timestamps": 1}
        entries, newest = LogEntries(tty=self._tty), 0
        async with self._engine.stream("GET", self._path_of_logs, "container", self._id, query=query) as pieces:
            async for piece in pieces:
                newest = max([newest, *(entry.time for entry in entries.feed(piece))])
        return max([newest, *(entry.time for entry in entries.finish())]) > self._newest

    def _open_again(self) -> None:
        """Open the file again to find its end after an incomplete write."""
        if self._follower is not None:
            self._follower.close()
            self._follower = LogFollower(self._path)
