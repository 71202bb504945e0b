"""The running of one check: time, restarts in two processes, and what a failure says."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

import attrs
import pytest

from crishim.errors import NotFound
from crishim.interfaces.backend import Backend, BackendContext, NetnsSource
from crishim.interfaces.capabilities import SupportsClose
from crishim.linux.processes import with_variable
from crishim.system import SystemClock
from crishim.testing import FakeBackend
from crishim.testing.conformance import candidate
from crishim.testing.conformance import examine as examining
from crishim.testing.conformance.candidate import MARK, Candidate, World, until
from crishim.testing.conformance.examine import Check, Grade, Restart, Result, examine
from crishim.testing.conformance.programs import LeftOut
from crishim.testing.fake_programs import FakePrograms
from tests.backends.runc.world import needs


@pytest.fixture
def fake(tmp_path: Path) -> Candidate:
    """A fake whose state a restart loses, since it is in memory."""
    for name in ("state", "run", "scratch"):
        (tmp_path / "exam" / name).mkdir(parents=True)

    async def make(_: BackendContext) -> Backend:
        return FakeBackend(netns=NetnsSource.NONE)

    folder = tmp_path / "exam"
    context = BackendContext(state=folder / "state", runtime_state=folder / "run", clock=SystemClock())
    return Candidate(make=make, context=context, scratch=folder / "scratch", programs=FakePrograms())


def everything(_: World) -> str:
    return ""


async def check_that_fails(world: World) -> None:
    """A sentence of
    the contract.
    """
    logging.getLogger("crishim.anything").warning("something odd")
    await world.sandbox()
    assert world.info.name == "real"


async def check_that_hangs(world: World) -> None:
    """It never ends."""
    await world.wait((await world.run(await world.sandbox(), ("sleep",))).id)


async def check_without_a_program(_: World) -> None:
    """Something is missing."""
    raise LeftOut("no such program")


def test_a_failure_has_an_account(fake: Candidate) -> None:
    """The sentence, the calls and the log are a note of the exception."""
    with pytest.raises(AssertionError) as caught:
        examine(check_that_fails, fake, everything)
    (account,) = caught.value.__notes__
    assert "the contract: A sentence of the contract." in account
    assert "start_sandbox(SandboxSpec ..." in account
    assert "remove_sandbox(..." in account
    assert "WARNING crishim.anything: something odd" in account


def test_a_failure_shows_what_containers_logged(fake: Candidate) -> None:
    """The last lines of each container's log are in the note."""
    log = fake.scratch / "logs" / "main" / "0.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(20)))
    with pytest.raises(AssertionError) as caught:
        examine(check_that_fails, fake, everything)
    (account,) = caught.value.__notes__
    assert account.endswith("\n  ".join(["log of container main:", *(f"line {number}" for number in range(10, 20))]))


async def check_that_passes(world: World) -> None:
    """It passes."""
    await world.run(await world.sandbox(), ("sleep",))


class Closing(FakeBackend, SupportsClose):
    """Writes down what it holds when it is closed."""

    def __init__(self, file: Path) -> None:
        super().__init__(netns=NetnsSource.NONE)
        self._file = file

    async def close(self) -> None:
        left = await self.inventory()
        with self._file.open("a") as file:
            file.write(f"closed with {len(left.sandboxes)} sandboxes and {len(left.containers)} containers\n")


@pytest.mark.parametrize(("check", "fails"), [(check_that_passes, False), (check_that_fails, True)])
def test_the_backend_is_closed_at_the_end(fake: Candidate, tmp_path: Path, check: Check, fails: bool) -> None:
    """A backend with `SupportsClose` is closed once, after everything is removed, also when the check fails."""

    async def make(_: BackendContext) -> Backend:
        return Closing(tmp_path / "closed")

    with pytest.raises(AssertionError) if fails else contextlib.nullcontext():
        examine(check, attrs.evolve(fake, make=make), everything)
    assert ["closed with 0 sandboxes and 0 containers"] == (tmp_path / "closed").read_text().splitlines()


def test_a_close_that_fails(fake: Candidate, tmp_path: Path) -> None:
    """A check fails if the backend cannot be closed, and what a failed check says is not hidden by it."""

    async def make(_: BackendContext) -> Backend:
        return Closing(tmp_path)

    for check, message in ((check_that_passes, "IsADirectoryError"), (check_that_fails, "'real'")):
        with pytest.raises(AssertionError, match=message):
            examine(check, attrs.evolve(fake, make=make), everything)


def test_a_check_has_a_time_limit(fake: Candidate) -> None:
    """A check that never ends fails, and what it made is removed."""
    with pytest.raises(AssertionError, match="TimeoutError"):
        examine(check_that_hangs, attrs.evolve(fake, limit=0.3), everything)


def test_a_blocked_loop_has_a_time_limit(fake: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that blocks its event loop fails, too, and its process is killed."""
    monkeypatch.setattr(examining, "_GRACE", 0.2)

    async def check_that_blocks(_: World) -> None:
        """It blocks."""
        time.sleep(60)  # noqa: ASYNC251

    with pytest.raises(AssertionError, match="something blocks its event loop"):
        examine(check_that_blocks, attrs.evolve(fake, limit=0.2), everything)


def test_what_is_missing_is_named(fake: Candidate) -> None:
    """A check that needs what is not here is left out with the reason, and one of what is not claimed is not run."""
    assert Result(Grade.LEFT_OUT, "no such program") == examine(check_without_a_program, fake, everything)
    assert Result(Grade.NOT_CLAIMED, "SupportsExec") == examine(check_that_fails, fake, lambda _: "SupportsExec")


def test_a_restart_is_another_process(fake: Candidate) -> None:
    """The first half runs in a process that is killed; the second gets what it returned, and its calls are in the account."""

    async def before(world: World) -> int:
        await world.sandbox()
        return os.getpid()

    async def after(world: World, pid: int) -> None:
        assert pid != os.getpid()
        assert () == (await world.backend.inventory()).sandboxes
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        raise AssertionError("seen")

    with pytest.raises(AssertionError, match="seen") as caught:
        examine(Restart("check_restart", "A sentence.", before, after), fake, everything)
    (account,) = caught.value.__notes__
    texts = ("start_sandbox(", "crishim was killed, and started again", "inventory() returned Inventory(sandboxes=(), ")
    places = [account.rindex(text) for text in texts]
    assert sorted(places) == places


@pytest.mark.parametrize("how", ["raises", "exits"])
def test_the_first_process_fails(fake: Candidate, how: str) -> None:
    """What the first half raises fails the check, and so does its process's end."""

    async def before(_: World) -> None:
        if how == "exits":
            os._exit(3)
        raise NotFound("sandbox", "x")

    async def after(_: World, __: None) -> None:
        raise AssertionError("it is not reached")

    with pytest.raises(AssertionError, match="NotFound: sandbox" if how == "raises" else "without a result"):
        examine(Restart("check_restart", "A sentence.", before, after), fake, everything)


def test_orphans_are_not_ours(fake: Candidate) -> None:
    """What the first half leaves behind is reaped by others, also if an earlier test has made this process a subreaper."""
    libc = ctypes.CDLL(None)
    was = ctypes.c_int()
    libc.prctl(37, ctypes.byref(was), 0, 0, 0)
    libc.prctl(36, 1, 0, 0, 0)

    async def before(_: World) -> int:
        return subprocess.Popen(["sleep", "0.2"], start_new_session=True).pid  # noqa: ASYNC220

    async def after(_: World, pid: int) -> None:
        await until(lambda: not Path(f"/proc/{pid}").exists())

    try:
        result = examine(Restart("check_restart", "A sentence.", before, after), fake, everything)
    finally:
        libc.prctl(36, was.value, 0, 0, 0)
    assert Result(Grade.PASSED) == result


def test_a_backend_that_ends_with_crishim(fake: Candidate) -> None:
    """A check over a restart is not run for a backend whose containers do not survive one."""

    async def half(*_: object) -> None:
        raise AssertionError("it is not reached")

    restart = Restart("check_restart", "A sentence.", half, half)
    result = examine(restart, attrs.evolve(fake, survives_restart=False), everything)
    assert Result(Grade.NOT_CLAIMED, "survives_restart") == result


def test_a_process_that_is_left_fails(fake: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with the environment of a container that has been removed fails a check that passed, and is killed."""
    monkeypatch.setattr(examining, "_GRACE", 0.1)

    async def check_that_leaves(world: World) -> None:
        """It leaves a process."""
        spec = await world.run(await world.sandbox(), ("sleep",))
        subprocess.Popen(["sleep", "600"], env=dict(spec.env), start_new_session=True)  # noqa: ASYNC220

    with pytest.raises(AssertionError, match=r"processes of removed containers still run: \['sleep 600 '\]"):
        examine(check_that_leaves, fake, everything)
    assert [] == with_variable(MARK, fake.mark)


@pytest.mark.node
@needs("unshare")
def test_a_mount_that_is_left_fails(fake: Candidate) -> None:
    """A mount below the exam's folder fails a check that passed, and is gone afterwards."""

    async def check_that_mounts(world: World) -> None:
        """It mounts."""
        folder = world.candidate.scratch / "mount"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "exam", str(folder)], check=True)  # noqa: ASYNC221

    with pytest.raises(AssertionError, match="mounts were left"):
        examine(check_that_mounts, fake, everything)
    assert str(fake.scratch) not in Path("/proc/self/mountinfo").read_text()


def test_descriptions_of_devices_are_removed(fake: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check whose process is killed has described to the machine is removed, and the folder if that is new."""
    folder = fake.scratch / "cdi"
    monkeypatch.setattr(candidate, "CDI_FOLDERS", (folder,))

    async def check_that_is_killed(world: World) -> None:
        """It writes a file and ends."""
        folder.mkdir(exist_ok=True)
        world.candidate.cdi_file.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="ended without a result"):
        examine(check_that_is_killed, fake, everything)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(AssertionError, match="ended without a result"):
        examine(check_that_is_killed, fake, everything)
    assert [] == [*folder.iterdir()]
