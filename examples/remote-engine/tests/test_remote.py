"""The exam on a real engine process, and what is specific to remote engines: addresses, outages, restarts."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from remote_backend import RemoteBackend
from tiny_engine import Engine

from crishim import Backend, BackendContext, Services
from crishim.cri import Dispatcher, pb
from crishim.model.values import FrozenDict
from crishim.store.sqlite import SqliteStore
from crishim.system import SystemClock
from crishim.testing.conformance import BackendConformance

FOLDER = Path(__file__).parents[1]
ENV = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    """An engine in a process of its own."""
    command = [sys.executable, "-m", "tiny_engine", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER) as engine:
        assert engine.stdout is not None
        url = engine.stdout.readline().split()[-1]
        TestRemote.options["url"] = url
        yield url
        engine.terminate()


@pytest.mark.usefixtures("engine_url")
class TestRemote(BackendConformance):
    options: ClassVar[dict[str, Any]] = {}

    async def make_backend(self, context: BackendContext) -> Backend:
        return RemoteBackend(context)


def test_a_pod_is_played(engine_url: str, tmp_path: Path) -> None:
    """`crishim play` shows the engine's address, the task's output, and a probe that runs in the engine."""
    config = tmp_path / "crishim.toml"
    config.write_text(f"[backends.remote]\nurl = {json.dumps(engine_url)}\n")
    command = [
        sys.executable,
        "-m",
        "crishim",
        "play",
        str(FOLDER / "pod.yaml"),
        "--backend",
        "remote",
        "--config",
        str(config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("10.99.0.", "main | hello from the engine", "main | bye", "ready"):
        assert words in done.stdout


@asynccontextmanager
async def runtime(engine: Engine, folder: Path) -> AsyncIterator[Dispatcher]:
    """A crishim over the engine, with records and state in `folder`; tasks outlive it."""
    (folder / "state").mkdir(exist_ok=True)
    context = BackendContext(
        state=folder / "state",
        runtime_state=folder / "state",
        options=FrozenDict({"url": f"http://127.0.0.1:{engine.port}"}),
        clock=SystemClock(),
    )
    backend, store = RemoteBackend(context), SqliteStore(folder / "records.sqlite")
    try:
        async with Services(backends={"": backend}, store=store) as services:
            yield Dispatcher(services)
    finally:
        await backend.close()
        await store.close()


async def started(dispatch: Dispatcher, folder: Path, script: str) -> tuple[str, str]:
    """A pod and its one container, running."""
    metadata = pb.PodSandboxMetadata(name="pod", namespace="default", uid="uid")
    pod = pb.PodSandboxConfig(metadata=metadata, log_directory=str(folder / "logs"))
    sandbox_id = (await dispatch(pb.RunPodSandboxRequest(config=pod))).pod_sandbox_id
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="main"),
        image=pb.ImageSpec(image="any"),
        command=["sh", "-c", script],
        log_path="main.log",
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=pod)
    container_id = (await dispatch(request)).container_id
    await dispatch(pb.StartContainerRequest(container_id=container_id))
    return sandbox_id, container_id


async def until(dispatch: Dispatcher, container_id: str, true: Callable[[Any], bool]) -> Any:
    """The container's status once the condition holds; polled a few times a second, for a minute."""
    for _ in range(600):
        status = (await dispatch(pb.ContainerStatusRequest(container_id=container_id))).status
        if true(status):
            return status
        await asyncio.sleep(0.1)
    raise AssertionError(status)


def lines(folder: Path) -> list[str]:
    log = folder / "logs" / "main.log"
    return [line.split(" ", 3)[3] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.listen()
    yield engine
    await engine.close()


async def test_addresses_are_the_engines(engine: Engine, tmp_path: Path) -> None:
    """PodSandboxStatus has the address that the engine gave its machine."""
    async with runtime(engine, tmp_path) as dispatch:
        sandbox_id, _ = await started(dispatch, tmp_path, "exec sleep 100")
        status = (await dispatch(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id))).status
    assert status.network.ip.startswith("10.99.0.")


async def test_an_engine_that_was_away_is_found_again(engine: Engine, tmp_path: Path) -> None:
    """While the engine is unavailable a container is UNKNOWN; afterwards its exit is reported and its log is complete, each
    line once.
    """
    go = tmp_path / "go"
    async with runtime(engine, tmp_path) as dispatch:
        _, container_id = await started(
            dispatch, tmp_path, f"echo one; until [ -e {go} ]; do sleep 0.05; done; echo two; exit 3"
        )
        await engine.stop_listening()
        await until(dispatch, container_id, lambda status: status.state == pb.CONTAINER_UNKNOWN)
        go.touch()
        await engine.listen()
        status = await until(dispatch, container_id, lambda status: status.state == pb.CONTAINER_EXITED)
    assert (status.exit_code, lines(tmp_path)) == (3, ["one", "two"])


async def test_a_restart_of_crishim_loses_nothing(engine: Engine, tmp_path: Path) -> None:
    """A container runs on without crishim; the next one finds it by its label and continues its log."""
    go = tmp_path / "go"
    async with runtime(engine, tmp_path) as dispatch:
        _, container_id = await started(
            dispatch, tmp_path, f"echo one; until [ -e {go} ]; do sleep 0.05; done; echo two; exit 4"
        )
    async with runtime(engine, tmp_path) as dispatch:
        await until(dispatch, container_id, lambda status: status.state == pb.CONTAINER_RUNNING)
        go.touch()
        status = await until(dispatch, container_id, lambda status: status.state == pb.CONTAINER_EXITED)
    assert (status.exit_code, lines(tmp_path)) == (4, ["one", "two"])
