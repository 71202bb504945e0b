"""One check of the exam, from an empty backend to an empty one, in a time limit and without a test framework."""

import asyncio
import contextlib
import enum
import linecache
import logging
import multiprocessing
import traceback
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final, TypeAlias

import attrs

from crishim.errors import CrishimError
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.model.container import ContainerStatus, ObservedContainer
from crishim.model.process import Exit
from crishim.testing.conformance.candidate import Candidate, World
from crishim.testing.conformance.programs import LeftOut

LIMIT: Final = 180.0
"""Seconds for one check; each verb in it has a limit of its own."""

_GRACE: Final = 10.0
_PROCESSES: Final = multiprocessing.get_context("fork")  # so that a test's own class need not be pickled

_CALLS: Final = 40
"""Calls that the report of a failure shows, the last ones."""

_TOLD: Final = (str, bytes, int, tuple, list, enum.Enum, Exit, ContainerStatus, ObservedContainer)
"""The values of variables that the report of a failure shows."""

Check: TypeAlias = Callable[[World], Coroutine[Any, Any, None]]


@attrs.frozen
class Restart:
    """A check over a restart of crishim. `before` returns what `after` needs, which can be pickled.

    `before` runs in a process of its own that is killed at its end, and `after` in this one, with a new backend over the same
    folders: nothing of the first process lives on but what the backend has left outside. For a backend whose state is in memory
    both run here, and the backend is built again between them.
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
    """Run a check on an event loop of its own. `claimed` returns what the backend does not claim that the check is about.

    Raises what the check raises; a note of the exception has the sentence of the contract, the calls of the backend, and the
    log of crishim. Raises `AssertionError` if the backend is not empty afterwards, or a mount was left.
    """
    folder, calls = candidate.scratch.parent, list[str]()
    with _log() as lines:
        try:
            try:
                result = _run(check, candidate, claimed, calls)
            finally:
                candidate.release()
                mounts = [mount.path for mount in mounts_below(folder)]
                unmount_below(folder)
            assert [] == mounts, f"mounts were left: {mounts}"
        except LeftOut as reason:
            return Result(Grade.LEFT_OUT, str(reason))
        except BaseException as error:
            error.add_note(_account(check, error, calls, lines))
            raise
    return result


def _run(check: Check | Restart, candidate: Candidate, claimed: Callable[[World], str], calls: list[str]) -> Result:
    if not isinstance(check, Restart):
        return asyncio.run(_limited(_whole(check, candidate, claimed, calls)))
    if not candidate.survives_restart:
        return Result(Grade.NOT_CLAIMED, "survives_restart")
    if candidate.in_memory:
        return asyncio.run(_limited(_whole(_in_one_process(check), candidate, claimed, calls)))
    first = _first_life(check, candidate, claimed, calls)
    if isinstance(first, Result):
        return first

    async def after(world: World) -> None:
        world.adopt(*first.made)
        await check.after(world, first.state)

    return asyncio.run(_limited(_whole(after, candidate, claimed, calls)))


def _in_one_process(check: Restart) -> Check:
    async def both(world: World) -> None:
        state = await check.before(world)
        await world.restart()
        await check.after(world, state)

    return both


async def _limited(work: Coroutine[Any, Any, Result]) -> Result:
    async with asyncio.timeout(LIMIT):
        return await work


async def _whole(check: Check, candidate: Candidate, claimed: Callable[[World], str], calls: list[str]) -> Result:
    async with candidate.world(calls) as world:
        if missing := claimed(world):
            return Result(Grade.NOT_CLAIMED, missing)
        await check(world)
    return Result(Grade.PASSED)


@attrs.frozen
class _FirstLife:
    """What the killed process has left."""

    state: Any
    made: tuple[list[Any], list[Any]]
    calls: list[str]


def _first_life(
    check: Restart, candidate: Candidate, claimed: Callable[[World], str], calls: list[str]
) -> "_FirstLife | Result":
    """Run `before` in a child process, and kill it when it has sent what it made. Raises what `before` raises."""
    receiving, sending = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_live, args=(sending, check, candidate, claimed))
    process.start()
    sending.close()
    try:
        if not receiving.poll(LIMIT + _GRACE):
            raise AssertionError("the first process blocks its event loop")
        result = receiving.recv()
    except EOFError:
        raise AssertionError("the first process ended without a result") from None
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(result, BaseException):
        raise result
    if isinstance(result, _FirstLife):
        calls += [*result.calls, "crishim was killed, and started again"]
    assert isinstance(result, _FirstLife | Result)
    return result


def _live(sending: Connection, check: Restart, candidate: Candidate, claimed: Callable[[World], str]) -> None:
    """In the child: run `before`, send what came of it, and run on until the kill."""

    async def life() -> _FirstLife | Result:
        world = World(candidate, await candidate.make(candidate.context))
        try:
            await world.begin()
            if missing := claimed(world):
                return Result(Grade.NOT_CLAIMED, missing)
            return _FirstLife(await check.before(world), world.made, world.calls)
        except BaseException:
            with contextlib.suppress(CrishimError, TimeoutError):
                await world.tidy()
            raise

    async def send() -> None:
        result: object
        try:
            async with asyncio.timeout(LIMIT):
                result = await life()
        except LeftOut as reason:
            result = reason
        except BaseException as error:  # noqa: BLE001 - it is raised in the other process
            result = AssertionError(f"before the restart: {type(error).__name__}: {error}")
        sending.send(result)
        await asyncio.Event().wait()

    asyncio.run(send())


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


def _account(check: Check | Restart, error: BaseException, calls: list[str], log: list[str]) -> str:
    """What happened, for the author of a backend whose check has failed."""
    parts = [f"the contract: {sentence_of(check)}", *_failed(error)]
    for title, lines in (("calls of the backend", calls[-_CALLS:]), ("log of crishim", log[-_CALLS:])):
        if lines:
            parts.append("\n  ".join([f"{title}:", *lines]))
    return "\n".join(parts)


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
