"""Unpacking in worker processes (`crishim.worker`): the workers of a store, and the unpackings of one pull."""

import asyncio
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import CrishimError, DataLoss, PermissionDenied, ResourceExhausted, Unavailable, Unknown
from crishim.images.content import Content, UnpackedLayer
from crishim.linux.children import children, end_program

_KINDS: Final[dict[str, type[CrishimError]]] = {
    kind.__name__: kind for kind in (DataLoss, PermissionDenied, ResourceExhausted, Unavailable, Unknown)
}

_log = logging.getLogger(__name__)


class Workers:
    """Starts workers, limited to what the machine can run concurrently."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(max(2, min(4, os.cpu_count() or 2)))

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
            code, output, text = await _output(verb, *map(str, paths))
        try:
            answer: dict[str, Any] = json.loads(output)
        except ValueError:
            _log.warning("a worker that was to %s %s ended with %d: %s", verb, paths[-1], code, text)
            if code < 0:
                raise Unavailable(f"unpacking: the worker was killed by signal {-code}") from None
            raise Unknown(f"unpacking: the worker ended with {code}") from None
        if "error" in answer:
            raise _KINDS.get(answer["error"], Unknown)(answer["message"])
        return answer


async def _output(*arguments: str) -> tuple[int, bytes, str]:
    """Run a worker to its end: its exit code, its stdout, and the end of its stderr."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", "crishim.worker", str(os.getpid()), *arguments)
    starting = asyncio.create_task(children.start(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await end_program(await starting, group=True)
        raise
    try:
        output, text = await process.communicate()
    finally:
        await asyncio.shield(end_program(process, group=True))
    return process.returncode or 0, output, text.decode(errors="replace")[-2000:]


@attrs.define(eq=False)
class Unpacking:
    """The unpackings of one pull, each begun when its blob has arrived. `end` must be awaited."""

    content: Content
    workers: Workers
    _jobs: dict[str, "asyncio.Task[UnpackedLayer]"] = attrs.field(factory=dict, init=False)
    _all: list["asyncio.Task[UnpackedLayer]"] = attrs.field(factory=list, init=False)
    _folder: Path | None = attrs.field(default=None, init=False)

    def begin(self, digest: str) -> None:
        """Unpack a blob, unless that is under way."""
        if digest not in self._jobs:
            self._folder = self._folder or self.content.work()
            place = self._folder / str(len(self._all))
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
        await asyncio.gather(*self._all, return_exceptions=True)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
