"""The conformance suite for OCI runtimes, which pod backends and the shim v2 server run.

class TestMine(OciRuntimeConformance):
    async def make_runtime(self, folder: Path) -> OciRuntime:
        return MyRuntime(folder)
    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        ...  # config.json and a root file system with a shell
"""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import tempfile
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import pytest

from crishim.errors import CrishimError, InvalidArgument, NotFound
from crishim.interfaces.capabilities import ProcessIO, capabilities
from crishim.interfaces.oci_runtime import (
    RUNTIME_CAPABILITIES,
    OciRuntime,
    OciStatus,
    Stdio,
    SupportsExecProcess,
    SupportsUpdateResources,
)
from crishim.linux import processes
from crishim.oci.spec import process_of
from crishim.pods.bundle import read_config
from crishim.testing.conformance.candidate import patiently, until
from crishim.testing.conformance.offers import Sink
from crishim.testing.conformance.programs import Programs

__all__ = ["OciRuntimeConformance", "RuntimeWorld"]

_ENDED: Final = {OciStatus.STOPPED}

_CHECK_TIMEOUT: Final = 120.0
"""Seconds for one check; each of its calls also has a limit of its own."""


@attrs.define
class RuntimeWorld:
    """A runtime, and a folder for bundles. `make` builds the runtime, `write` a bundle for a command."""

    make: Callable[[], Awaitable[OciRuntime]]
    runtime: OciRuntime
    folder: Path
    write: Callable[[Path, tuple[str, ...]], None]
    programs: Programs = attrs.Factory(Programs)
    created: list[str] = attrs.Factory(list)

    async def create(self, argv: tuple[str, ...], stdio: Stdio | None = None) -> str:
        """Create a container; return its id."""
        name = f"exam{os.getpid()}-{len(self.created)}"
        bundle = self.folder / name
        bundle.mkdir()
        self.write(bundle, argv)
        self.created.append(name)
        await patiently(self.runtime.create(name, bundle, stdio or Stdio()))
        return name

    async def restart(self) -> None:
        """Build the runtime again over the same folder, as the next daemon does after a crash."""
        self.runtime = await self.make()

    async def is_gone(self, name: str) -> bool:
        """Whether the runtime does not know a container."""
        try:
            await self.runtime.state(name)
        except NotFound:
            return True
        return False


async def check_probe(world: RuntimeWorld) -> None:
    """probe: name and version are non-empty."""
    info = await world.runtime.probe()
    assert info.name
    assert info.version


async def check_lifecycle(world: RuntimeWorld) -> None:
    """create, start, wait, delete: the states follow the runtime specification, and the exit code is the process's."""
    name = await world.create(world.programs.fails(42))
    created = await world.runtime.state(name)
    assert (name, OciStatus.CREATED) == (created.id, created.status)
    assert created.pid > 0
    await patiently(world.runtime.start(name))
    assert 42 == (await patiently(world.runtime.wait(name))).code
    assert (await world.runtime.state(name)).status in _ENDED
    await patiently(world.runtime.delete(name))
    assert await world.is_gone(name)


async def check_wait_is_sticky(world: RuntimeWorld) -> None:
    """wait: any number of waiters, before and after the exit."""
    name = await world.create(world.programs.fails(7))
    early = [asyncio.ensure_future(world.runtime.wait(name)) for _ in range(3)]
    await patiently(world.runtime.start(name))
    assert [7] * 3 == [end.code for end in await patiently(asyncio.gather(*early))]
    assert 7 == (await patiently(world.runtime.wait(name))).code


async def check_kill(world: RuntimeWorld) -> None:
    """kill: the signal reaches the first process; a killed process ends with 128 and the signal's number."""
    name = await world.create(world.programs.sleeps())
    await patiently(world.runtime.start(name))
    await patiently(world.runtime.kill(name, signal.SIGKILL))
    assert 128 + signal.SIGKILL == (await patiently(world.runtime.wait(name))).code


async def check_delete_of_the_running(world: RuntimeWorld) -> None:
    """delete: a running container is killed, and its waiters return."""
    name = await world.create(world.programs.sleeps())
    await patiently(world.runtime.start(name))
    waiting = asyncio.ensure_future(world.runtime.wait(name))
    await asyncio.sleep(0)
    await patiently(world.runtime.delete(name))
    await patiently(waiting)
    assert await world.is_gone(name)


async def check_delete_after_a_restart(world: RuntimeWorld) -> None:
    """delete: a container that an earlier object over the same state has created or started is killed, too."""
    running, created = [await world.create(world.programs.sleeps()) for _ in range(2)]
    await patiently(world.runtime.start(running))
    started = [processes.read((await world.runtime.state(name)).pid) for name in (running, created)]
    await world.restart()
    for name, process in zip((running, created), started, strict=True):
        assert process is not None, "state must have the pid of a container that runs or is created"
        await patiently(world.runtime.delete(name))
        await until(functools.partial(_has_ended, process.identity))
        assert await world.is_gone(name)


def _has_ended(process: processes.Identity) -> bool:
    return not processes.runs(process)


async def check_delete_of_the_created(world: RuntimeWorld) -> None:
    """delete: a container that was never started is deleted, too."""
    name = await world.create(world.programs.sleeps())
    await patiently(world.runtime.delete(name))
    assert await world.is_gone(name)


async def check_unknown(world: RuntimeWorld) -> None:
    """State and delete raise NotFound for an unknown container."""
    assert await world.is_gone("exam-nobody")
    try:
        await patiently(world.runtime.delete("exam-nobody"))
    except NotFound:
        return
    raise AssertionError("delete of an unknown container must raise NotFound")


async def check_pipes(world: RuntimeWorld) -> None:
    """create: the named pipes of Stdio become the process's own streams."""
    await _check_pipes(world, monitored_by_parent=False)


async def check_pipes_without_a_monitor(world: RuntimeWorld) -> None:
    """create: also for a caller that runs as long as the container does."""
    await _check_pipes(world, monitored_by_parent=True)


async def _check_pipes(world: RuntimeWorld, *, monitored_by_parent: bool) -> None:
    paths = {name: str(world.folder / name) for name in ("stdin", "stdout", "stderr")}
    for path in paths.values():
        os.mkfifo(path)
    script = ("sh", "-c", "read line; echo got $line; echo complained >&2")
    reading = {name: asyncio.ensure_future(_read(paths[name])) for name in ("stdout", "stderr")}
    stdio = Stdio(stdin=paths["stdin"], stdout=paths["stdout"], stderr=paths["stderr"], monitored_by_parent=monitored_by_parent)
    name = await world.create(script, stdio)
    descriptor = os.open(paths["stdin"], os.O_RDWR)
    await patiently(world.runtime.start(name))
    os.write(descriptor, b"it\n")
    await patiently(world.runtime.wait(name))
    os.close(descriptor)
    assert (b"got it\n", b"complained\n") == (await patiently(reading["stdout"]), await patiently(reading["stderr"]))


async def check_log(world: RuntimeWorld) -> None:
    """create: with a log path the output is written there, in CRI's format."""
    log = world.folder / "log"
    name = await world.create(world.programs.prints("said"), Stdio(log_path=str(log)))
    await patiently(world.runtime.start(name))
    await patiently(world.runtime.wait(name))
    await until(log.exists)
    assert ["stdout F said"] == [line.split(" ", 1)[1] for line in log.read_text(encoding="utf-8").splitlines()]


async def check_exec_process(world: RuntimeWorld) -> None:
    """exec_process: output is written to `io` before the return, the exit is the process's, and `started` is called with its
    pid.
    """
    runtime, name, process = await _for_exec(world, world.programs.prints("said"))
    out, pids = Sink(), list[int]()
    end = await patiently(runtime.exec_process(name, process, ProcessIO(stdout=out), pids.append))
    assert (0, b"said\n", 1) == (end.code, out.data, len(pids))
    assert pids[0] > 0
    failing = {**process, "args": list(world.programs.fails(42))}
    assert 42 == (await patiently(runtime.exec_process(name, failing, ProcessIO(), pids.append))).code


async def check_exec_process_of_nothing(world: RuntimeWorld) -> None:
    """exec_process: a program that cannot be run is `InvalidArgument`, or exits with 126 or 127; the container
    keeps running.
    """
    runtime, name, process = await _for_exec(world, world.programs.missing())
    with contextlib.suppress(InvalidArgument):
        assert (await patiently(runtime.exec_process(name, process, ProcessIO(), lambda _: None))).code in {126, 127}
    assert OciStatus.RUNNING is (await world.runtime.state(name)).status


async def check_exec_process_is_killed_when_cancelled(world: RuntimeWorld) -> None:
    """exec_process, cancelled: its process has ended when the cancellation is passed on; the container keeps running."""
    runtime, name, process = await _for_exec(world, world.programs.sleeps())
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(runtime.exec_process(name, process, ProcessIO(), started.set_result))
    process_of_exec = processes.read(await patiently(started))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await patiently(running)
    assert running.cancelled()
    assert process_of_exec is None or _has_ended(process_of_exec.identity)
    assert OciStatus.RUNNING is (await world.runtime.state(name)).status


async def _for_exec(world: RuntimeWorld, argv: tuple[str, ...]) -> tuple[SupportsExecProcess, str, dict[str, Any]]:
    """The runtime, a running container, and the process of its bundle with another command."""
    assert isinstance(world.runtime, SupportsExecProcess)
    name = await world.create(world.programs.sleeps())
    await patiently(world.runtime.start(name))
    return world.runtime, name, process_of(read_config(world.folder / name), argv, terminal=False)


async def check_update_resources(world: RuntimeWorld) -> None:
    """update_resources: `linux.resources` of a running container change; an unknown container is `NotFound`."""
    assert isinstance(world.runtime, SupportsUpdateResources)
    resources = {"cpu": {"shares": 512}}
    name = await world.create(world.programs.sleeps())
    await patiently(world.runtime.start(name))
    await patiently(world.runtime.update_resources(name, resources))
    try:
        await patiently(world.runtime.update_resources("exam-nobody", resources))
    except NotFound:
        return
    raise AssertionError("an update of an unknown container must raise NotFound")


RUNTIME_NEEDS: Final[Mapping[str, type]] = {
    "exec_process": SupportsExecProcess,
    "exec_process_of_nothing": SupportsExecProcess,
    "exec_process_is_killed_when_cancelled": SupportsExecProcess,
    "update_resources": SupportsUpdateResources,
}
"""The protocol that a check needs; it is not run for a runtime without it."""


async def _read(path: str) -> bytes:
    """The data of a pipe, to its end."""
    return await asyncio.to_thread(Path(path).read_bytes)


Check = Callable[[RuntimeWorld], Awaitable[None]]

RUNTIME_CHECKS: Final[Mapping[str, Check]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
"""All checks by name."""


class OciRuntimeConformance:
    """Inherit, and implement the construction of a runtime and of a bundle. `leaves_out` names checks of what the runtime does
    not support.
    """

    programs: ClassVar[Programs] = Programs()
    leaves_out: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    async def make_runtime(self, folder: Path) -> OciRuntime:
        """A new runtime with its state below `folder`."""

    @abstractmethod
    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        """Write a bundle: config.json for this command, and its root file system."""

    @contextlib.asynccontextmanager
    async def world(self) -> AsyncIterator[RuntimeWorld]:
        """An empty runtime, which must be empty at the end."""
        folder = Path(tempfile.mkdtemp(prefix="exam"))

        async def make() -> OciRuntime:
            return await self.make_runtime(folder / "state")

        world = RuntimeWorld(make, await make(), folder, self.write_bundle, self.programs)
        try:
            yield world
        finally:
            for name in world.created:
                with contextlib.suppress(CrishimError):
                    await patiently(world.runtime.delete(name))
            shutil.rmtree(folder, ignore_errors=True)

    @pytest.mark.parametrize("check", list(RUNTIME_CHECKS))
    def test_contract(self, check: str) -> None:
        """The runtime fulfils one sentence of `OciRuntime`'s contract."""
        assert self.leaves_out <= RUNTIME_CHECKS.keys()
        asyncio.run(self._examine(check))

    async def _examine(self, check: str) -> None:
        if check not in self.leaves_out:
            needed = RUNTIME_NEEDS.get(check)
            async with self.world() as world, asyncio.timeout(_CHECK_TIMEOUT):
                if needed is None or needed in capabilities(world.runtime, RUNTIME_CAPABILITIES):
                    await RUNTIME_CHECKS[check](world)
