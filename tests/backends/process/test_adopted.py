# ruff: noqa: ASYNC220 - nothing else runs on these loops, so a short blocking read delays nothing
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crishim.backends.process import ProcessBackend
from crishim.backends.process.state import StateFolder, StoredContainer, StoredSandbox
from crishim.errors import FailedPrecondition
from crishim.interfaces.capabilities import ProcessIO
from crishim.linux.processes import Identity, read
from crishim.model.container import ContainerState
from crishim.model.process import ExecSpec, Exit
from crishim.model.stats import ContainerUsage
from crishim.model.values import ContainerId, SandboxId
from tests.backends.process.world import alive, context, descriptors, until

POD, WEB, JOB, NEW = SandboxId("pod"), ContainerId("web"), ContainerId("job"), ContainerId("new")

_EARLIER = """
import asyncio, sys
from pathlib import Path
from crishim.backends.process import ProcessBackend
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.container import ContainerMetadata, ContainerSpec
from crishim.model.process import ExecSpec
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from tests.backends.process.world import context

async def main():
    folder = Path(sys.argv[1])
    backend = ProcessBackend(context(folder))
    sandbox = SandboxSpec(id="pod", config=PodSandboxConfig(metadata=PodSandboxMetadata("pod", "default", "uid")))
    await backend.start_sandbox(sandbox)
    for name, script in (
        ("web", "echo $$ >> pids; sleep 1000 & echo $! >> pids; wait"),
        ("job", "exit 9"),
        ("new", "true"),
    ):
        spec = ContainerSpec(
            id=name, sandbox=sandbox, metadata=ContainerMetadata(name), image_id="i", argv=("sh", "-c", script),
            cwd=str(folder), env={"PATH": "/usr/bin:/bin"},
        )
        await backend.create_container(spec)
        if name != "new":
            await backend.start_container(name)
    await backend.wait_container("job")
    await backend.exec("web", ExecSpec(argv=("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! >> pids")), ProcessIO())
    script = "echo $$ >> pids; echo whole >> pids; exec sleep 1000"
    await backend.exec("web", ExecSpec(argv=("sh", "-c", script)), ProcessIO())

asyncio.run(main())
"""


@contextlib.contextmanager
def crashed(folder: Path) -> Iterator[list[int]]:
    """What is left of a crishim that was killed while it ran containers: the pids of their processes."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pids = folder / "pids"
    with subprocess.Popen([sys.executable, "-c", _EARLIER, str(folder)], env=env) as earlier:
        web = folder / "run" / "containers" / "web.json"
        while not (pids.exists() and "whole" in pids.read_text() and web.read_text().count('"pid"') == 3):
            assert earlier.poll() is None
        earlier.send_signal(signal.SIGKILL)
    left = [int(line) for line in pids.read_text().split() if line != "whole"]
    assert len(left) == 4
    try:
        yield left
    finally:
        for pid in filter(alive, left):
            os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def later(folder: Path) -> AsyncIterator[ProcessBackend]:
    """A crishim that comes after it."""
    before = descriptors()
    backend = ProcessBackend(context(folder))
    try:
        await backend.probe()
        yield backend
    finally:
        await backend.close()
    assert before == descriptors()


async def states(backend: ProcessBackend) -> dict[str, tuple[ContainerState, int | None]]:
    """Each container's state and exit code."""
    return {
        observed.id: (observed.state, observed.exit.code if observed.exit else None)
        for observed in (await backend.inventory()).containers
    }


async def tidy(backend: ProcessBackend, folder: Path) -> None:
    """Remove everything; no file is left."""
    for observed in (await backend.inventory()).containers:
        await backend.remove_container(observed.id)
    for sandbox in (await backend.inventory()).sandboxes:
        await backend.stop_sandbox(sandbox.id)
        await backend.remove_sandbox(sandbox.id)
    inventory = await backend.inventory()
    assert ((), ()) == (inventory.sandboxes, inventory.containers)
    assert [] == [file for file in (folder / "run").rglob("*") if file.is_file()]


async def test_what_a_crash_left_is_found_and_killed(tmp_path: Path) -> None:
    """After a crash running containers are listed and can be killed, with their execs; the exit is unknown unless recorded."""
    with crashed(tmp_path) as left:
        async with later(tmp_path) as backend:
            assert {WEB: (ContainerState.RUNNING, None), JOB: (ContainerState.EXITED, 9)} == await states(backend)
            (sandbox,) = (await backend.inventory()).sandboxes
            assert (POD, True) == (sandbox.id, sandbox.ready)
            assert all(map(alive, left))
            usage = await backend.container_usage(WEB)
            assert usage.process is not None
            assert usage.process.process_count == 4
            waits = [asyncio.create_task(backend.wait_container(WEB)) for _ in range(2)]
            await backend.kill_container(WEB, signal.SIGKILL)
            assert [Exit.unknown()] * 2 == await asyncio.gather(*waits)
            await until(lambda: not any(map(alive, left)))
            assert {WEB: (ContainerState.EXITED, 255), JOB: (ContainerState.EXITED, 9)} == await states(backend)
            assert 9 == (await backend.wait_container(JOB)).code
            await tidy(backend, tmp_path)


async def test_a_survivor_ends_by_itself(tmp_path: Path) -> None:
    """The end of a survivor's first process is noticed, and is the end of all of it."""
    with crashed(tmp_path) as left:
        async with later(tmp_path) as backend:
            wait = asyncio.create_task(backend.wait_container(WEB))
            await backend.kill_container(WEB, signal.SIGTERM)
            assert Exit.unknown() == await wait
            await until(lambda: not any(map(alive, left)))
            await tidy(backend, tmp_path)


async def test_what_ended_meanwhile_is_over(tmp_path: Path) -> None:
    """A container whose first process ended while no server ran has an unknown exit, and its other processes are killed."""
    with crashed(tmp_path) as left:
        os.kill(left[0], signal.SIGKILL)
        await until(lambda: not alive(left[0]))
        async with later(tmp_path) as backend:
            assert (ContainerState.EXITED, 255) == (await states(backend))[WEB]
            await until(lambda: not any(map(alive, left)))
            assert ContainerUsage() == await backend.container_usage(WEB)
        async with later(tmp_path) as backend:
            assert {WEB: (ContainerState.EXITED, 255), JOB: (ContainerState.EXITED, 9)} == await states(backend)
            await tidy(backend, tmp_path)


async def test_a_survivor_has_no_streams(tmp_path: Path) -> None:
    """Calls that need the streams of an earlier server are refused; a removal or our end kills its containers."""
    with crashed(tmp_path) as left:
        async with later(tmp_path) as backend:
            for work in (
                backend.exec(WEB, ExecSpec(argv=("true",)), ProcessIO()),
                backend.attach(WEB, ProcessIO()),
                backend.reopen_log(WEB),
                backend.start_container(WEB),
            ):
                with pytest.raises(FailedPrecondition, match="earlier"):
                    await work
        await until(lambda: not any(map(alive, left)))


async def test_our_end_is_theirs(tmp_path: Path) -> None:
    """What was removed or stopped before our end stays so for a later crishim, whatever ran is over."""
    with crashed(tmp_path):
        async with later(tmp_path) as backend:
            await backend.remove_container(WEB)
            await backend.remove_container(JOB)
            assert {} == await states(backend)
    async with later(tmp_path) as backend:
        (sandbox,) = (await backend.inventory()).sandboxes
        await backend.stop_sandbox(sandbox.id)
    async with later(tmp_path) as backend:
        (sandbox,) = (await backend.inventory()).sandboxes
        assert (POD, False) == (sandbox.id, sandbox.ready)
        await tidy(backend, tmp_path)


async def test_no_other_process_is_touched(tmp_path: Path) -> None:
    """A reused pid, of a process with children, is not taken for the container: not listed, and not killed."""
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
    ) as stranger:
        assert stranger.stdout is not None
        child = int(stranger.stdout.readline())
        process = read(stranger.pid)
        assert process is not None
        earlier = Identity(stranger.pid, process.identity.start - 1)
        stored = StoredContainer(id=WEB, sandbox_id=POD, started_at=1, leaders=(earlier,))
        StateFolder(tmp_path / "run").put(stored)
        async with later(tmp_path) as backend:
            assert {WEB: (ContainerState.EXITED, 255)} == await states(backend)
            await tidy(backend, tmp_path)
        assert (True, True) == (alive(stranger.pid), alive(child))
        os.killpg(stranger.pid, signal.SIGKILL)


async def test_nothing_of_another_boot_is_believed(tmp_path: Path) -> None:
    """Files of another boot are deleted unread."""
    process = read(os.getpid())
    assert process is not None
    keeping = StateFolder(tmp_path / "run")
    keeping.put(StoredContainer(id=WEB, sandbox_id=POD, started_at=1, leaders=(process.identity,)))
    keeping.put(StoredSandbox(id=POD, ready=True))
    for file in (tmp_path / "run").rglob("*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "boot_id": "another"}))
    async with later(tmp_path) as backend:
        await tidy(backend, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"boot_id": 1', "null", '{"boot_id": "BOOT", "id": "x"}'])
async def test_a_broken_file_is_logged_and_left_alone(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid file is named in the log, and affects no other container."""
    keeping = StateFolder(tmp_path / "run")
    keeping.put(StoredSandbox(id=POD, ready=True))
    file = tmp_path / "run" / "containers" / "c.json"
    file.parent.mkdir()
    file.write_text(content.replace("BOOT", keeping._boot_id))
    async with later(tmp_path) as backend:
        assert [POD] == [sandbox.id for sandbox in (await backend.inventory()).sandboxes]
    assert str(file) in caplog.text
    assert file.exists()
