"""Runs skopeo: with progress, a stall timeout, and waits that a registry requests.

skopeo's output on a pipe shows neither progress nor waits: the first is derived from the sizes of its files, the second from
its debug log. After a registry's `429 Too Many Requests` it waits as long as `Retry-After` says, at most a minute each time.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import PullError, PullReason, Unavailable
from crishim.images.manifest import Descriptor, Manifest
from crishim.images.skopeo import PullSettings
from crishim.interfaces.seats import Clock
from crishim.interfaces.tracing import span
from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program

__all__ = ["PullProgress"]

MAX_OUTPUT: Final = 4 << 20
"""The manifest size that registries accept and clients read (distribution-spec, "Pushing Manifests")."""

_POLL: Final = 0.1
_FIRST_POLL: Final = 0.01
_POLLED_SHARE: Final = 0.1
"""The time between two looks, as a share of the run so far: a layer waits little, and looks cost little."""

_MAX_TEXT: Final = 1 << 16
_MAX_WAIT: Final = 300.0
"""Seconds without a byte for which a registry may request a wait; skopeo itself gives up after four waits of a minute each."""

_TOO_MANY: Final = re.compile(r"Too many requests to [a-z]+://([^/ ]+)[^ ]*: sleeping for ([0-9.]+) seconds")


@attrs.frozen
class PullProgress:
    """The progress of a pull: bytes present, bytes in total, and the reason of a wait, empty during transfers."""

    reference: str
    done: int
    total: int
    waiting: str = ""


@attrs.frozen
class Ended:
    """A finished run: its exit code, its output (at most the last `MAX_OUTPUT` bytes) and the end of its log."""

    code: int
    output: bytes
    log: str


class Waits:
    """Finds in a run's log the waits that registries request. `until` is the end of the last one, by the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rest = ""
        self.until = 0.0
        self.reason = ""

    def feed(self, data: bytes) -> None:
        """Parse a piece of the log."""
        *lines, self._rest = (self._rest + data.decode(errors="replace"))[-_MAX_TEXT:].split("\n")
        for line in lines:
            if (match := _TOO_MANY.search(line)) is not None:
                self.until = max(self.until, self._clock.monotonic() + float(match[2]))
                self.reason = f"{match[1]} responded 429 Too Many Requests and requests a wait of {float(match[2]):g} seconds"

    @property
    def waiting(self) -> str:
        """The reason of a current wait."""
        return self.reason if self._clock.monotonic() < self.until else ""


def with_program(settings: PullSettings) -> PullSettings:
    """The settings with the path of skopeo. Raises `Unavailable` if it is missing."""
    if not (program := find_program(settings.program)):
        raise Unavailable(f"{settings.program} is not on PATH, and is needed for images: apt-get install skopeo")
    return attrs.evolve(settings, program=program)


async def run(
    command: list[str],
    subject: str,
    stall: float,
    clock: Clock,
    watch: "Watch",
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run skopeo, or another program that reads an image, to its end; `environment` is its whole one, without it ours.

    A run that transfers no byte for `stall` seconds is killed: `PullError`. Waits that a registry requests do not count, up to
    five minutes; the reason is part of the error.
    """
    name = Path(command[0]).name
    program = {"process.executable.name": name, "process.executable.path": command[0]}
    with span(name, program) as recorded:
        ended = await _run(command, subject, stall, clock, watch, cwd, environment)
        if recorded is not None:
            recorded.annotate({"process.exit.code": ended.code})
        return ended


async def _run(
    command: list[str],
    subject: str,
    stall: float,
    clock: Clock,
    watch: "Watch",
    cwd: Path | None,
    environment: Mapping[str, str] | None,
) -> Ended:
    waits = Waits(clock)
    async with _process(command, waits.feed, cwd, environment) as ending:
        begun = moved = clock.monotonic()
        size = 0
        while not ending.done():
            await _pause(ending, clock, min(_POLL, max(_FIRST_POLL, (clock.monotonic() - begun) * _POLLED_SHARE)))
            before = size
            size = await asyncio.to_thread(watch.look)
            watch.wait(waits.waiting)
            watch.report()
            if size != before:
                moved = clock.monotonic()
            deadline = min(max(moved, waits.until) + stall, moved + max(stall, _MAX_WAIT))
            if clock.monotonic() > deadline and not ending.done():
                since = clock.monotonic() - moved
                reason = f": {waits.reason}" if waits.until > moved else ""
                raise PullError(PullReason.REGISTRY_UNAVAILABLE, f"{subject}: no data for {since:.0f} seconds{reason}")
        output, log, code = ending.result()
    return Ended(code, output, log.decode(errors="replace"))


class Watch:
    """Follows a run that gets a manifest: it reports only waits."""

    def __init__(self, reference: str, progress: Callable[[PullProgress], None]) -> None:
        self._reference = reference
        self._progress = progress
        self._waiting = ""

    def look(self) -> int:
        """A number that changes with every transfer. Called on a thread."""
        return 0

    def wait(self, reason: str) -> None:
        """Record the reason of a wait; empty when transfers may continue."""
        self._waiting = reason

    def report(self) -> None:
        """Report the result of the last look."""
        if self._waiting:
            self._progress(PullProgress(self._reference, 0, 0, self._waiting))


class FolderWatch(Watch):
    """Follows a copy into a folder by the size of everything in it."""

    def __init__(self, reference: str, progress: Callable[[PullProgress], None], folder: Path) -> None:
        super().__init__(reference, progress)
        self._folder = folder

    def look(self) -> int:
        """As `Watch.look`: the bytes in the folder."""
        size = 0
        for place, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    size += os.lstat(f"{place}/{name}").st_size
        return size


class CopyWatch(Watch):
    """Follows a copy by the sizes of its files. `arrived` is called with each complete layer."""

    def __init__(
        self,
        reference: str,
        progress: Callable[[PullProgress], None],
        blob: Callable[[str], Path],
        manifest: Manifest,
        layout: Path,
        arrived: Callable[[Descriptor], None],
    ) -> None:
        super().__init__(reference, progress)
        self._blob = blob
        self._layout = layout
        self._arrived = arrived
        self._total = manifest.size
        self._awaited = list(dict.fromkeys((*manifest.layers, manifest.config)))
        self._config = manifest.config
        self._here: list[Descriptor] = []
        self._whole = self._partial = 0

    def look(self) -> int:
        """As `Watch.look`: the bytes present."""
        self._here += [item for item in self._awaited if self._blob(item.digest).exists()]
        self._awaited = [item for item in self._awaited if item not in self._here]
        partial = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._layout):
                if entry.name.startswith("oci-put-blob"):
                    with contextlib.suppress(OSError):
                        partial += entry.stat().st_size
        self._partial = partial
        return self._whole + sum(item.size for item in self._here) + partial

    def report(self) -> None:
        """As `Watch.report`."""
        here, self._here = self._here, []
        self._whole += sum(item.size for item in here)
        for item in here:
            if item != self._config:
                self._arrived(item)
        self._progress(PullProgress(self._reference, min(self._whole + self._partial, self._total), self._total, self._waiting))


@contextlib.asynccontextmanager
async def _process(
    command: list[str], feed: Callable[[bytes], None], cwd: Path | None, environment: Mapping[str, str] | None
) -> AsyncIterator["asyncio.Future[tuple[bytes, bytes, int]]"]:
    """A process in a group of its own, which is killed at the end of the block or of this process: its output, its stderr and
    its exit code.
    """
    pdeathsig = find_program("setpriv")
    starting = asyncio.create_task(
        children.start(
            *([pdeathsig, "--pdeathsig", "KILL"] if pdeathsig else []),
            *command,
            cwd=cwd,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await end_program(await starting, group=True)
        raise
    ending = asyncio.gather(_read(process.stdout, MAX_OUTPUT, _ignore), _read(process.stderr, _MAX_TEXT, feed), process.wait())
    try:
        yield ending
    finally:
        await asyncio.shield(end_program(process, group=True))
        await asyncio.shield(ending)


async def _read(stream: asyncio.StreamReader | None, most: int, feed: Callable[[bytes], None]) -> bytes:
    """Read a stream to its end; beyond `most` bytes the oldest are dropped."""
    data = b""
    while stream is not None and (piece := await stream.read(1 << 16)):
        feed(piece)
        data = (data + piece)[-most:]
    return data


def _ignore(_: bytes) -> None:
    """Discard output that is read at the end only."""


async def _pause(ending: "asyncio.Future[tuple[bytes, bytes, int]]", clock: Clock, seconds: float) -> None:
    """Return after some seconds, or at the end of the process."""
    pause = asyncio.create_task(clock.sleep(seconds))
    pause.add_done_callback(lambda _: waiting.set())
    ending.add_done_callback(lambda _: waiting.set())
    waiting = asyncio.Event()
    try:
        await waiting.wait()
    finally:
        pause.cancel()
