"""Unpacking in worker processes (`crishim.worker`): the workers of a store, and the unpackings of one pull.

Starting a worker takes more CPU time than unpacking 20 MB, so pulls use them again; none is left when the last pull ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import CrishimError, DataLoss, PermissionDenied, ResourceExhausted, Unavailable, Unknown
from crishim.images.content import Content, UnpackedLayer
from crishim.images.manifest import Descriptor
from crishim.linux.children import children, end_program

_KINDS: Final[dict[str, type[CrishimError]]] = {
    kind.__name__: kind for kind in (DataLoss, PermissionDenied, ResourceExhausted, Unavailable, Unknown)
}

_log = logging.getLogger(__name__)


class Workers:
    """Worker processes, limited to what the machine can run concurrently.

    Between `open` and `close`, which may nest, idle workers are kept for the next call.
    """

    def __init__(self) -> None:
        self._limit = max(2, min(4, os.cpu_count() or 2))
        self._slots = asyncio.Semaphore(self._limit)
        self._idle: list[_Worker] = []
        self._users = 0

    def open(self) -> None:
        """Keep idle workers until `close`."""
        self._users += 1

    async def close(self) -> None:
        """End the idle workers, unless somebody else has opened them. Must not be cancelled."""
        self._users -= 1
        if not self._users:
            idle, self._idle = self._idle, []
            await asyncio.gather(*(worker.end() for worker in idle))

    async def prepare(self, count: int) -> None:
        """Start up to `count` workers for the next calls, if fewer are idle. To be awaited between `open` and `close`."""
        await asyncio.gather(*(self._one_more(number) for number in range(1, min(count, self._limit) + 1)))

    async def unpack(self, blob: Path, place: Path) -> UnpackedLayer:
        """Unpack a blob into `place`, which is created. Cancelling the call kills the worker.

        Raises `DataLoss` for a layer that is invalid or has paths outside of its folder, `ResourceExhausted` for a full disk,
        and `Unavailable` if the worker was killed or a program is missing.
        """
        answer = await self._run("unpack", [blob, place])
        return UnpackedLayer(place, answer["diff_id"], answer["bytes"], answer["inodes"])

    async def settle(self, places: Sequence[Path]) -> None:
        """Settle the layers of an image, given from the bottom to the top; see `layers.settle`."""
        await self._run("settle", places)

    async def _run(self, verb: str, paths: Sequence[Path]) -> dict[str, Any]:
        async with self._slots:
            worker = await self._next()
            try:
                answer = await worker.ask(verb, *map(str, paths))
            except BaseException:
                await asyncio.shield(worker.end())
                raise
            if self._users:
                self._idle.append(worker)
            else:
                await asyncio.shield(worker.end())
        if "error" in answer:
            raise _KINDS.get(answer["error"], Unknown)(answer["message"])
        return answer

    async def _one_more(self, wanted: int) -> None:
        async with self._slots:
            if len(self._idle) < wanted:
                self._idle.append(await _started())

    async def _next(self) -> "_Worker":
        """An idle worker, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
            await asyncio.shield(worker.end())
        return await _started()


class _Worker:
    """A running worker, for one request at a time. Must be ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process.returncode is not None

    async def ask(self, *request: str) -> dict[str, Any]:
        """The answer to a request. Raises `Unavailable` if the worker is killed, and `Unknown` if it ends."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise Unknown("unpacking: the worker has no pipes")
        with contextlib.suppress(ConnectionError):  # its exit code tells more
            stdin.write(json.dumps(request).encode() + b"\n")
            await stdin.drain()
        line = await stdout.readline()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        text = (await stderr.read()).decode(errors="replace")[-2000:]
        code = await self._process.wait()
        _log.warning("a worker that was to %s %s ended with %d: %s", request[0], request[-1], code, text)
        if code < 0:
            raise Unavailable(f"unpacking: the worker was killed by signal {-code}")
        raise Unknown(f"unpacking: the worker ended with {code}")

    async def end(self) -> None:
        """Kill and collect it."""
        await end_program(self._process, group=True)


async def _started() -> _Worker:
    """A new worker."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", "crishim.worker", str(os.getpid()))
    starting = asyncio.create_task(children.start(*command, stdin=pipe, stdout=pipe, stderr=pipe))
    try:
        return _Worker(await asyncio.shield(starting))
    except asyncio.CancelledError:
        await end_program(await starting, group=True)
        raise


@attrs.define(eq=False)
class Unpacking:
    """The unpackings of one pull, each begun when its blob has arrived. `end` must be awaited."""

    content: Content
    workers: Workers
    _jobs: dict[str, "asyncio.Task[UnpackedLayer]"] = attrs.field(factory=dict, init=False)
    _all: list["asyncio.Task[UnpackedLayer]"] = attrs.field(factory=list, init=False)
    _starting: "asyncio.Task[None] | None" = attrs.field(default=None, init=False)
    _folder: Path | None = attrs.field(default=None, init=False)

    def expect(self, blobs: Collection[Descriptor]) -> None:
        """Start workers for blobs, of which one is the image's configuration, while these are being downloaded."""
        if len(blobs) > 1:
            self._work()
            self._starting = self._starting or asyncio.create_task(self.workers.prepare(len(blobs) - 1))

    def begin(self, digest: str) -> None:
        """Unpack a blob, unless that is under way."""
        if digest not in self._jobs:
            place = self._work() / str(len(self._all))
            job = asyncio.create_task(self.workers.unpack(self.content.blob(digest), place))
            self._jobs[digest] = job
            self._all.append(job)

    async def take(self, digest: str, diff_id: str) -> UnpackedLayer:
        """The unpacked blob, for one caller. Raises `DataLoss` if its digest is not `diff_id`, and deletes it then."""
        self.begin(digest)
        try:
            layer = await self._jobs.pop(digest)
            if layer.diff_id != diff_id:
                raise DataLoss(f"layer {digest} has the diff id {layer.diff_id} instead of {diff_id}")
        except DataLoss:
            self.content.blob(digest).unlink(missing_ok=True)
            raise
        return layer

    async def end(self) -> None:
        """Cancel running unpackings, and delete what was not adopted."""
        for job in self._all:
            job.cancel()
        starting = [self._starting] if self._starting is not None else []
        await asyncio.gather(*self._all, *starting, return_exceptions=True)
        folder, self._folder = self._folder, None
        if folder is not None:
            await self.workers.close()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _work(self) -> Path:
        """The folder of the pull, and the workers open."""
        if self._folder is None:
            self._folder = self.content.work()
            self.workers.open()
        return self._folder
