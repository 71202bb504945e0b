"""Containers that the keeper runs."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from crishim.backends.process import ProcessBackend, build
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.capabilities import ProcessIO
from crishim.keeper.client import KeeperClient
from crishim.model.container import ContainerMetadata, ContainerSpec, ContainerState
from crishim.model.process import ExecSpec, Exit
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.testing.conformance import BackendConformance
from crishim.testing.conformance.offers import Sink
from tests.backends.process.world import alive, context, until

POD, WEB = SandboxId("pod"), ContainerId("web")

_EARLIER = """
import asyncio, sys
from pathlib import Path
from crishim.backends.process import build
from tests.backends.process.test_kept import POD, WEB, kept, script, started

async def main():
    backend = build(kept(Path(sys.argv[1])))
    await started(backend, Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class TestContract(BackendConformance):
    """The whole exam; after a restart exits are known."""

    options: ClassVar[dict[str, Any]] = {"monitor": "keeper"}

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)


def kept(folder: Path) -> BackendContext:
    return attrs.evolve(context(folder, monitor="keeper"), keeper=KeeperClient(folder / "keeper"))


def script(folder: Path, text: str) -> ContainerSpec:
    sandbox = SandboxSpec(id=POD, config=PodSandboxConfig(metadata=PodSandboxMetadata("pod", "default", "uid")))
    return ContainerSpec(
        id=WEB,
        sandbox=sandbox,
        metadata=ContainerMetadata("web"),
        image_id=ImageId("i"),
        argv=("sh", "-c", text),
        cwd=str(folder),
        env={"PATH": "/usr/bin:/bin"},
        log_path=str(folder / "log"),
    )


async def started(backend: Backend, folder: Path, text: str) -> None:
    spec = script(folder, text)
    await backend.start_sandbox(spec.sandbox)
    await backend.create_container(spec)
    await backend.start_container(WEB)


def logged(folder: Path) -> bytes:
    return b"".join(line.split(b" ", 3)[3] for line in (folder / "log").read_bytes().splitlines(keepends=True))


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    """The later one; nothing of the container is left."""
    later = build(kept(tmp_path))
    assert isinstance(later, ProcessBackend)
    yield later
    for container in (await later.inventory()).containers:
        await later.remove_container(container.id)
    assert {} == await KeeperClient(tmp_path / "keeper").containers()
    await later.close()


async def crashed(folder: Path, text: str) -> None:
    """A crishim that ran the container was killed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", _EARLIER, str(folder), text], env=env, stdout=subprocess.PIPE) as earlier:  # noqa: ASYNC220
        assert earlier.stdout is not None
        assert b"ready\n" == await asyncio.to_thread(earlier.stdout.readline)
        earlier.send_signal(signal.SIGKILL)


async def test_output_and_exit_survive_a_crash(tmp_path: Path, backend: ProcessBackend) -> None:
    """What the container writes while no server runs is in its log, and its exit status is known to the next one."""
    await crashed(tmp_path, "echo before; while ! [ -e go ]; do sleep 0.01; done; echo after; exit 7")
    (tmp_path / "go").touch()
    await until(lambda: b"after" in logged(tmp_path))
    (container,) = (await backend.inventory()).containers
    end = await backend.wait_container(WEB)
    assert (7, b"before\nafter\n") == (end.code, logged(tmp_path))
    assert (container.started_at, True) == (end.started_at, container.state in {ContainerState.RUNNING, ContainerState.EXITED})


async def test_a_running_container_is_as_before(tmp_path: Path, backend: ProcessBackend) -> None:
    """A later crishim attaches, executes, reopens the log and kills; a background process ends with the container."""
    await crashed(tmp_path, "sleep 1000 & echo $! > child; while :; do echo tick; sleep 0.01; done")
    await until((tmp_path / "child").exists)
    (container,) = (await backend.inventory()).containers
    out, ran = Sink(), Sink()
    attached = asyncio.ensure_future(backend.attach(WEB, ProcessIO(stdout=out)))
    await until(lambda: b"tick" in out.data)
    assert Exit(code=0) == await backend.exec(WEB, ExecSpec(argv=("sh", "-c", "pwd")), ProcessIO(stdout=ran))
    (tmp_path / "log").rename(tmp_path / "log.1")
    await backend.reopen_log(WEB)
    await until(lambda: b"tick" in logged(tmp_path))
    await backend.kill_container(WEB, signal.SIGKILL)
    end = await backend.wait_container(WEB)
    await attached
    assert (ContainerState.RUNNING, f"{tmp_path}\n".encode(), 137) == (container.state, ran.data, end.code)
    child = int((tmp_path / "child").read_text())
    await until(lambda: not alive(child))


async def test_a_server_that_stops_leaves_its_containers(tmp_path: Path, backend: ProcessBackend) -> None:
    """`close` ends execs and no container."""
    earlier = build(kept(tmp_path))
    assert isinstance(earlier, ProcessBackend)
    await started(earlier, tmp_path, "while ! [ -e go ]; do sleep 0.01; done; exit 3")
    executing = asyncio.ensure_future(
        earlier.exec(WEB, ExecSpec(argv=("sh", "-c", "echo $$ > pid; exec sleep 1000")), ProcessIO())
    )
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    await earlier.close()
    await asyncio.wait({executing})
    assert not alive(int((tmp_path / "pid").read_text()))
    (container,) = (await backend.inventory()).containers
    assert ContainerState.RUNNING is container.state
    (tmp_path / "go").touch()
    assert 3 == (await backend.wait_container(WEB)).code


async def test_a_keeper_that_was_killed(tmp_path: Path, backend: ProcessBackend) -> None:
    """A container whose keeper has died has an unknown exit status, and its processes are killed."""
    await crashed(tmp_path, "echo $$ > pid; sleep 1000")
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    keeper = await KeeperClient(tmp_path / "keeper").identify()
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: not alive(keeper))
    (container,) = (await backend.inventory()).containers
    assert (ContainerState.EXITED, Exit.unknown()) == (container.state, container.exit)
    await until(lambda: not alive(int((tmp_path / "pid").read_text())))


async def test_a_keeper_that_does_not_answer(tmp_path: Path, backend: ProcessBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container runs on while its keeper does not answer, and its exit status is known when the keeper does."""
    await crashed(tmp_path, "while ! [ -e go ]; do sleep 0.01; done; exit 7")
    keeper = await KeeperClient(tmp_path / "keeper").identify()
    assert keeper is not None
    with monkeypatch.context() as patch:
        patch.setattr("crishim.keeper.client._WITHIN", 0.2)
        os.kill(keeper, signal.SIGSTOP)
        try:
            (container,) = (await backend.inventory()).containers
        finally:
            os.kill(keeper, signal.SIGCONT)
    (tmp_path / "go").touch()
    assert (ContainerState.RUNNING, 7) == (container.state, (await backend.wait_container(WEB)).code)


async def test_a_pid_of_another_process(tmp_path: Path, backend: ProcessBackend) -> None:
    """A container that has exited before its process was recorded is over, whoever has its pid now."""
    await crashed(tmp_path, "exit 7")
    await KeeperClient(tmp_path / "keeper").wait(WEB)
    file = tmp_path / "run" / "containers" / f"{WEB}.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "leaders": [], "exit": None}))
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:  # noqa: ASYNC220 - it is killed at once

        class Reused(KeeperClient):
            """The keeper of a container whose pid another process has now."""

            async def containers(self) -> Mapping[str, int]:
                return dict.fromkeys(await super().containers(), other.pid)

        later = build(attrs.evolve(kept(tmp_path), keeper=Reused(tmp_path / "keeper")))
        try:
            await later.inventory()
            end = await asyncio.wait_for(later.wait_container(WEB), 30)
            assert (7, None) == (end.code, other.poll())
        finally:
            other.kill()


def test_the_option(tmp_path: Path) -> None:
    """The only monitor is the keeper, where the program has one."""
    for options in (context(tmp_path, monitor="conmon"), context(tmp_path, monitor="keeper")):
        with pytest.raises(InvalidArgument) as caught:
            build(options)
        assert "options.monitor" == caught.value.field
