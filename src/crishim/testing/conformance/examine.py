"""One check of the exam, from an empty backend to an empty one, in a time limit and without a test framework."""

import asyncio
import contextlib
import enum
import linecache
import logging
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from crishim.errors import CrishimError
from crishim.linux.children import orphans_left_to_others
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.linux.processes import send, with_variable
from crishim.model.container import ContainerStatus, ObservedContainer
from crishim.model.process import Exit
from crishim.testing.conformance.candidate import MARK, Candidate, World
from crishim.testing.conformance.programs import LeftOut

__all__ = ["Check", "Grade", "Restart", "Result"]

_GRACE: Final = 10.0
"""Seconds for what must end by itself: the process of a check after its limit, and processes of removed containers."""
_PROCESSES: Final = multiprocessing.get_context("fork")  # so that a test's own class need not be pickled

_CALLS: Final = 40
"""Calls that the report of a failure shows, the last ones."""

_LINES: Final = 10
"""Lines of each container's log that it shows, the last ones."""

_TOLD: Final = (str, bytes, int, tuple, list, enum.Enum, Exit, ContainerStatus, ObservedContainer)
"""The values of variables that the report of a failure shows."""

T = TypeVar("T")

Check: TypeAlias = Callable[[World], Coroutine[Any, Any, None]]
"""A check: it returns, or raises `AssertionError` or `LeftOut`."""


@attrs.frozen
class Restart:
    """A check over a restart of crishim. `before` returns what `after` needs, which can be pickled.

    `before` runs in a process that is killed at its end, and `after` in another one, with a new backend over the same folders:
    nothing of the first process lives on but what the backend has left outside. For a backend whose state is in memory both run
    in one process, and the backend is built again between them.
    """

    name: str
    sentence: str
    before: Callable[[World], Coroutine[Any, Any, Any]]
    after: Callable[[World, Any], Coroutine[Any, Any, None]]


class Grade(enum.StrEnum):
    """What became of a check that did not fail."""

    PASSED = "passed"
    NOT_CLAIMED = "not claimed"
    LEFT_OUT = "left out"


@attrs.frozen
class Result:
    """The grade of a check, with the reason where it was left out."""

    grade: Grade
    reason: str = ""


def examine(check: Check | Restart, candidate: Candidate, claimed: Callable[[World], str]) -> Result:
    """Run a check in a process of its own, or here for a backend in memory. `claimed` returns what the backend does not claim
    that the check is about.

    Raises what the check raises, as an `AssertionError` with its text if it was in another process. Notes of the exception have
    the sentence of the contract, the calls of the backend, and the log of crishim. Raises `AssertionError`, too, if the backend
    is not empty afterwards, or a mount or a process of a container was left.

    An interrupted check (`KeyboardInterrupt`) removes what it has made before this returns.
    """
    folder = candidate.scratch.parent
    grace = 0.0  # for a check that failed
    try:
        # orphans are reaped by others, as on a node whose crishim was killed
        with _removing(candidate.cdi_file), orphans_left_to_others():
            result = _run(check, candidate, claimed)
        grace = _GRACE
    except LeftOut as reason:
        grace = _GRACE
        result = Result(Grade.LEFT_OUT, str(reason))
    finally:
        survivors = _end_survivors(candidate.mark, grace)
        mounts = [mount.path for mount in mounts_below(folder)]
        unmount_below(folder)
    assert [] == survivors, f"processes of removed containers still run: {survivors}"
    assert [] == mounts, f"mounts were left: {mounts}"
    return result


@contextlib.contextmanager
def _removing(file: Path) -> Iterator[None]:
    """Remove a file at the end if there is one, and then its folder if that was made meanwhile and has nothing else."""
    is_new = not file.parent.exists()
    try:
        yield
    finally:
        if file.exists():
            file.unlink()
            if is_new:
                with contextlib.suppress(OSError):
                    file.parent.rmdir()


def _end_survivors(mark: str, grace: float) -> list[str]:
    """The commands of the check's containers that still run after `grace` seconds; they are killed."""
    until = time.monotonic() + grace
    while (survivors := with_variable(MARK, mark)) and time.monotonic() < until:
        time.sleep(0.05)
    commands = []
    for survivor in survivors:
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{survivor.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        send(survivor, signal.SIGKILL)
    return commands


def _run(check: Check | Restart, candidate: Candidate, claimed: Callable[[World], str]) -> Result:
    if not isinstance(check, Restart):
        life = _Life(check, candidate, claimed, check)
        return life.run() if candidate.in_memory else _in_a_process(life.run, candidate.limit)
    if not candidate.survives_restart:
        return Result(Grade.NOT_CLAIMED, "survives_restart")
    if candidate.in_memory:
        return _Life(check, candidate, claimed, _in_one_process(check)).run()
    first = _in_a_process(_Life(check, candidate, claimed, check.before).begin, candidate.limit)
    if isinstance(first, Result):
        return first
    second = _Life(check, candidate, claimed, lambda world: check.after(world, first.state), first)
    return _in_a_process(second.run, candidate.limit)


def _in_one_process(check: Restart) -> Check:
    async def both(world: World) -> None:
        state = await check.before(world)
        await world.restart()
        await check.after(world, state)

    return both


@attrs.frozen
class _Left:
    """What a process that is killed leaves to the next one: the state of the check, ids, and the calls of the backend."""

    state: Any
    made: tuple[list[Any], list[Any]]
    calls: list[str]


@attrs.frozen
class _Life:
    """One process's part of a check: `work` on a world, on an event loop of its own."""

    check: Check | Restart
    candidate: Candidate
    claimed: Callable[[World], str]
    work: Callable[[World], Coroutine[Any, Any, Any]]
    left: _Left | None = None

    def run(self) -> Result:
        """The whole of a check, or its end. The backend must be empty afterwards."""
        calls = [] if self.left is None else [*self.left.calls, "crishim was killed, and started again"]

        async def life() -> Result:
            _cancel_on_sigterm()
            async with asyncio.timeout(self.candidate.limit), self.candidate.world(calls) as world:
                if missing := self.claimed(world):
                    return Result(Grade.NOT_CLAIMED, missing)
                if self.left is not None:
                    world.adopt(*self.left.made)
                await self.work(world)
            return Result(Grade.PASSED)

        with _accounted(self.check, calls, self.candidate.scratch / "logs"):
            try:
                return asyncio.run(life())
            finally:
                self.candidate.release()

    def begin(self) -> _Left | Result:
        """The part of a check before a restart. The backend stays as it is."""
        calls: list[str] = []

        async def life() -> _Left | Result:
            _cancel_on_sigterm()
            world = World(self.candidate, await self.candidate.make(self.candidate.context), calls)
            try:
                async with asyncio.timeout(self.candidate.limit):
                    await world.begin()
                    if missing := self.claimed(world):
                        return Result(Grade.NOT_CLAIMED, missing)
                    return _Left(await self.work(world), world.made, calls)
            except BaseException:
                with contextlib.suppress(CrishimError, TimeoutError):
                    await world.tidy()
                raise

        with _accounted(self.check, calls, self.candidate.scratch / "logs"):
            runner = asyncio.Runner()  # which is not closed: what runs on it is killed
            return runner.run(life())


def _in_a_process(work: Callable[[], T], limit: float) -> T:
    """The result of `work` in a process of its own, which is killed when it has one, or `limit` has passed. Raises what `work`
    raises.
    """
    receiving, sending = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_work, args=(sending, work))
    process.start()
    sending.close()
    try:
        if not receiving.poll(limit + _GRACE):
            raise AssertionError("the process of the check does not end: something blocks its event loop")
        result: T | BaseException = receiving.recv()
    except KeyboardInterrupt:
        process.terminate()
        receiving.poll(_GRACE)
        raise
    except EOFError:
        raise AssertionError("the process of the check ended without a result") from None
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(result, BaseException):
        raise result
    return result


def _work(sending: Connection, work: Callable[[], object]) -> None:
    """In the process: send the result, or what was raised."""
    # A terminal's SIGINT goes to both processes, and the other one sends SIGTERM. An ignored signal would be so in programs.
    signal.signal(signal.SIGINT, lambda *_: None)
    result: object
    try:
        result = work()
    except LeftOut as reason:
        result = reason
    except BaseException as error:  # noqa: BLE001 - it is raised in the other process
        text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        failure = AssertionError(text)
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        result = failure
    sending.send(result)
    signal.pause()  # until the kill


def _cancel_on_sigterm() -> None:
    """Have SIGTERM cancel the check, whose clean-up then removes what it has made."""
    task = asyncio.current_task()
    if task is not None and multiprocessing.parent_process() is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextlib.contextmanager
def _accounted(check: Check | Restart, calls: list[str], logs: Path) -> Iterator[None]:
    """Add a note to an exception."""
    with _log() as lines:
        try:
            yield
        except LeftOut:
            raise
        except BaseException as error:
            error.add_note(_account(check, error, calls, lines, logs))
            raise


@contextlib.contextmanager
def _log() -> Iterator[list[str]]:
    """The lines that crishim logs meanwhile."""
    lines: list[str] = []

    class _Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("crishim")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _account(check: Check | Restart, error: BaseException, calls: list[str], log: list[str], logs: Path) -> str:
    """What happened, for the author of a backend whose check has failed."""
    parts = [f"the contract: {sentence_of(check)}", *_failed(error)]
    sections = [("calls of the backend", calls[-_CALLS:]), ("log of crishim", log[-_CALLS:])]
    sections += [(f"log of container {file.parent.name}", _end_of(file)) for file in sorted(logs.rglob("*.log"))]
    for title, lines in sections:
        if lines:
            parts.append("\n  ".join([f"{title}:", *lines]))
    return "\n".join(parts)


def _end_of(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-_LINES:]


def _failed(error: BaseException) -> Iterator[str]:
    """The line of the check that failed, with the values of its variables."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_code.co_name.startswith("check_"):
            source = linecache.getline(frame.f_code.co_filename, line).strip()
            values = ", ".join(f"{name} = {value!r:.120}" for name, value in frame.f_locals.items() if _tells(name, value))
            yield f"the check: {source}" + (f"  with {values}" if values else "")
            return


def _tells(name: str, value: object) -> bool:
    return name.isidentifier() and isinstance(value, _TOLD)


def name_of(check: Check | Restart) -> str:
    """The name of a check, without its prefix."""
    return (check.name if isinstance(check, Restart) else check.__name__).removeprefix("check_")


def sentence_of(check: Check | Restart) -> str:
    """The sentence of the contract that a check is about."""
    return check.sentence if isinstance(check, Restart) else " ".join((check.__doc__ or "").split())
