"""Exec and attach: connections that the engine upgrades, copied to a client's streams."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from crishim.backends.docker.convert import DETACH_KEYS, exec_body
from crishim.backends.docker.engine import Conflict, Engine
from crishim.backends.docker.http import TakenOver
from crishim.backends.docker.observed import runs
from crishim.backends.docker.wire import Frames
from crishim.errors import CrishimError, FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unknown
from crishim.interfaces.capabilities import ByteReader, ByteWriter, ProcessIO
from crishim.interfaces.seats import Clock
from crishim.linux import processes
from crishim.logs.attachers import Attacher
from crishim.logs.stdio import BACKLOG
from crishim.model.process import ExecSpec, Exit, TerminalSize
from crishim.model.values import ContainerId

_log = logging.getLogger(__name__)

_END_OF_INPUT: Final = b"\x04"
"""A terminal's default end-of-file character."""

_TIMEOUT: Final = 10.0
"""Seconds for which the engine may take to report the exit of an exec after the end of its streams."""

_START: Final = 0.5
"""Seconds within which an exec that was cancelled during its start may still begin."""

_STALLED: Final = 10.0
"""Seconds without progress after which the output of an ended process is dropped, as in `ExecStreams`."""

_CANNOT_RUN: Final = frozenset({126, 127})


class ContainerStreams:
    """Execs, and the streams of containers."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """As `SupportsExec.exec`. On cancellation the exec's processes are killed by pid: the engine has no call for that."""
        path = f"/containers/{container_id}/exec"
        try:
            created = await self._engine.post(path, "container", container_id, exec_body(spec, stdin=io.stdin is not None))
        except Conflict as error:
            raise FailedPrecondition("not running", "running", f"container {container_id}") from error
        exec_id = str(created["Id"])
        start = {"Detach": False, "Tty": spec.tty}
        try:
            stream = await self._engine.take_over(f"/exec/{exec_id}/start", "exec", exec_id, start)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(stream.close)
                stack.push_async_callback(_ended, self._inputs(f"/exec/{exec_id}/resize", stream, io, tty=spec.tty))
                await self._copy_out(exec_id, _Delivery(stream, io, tty=spec.tty))
            return await self._exit(exec_id, spec)
        except asyncio.CancelledError:
            await asyncio.shield(self._kill(exec_id))
            raise

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`. Raises `Unavailable` if the stream ends before the container."""
        inspected = await self._engine.inspect(container_id)
        if not runs(inspected):
            raise FailedPrecondition(str(inspected["State"].get("Status")), "running", f"container {container_id}")
        config = inspected["Config"]
        tty, feeds = bool(config.get("Tty")), io.stdin is not None and bool(config.get("OpenStdin"))
        query = {"stream": 1, "stdout": 1, "stderr": 1, "stdin": int(feeds), "detachKeys": DETACH_KEYS}
        stream = await self._engine.take_over(f"/containers/{container_id}/attach", "container", container_id, **query)
        attacher = Attacher(io, BACKLOG)
        once = bool(config.get("StdinOnce"))
        tasks = self._inputs(f"/containers/{container_id}/resize", stream, io, tty=tty, feeds=feeds, ends=once)
        offering = asyncio.create_task(_offer(stream, attacher, tty=tty))
        try:
            await attacher.run()
            if offering.done():  # else the client has disconnected, or was dropped
                await self._check_end(container_id)
        finally:
            await _ended([*tasks, offering])
            await stream.close()

    async def _check_end(self, container_id: ContainerId) -> None:
        """Raise `Unavailable` unless the container has ended: its streams end shortly before the engine reports its exit."""
        pause, timeout = 0.002, self._clock.monotonic() + _TIMEOUT
        with contextlib.suppress(NotFound):
            while runs(await self._engine.inspect(container_id)):
                if self._clock.monotonic() > timeout:
                    raise Unavailable(f"the engine has closed the streams of container {container_id}, which is running")
                await self._clock.sleep(pause)
                pause = min(2 * pause, 0.2)

    async def _copy_out(self, exec_id: str, delivery: "_Delivery") -> None:
        """Copy all output; once the exec has ended, output that the client does not read is dropped."""
        copying = asyncio.create_task(delivery.run())
        try:
            while not copying.done():
                before = delivery.delivered
                await asyncio.wait({copying}, timeout=_STALLED)
                if delivery.writing and delivery.delivered == before and await self._is_over(exec_id):
                    _log.warning("the client of exec %s does not read; the rest of the output is dropped", exec_id)
                    return
            copying.result()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)

    async def _is_over(self, exec_id: str) -> bool:
        try:
            return not (await self._inspect(exec_id)).get("Running")
        except NotFound:  # its container is removed
            return True

    def _inputs(
        self, resize: str, stream: TakenOver, io: ProcessIO, *, tty: bool, feeds: bool = True, ends: bool = True
    ) -> list[asyncio.Task[None]]:
        tasks = []
        if io.stdin is not None and feeds:
            tasks.append(asyncio.create_task(_feed(io.stdin, stream, tty=tty, ends=ends)))
        if io.sizes is not None and tty:
            tasks.append(asyncio.create_task(self._follow_sizes(io.sizes, resize)))
        return tasks

    async def _follow_sizes(self, sizes: AsyncIterator[TerminalSize], path: str) -> None:
        async for size in sizes:
            for pause in (0.01, 0.1, 0.5):  # the terminal may not exist yet
                try:
                    await self._engine.post(path, h=size.height, w=size.width)
                    break
                except (Unknown, Conflict):
                    await self._clock.sleep(pause)

    async def _exit(self, exec_id: str, spec: ExecSpec) -> Exit:
        """The exit: the streams end shortly before the engine reports it."""
        pause, timeout = 0.002, self._clock.monotonic() + _TIMEOUT
        while (inspected := await self._inspect(exec_id)).get("Running") or inspected.get("ExitCode") is None:
            if self._clock.monotonic() > timeout:
                raise Unknown(f"the engine does not report the exit of the exec of {spec.argv[0]!r}")
            await self._clock.sleep(pause)
            pause = min(2 * pause, 0.2)
        code = int(inspected["ExitCode"])
        if code in _CANNOT_RUN and not inspected.get("Pid"):
            raise InvalidArgument("cmd", f"{spec.argv[0]!r} cannot be run in the container")
        return Exit(code=code)

    async def _kill(self, exec_id: str) -> None:
        """Kill every process of an exec, and wait until the engine reports its end. An exec that is being started is
        awaited.
        """
        pause, now = 0.01, self._clock.monotonic()
        started_by, timeout = now + _START, now + _TIMEOUT
        with contextlib.suppress(NotFound, Unavailable):
            while (inspected := await self._inspect(exec_id)).get("ExitCode") is None or inspected.get("Running"):
                now = self._clock.monotonic()
                if now > timeout:
                    _log.warning("exec %s has not ended after it was killed", exec_id)
                    return
                if not inspected.get("Running") and now > started_by:
                    return
                process = processes.read(int(inspected.get("Pid") or 0)) if inspected.get("Pid") else None
                if process is not None:
                    await processes.kill_family((process.identity,))
                await self._clock.sleep(pause)

    async def _inspect(self, exec_id: str) -> dict[str, Any]:
        inspected: dict[str, Any] = await self._engine.get(f"/exec/{exec_id}/json", "exec", exec_id)
        return inspected


class _Delivery:
    """Copies all output of an exec; output of streams that the client did not request is discarded."""

    def __init__(self, stream: TakenOver, io: ProcessIO, *, tty: bool) -> None:
        self.delivered = 0
        self.writing = False
        self._stream = stream
        self._writers: dict[str, ByteWriter | None] = {"stdout": io.stdout, "stderr": io.stderr}
        self._frames = Frames(tty=tty)

    async def run(self) -> None:
        """Return at the stream's end. Counts `delivered` bytes, and records whether it waits for the client."""
        while data := await self._stream.read():
            for name, piece in self._frames.feed(data):
                writer = self._writers[name]
                if writer is not None:
                    self.writing = True
                    try:
                        await writer.write(piece)
                    except (BrokenPipeError, ConnectionError):
                        self._writers[name] = None
                    self.writing = False
                self.delivered += len(piece)


async def _offer(stream: TakenOver, attacher: Attacher, *, tty: bool) -> None:
    frames = Frames(tty=tty)
    try:
        while data := await stream.read():
            for name, piece in frames.feed(data):
                attacher.offer(name, piece)
    finally:
        attacher.end()


async def _feed(stdin: ByteReader, stream: TakenOver, *, tty: bool, ends: bool) -> None:
    """Copy a client's input. Its end is passed on only if it `ends` the input: the engine takes it for a detachment."""
    with contextlib.suppress(BrokenPipeError):
        while data := await stdin.read():
            await stream.write(data)
        if ends and tty:
            await stream.write(_END_OF_INPUT)
        elif ends:
            await stream.write_eof()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            level = logging.DEBUG if isinstance(outcome, CrishimError) else logging.WARNING
            _log.log(level, "a stream of a client ended with: %r", outcome)
