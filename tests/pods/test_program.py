"""A runtime of one class over the keeper keeps the contract of runtimes."""

import asyncio
import inspect
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, Stdio
from crishim.linux import processes
from crishim.pods.program import ExecProgramRuntime, ProgramRuntime
from crishim.pods.supervised import SupervisedRuntime
from crishim.testing.conformance.candidate import until
from crishim.testing.roots import APPLETS
from tests.backends.runc.world import needs
from tests.conformance.test_runtimes import WithBusybox


class ChrootRuntime(ProgramRuntime):
    """Programs in a root of their own, and nothing else."""

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="chroot", version="1")

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        return (str(shutil.which("chroot")), str(bundle / config["root"]["path"]), *config["process"]["args"])

    async def check(self, bundle: Path, config: Mapping[str, Any]) -> None:
        await super().check(bundle, config)
        if config["process"]["args"][0] not in APPLETS:
            raise InvalidArgument("config.command", "does not exist")


class ExecRuntime(ChrootRuntime, ExecProgramRuntime):
    """The same, with further processes."""

    async def exec_command(self, bundle: Path, process: Mapping[str, Any], pid: int) -> Sequence[str]:
        return (str(shutil.which("chroot")), str(bundle / "rootfs"), *process["args"])


@pytest.mark.node
@needs("runc", "busybox", "chroot")
class TestProgram(WithBusybox):
    """It runs bundles, with their logs and named pipes, and deletes what an earlier object has left."""

    async def make_runtime(self, folder: Path) -> OciRuntime:
        return ChrootRuntime(folder)


async def started(runtime: ChrootRuntime, bundle: Path) -> tuple[processes.Identity, processes.Identity]:
    """The process of a container `one`, which runs, and the keeper's."""
    pid = await runtime.create("one", bundle, Stdio())
    await runtime.start("one")
    process = processes.read(pid)
    assert process is not None
    keeper = processes.read(process.parent)
    assert keeper is not None
    return process.identity, keeper.identity


async def end(process: processes.Identity) -> None:
    """Kill a process, and wait for its end."""
    processes.send(process, signal.SIGKILL)
    await processes.ended(process)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that sleeps."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    TestProgram().write_bundle(folder, ("sleep", "60"))
    return folder


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_program_that_does_not_exist(tmp_path: Path, bundle: Path) -> None:
    """The start fails by the field's name, the container stays created, and can be deleted."""
    TestProgram().write_bundle(tmp_path / "other", ("nonsense",))
    runtime = ChrootRuntime(tmp_path)
    await runtime.create("one", tmp_path / "other", Stdio())
    with pytest.raises(InvalidArgument, match=r"config\.command"):
        await runtime.start("one")
    assert OciStatus.CREATED is (await runtime.state("one")).status
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_name_is_taken(tmp_path: Path, bundle: Path) -> None:
    """A second container of one name is refused, and the first one is not touched."""
    runtime = ChrootRuntime(tmp_path)
    await runtime.create("one", bundle, Stdio())
    with pytest.raises(AlreadyExists):
        await runtime.create("one", bundle, Stdio())
    await runtime.start("one")
    assert OciStatus.RUNNING is (await runtime.state("one")).status
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_its_keeper_is_killed(tmp_path: Path, bundle: Path) -> None:
    """The container goes on, and its end is seen: by a signal, with an unknown exit."""
    runtime = ChrootRuntime(tmp_path)
    _, keeper = await started(runtime, bundle)
    waiting = asyncio.ensure_future(runtime.wait("one"))
    await end(keeper)
    await asyncio.wait({waiting}, timeout=0.1)
    assert (OciStatus.RUNNING, False) == ((await runtime.state("one")).status, waiting.done())
    await runtime.kill("one", signal.SIGTERM)
    assert 255 == (await asyncio.wait_for(waiting, 30)).code
    assert OciStatus.STOPPED is (await runtime.state("one")).status
    with pytest.raises((NotFound, Unavailable)):
        await runtime.kill("one", signal.SIGTERM)
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_deletion_without_the_keeper(tmp_path: Path, bundle: Path) -> None:
    """The deletion of a container whose keeper was killed ends its process."""
    runtime = ChrootRuntime(tmp_path)
    process, keeper = await started(runtime, bundle)
    await end(keeper)
    await runtime.delete("one")
    assert not processes.runs(process)


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_start_after_the_end(tmp_path: Path, bundle: Path) -> None:
    """A container that has ended before its start, or was started, is not started; its state is that of its process."""
    runtime = ChrootRuntime(tmp_path)
    for name in ("one", "two"):
        await runtime.create(name, bundle, Stdio())
    await runtime.kill("one", signal.SIGKILL)
    await runtime.wait("one")
    await runtime.start("two")
    for name, state in (("one", "stopped"), ("two", "running")):
        with pytest.raises(FailedPrecondition) as caught:
            await runtime.start(name)
        assert state == caught.value.state
        await runtime.delete(name)


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_creation_that_fails(tmp_path: Path, bundle: Path) -> None:
    """The creation of a bundle that cannot be read leaves nothing, so that its name is free."""
    runtime = ChrootRuntime(tmp_path)
    with pytest.raises(FileNotFoundError):
        await runtime.create("one", tmp_path / "missing", Stdio())
    await runtime.create("one", bundle, Stdio())
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_an_environment_that_is_not_utf_8(tmp_path: Path, bundle: Path) -> None:
    """Variables may have any bytes, which config.json has as they are."""
    file = bundle / "config.json"
    file.write_bytes(file.read_bytes().replace(b"PATH=/bin", b"PATH=/bin\xff"))
    runtime = ChrootRuntime(tmp_path)
    await started(runtime, bundle)
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_sigkill_ends_all(tmp_path: Path) -> None:
    """A process in a session of its own, which a supervisor has started, is ended with it."""
    folder, log = tmp_path / "bundle", tmp_path / "log"
    folder.mkdir()
    TestProgram().write_bundle(folder, ("sh", "-c", "setsid sleep 600 & echo started; wait"))
    (folder / "rootfs" / "dev" / "null").touch()  # the stdin of a shell's background
    runtime = ChrootRuntime(tmp_path)
    pid = await runtime.create("one", folder, Stdio(log_path=str(log)))
    await runtime.start("one")
    await until(lambda: log.exists() and b"started" in log.read_bytes())
    first = processes.read(pid)
    assert first is not None
    family = processes.family([first.identity], processes.all_processes())
    assert 2 <= len(family)
    await runtime.kill("one", 9)
    await runtime.wait("one")
    await until(lambda: not any(processes.runs(member.identity) for member in family))
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_waiters_see_the_end_of_a_deleted_program(tmp_path: Path, bundle: Path) -> None:
    """A wait that began before the deletion returns the exit, also where somebody else has the output open."""
    runtime = ChrootRuntime(tmp_path)
    pid = await runtime.create("one", bundle, Stdio(log_path=str(tmp_path / "log")))
    await runtime.start("one")
    waiting = asyncio.ensure_future(runtime.wait("one"))
    await asyncio.wait({waiting}, timeout=0.1)
    output = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)
    try:
        await runtime.delete("one")
    finally:
        os.close(output)
    assert 128 + signal.SIGKILL == (await asyncio.wait_for(waiting, 30)).code


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_an_exec_that_is_cancelled_again(tmp_path: Path, bundle: Path) -> None:
    """The process of an exec is killed and reaped, also if the exec is cancelled again while it waits for the end."""
    runtime = ExecRuntime(tmp_path)
    await started(runtime, bundle)
    running: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    executing = asyncio.ensure_future(runtime.exec_process("one", {"args": ["sleep", "60"]}, ProcessIO(), running.set_result))
    pid = await asyncio.wait_for(running, 30)
    while not executing.done():
        executing.cancel()
        await asyncio.sleep(0)
    assert executing.cancelled()
    await until(lambda: processes.read(pid) is None)
    await runtime.delete("one")


@pytest.mark.parametrize("kind", [ProgramRuntime, ExecProgramRuntime, SupervisedRuntime])
def test_a_subclass_may_have_any_name(kind: type[OciRuntime]) -> None:
    """Helper methods of the bases are mangled, so that a subclass's own of any name do not replace them."""
    private = {name for name, value in vars(kind).items() if inspect.isfunction(value) and re.match("_[^_]", name)}
    assert set() == {name for name in private if not name.startswith(f"_{kind.__name__}__")}
