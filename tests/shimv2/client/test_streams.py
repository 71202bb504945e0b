"""The streams of shims' tasks in the node's keeper: nothing that a container writes depends on this process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from crishim.errors import Unavailable
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import ProcessIO
from crishim.keeper.client import KeeperClient
from crishim.linux import processes
from crishim.pods.namespaces import PinnedNamespaces
from crishim.pods.usage import MeasuredPods
from crishim.testing.conformance.candidate import until
from crishim.testing.conformance.logs import read_log
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.runc.world import needs
from tests.shimv2.conftest import tidied
from tests.shimv2.world import ShimWorld, kata, runc_shim

pytestmark = [pytest.mark.node, needs("busybox", "unshare", "catatonit")]

SHIMS = [
    pytest.param("kata", id="kata"),
    pytest.param("runc", id="runc", marks=needs("runc", "containerd-shim-runc-v2")),
]


@pytest.fixture
def keeper(tmp_path: Path) -> KeeperClient:
    return KeeperClient(tmp_path / "keeper")


@pytest.fixture
async def tasks(
    tmp_path: Path, pins: PinnedNamespaces, keeper: KeeperClient, request: pytest.FixtureRequest
) -> AsyncIterator[ShimWorld]:
    """Pods over a shim, with a keeper that has nothing at the end."""
    build: Callable[[BackendContext], MeasuredPods] = kata(tmp_path) if request.param == "kata" else runc_shim
    world = ShimWorld(tmp_path, pins, build, keeper)
    async with tidied(world):
        yield world
    assert {} == await keeper.containers()


LONG = "0123456789" * 4


def waits(name: str) -> str:
    return f"while [ ! -e /{name} ]; do sleep 0.02; done"


@pytest.mark.parametrize("tasks", SHIMS, indirect=True)
async def test_output_of_a_task_that_ends_during_our_absence(tasks: ShimWorld) -> None:
    """All of it is in the log though nobody was there to read it: more than a pipe holds, and the exit is known."""
    pod = await tasks.sandbox()
    script = f"echo before; {waits('go')}; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo {LONG}$i; done; exit 7"
    spec = await tasks.run(pod, ("sh", "-c", script))
    await until(lambda: ("stdout", "before") in read_log(spec))
    await tasks.close()
    (tasks.folder / "roots" / spec.id / "go").touch()
    await until(lambda: 3001 == len(read_log(spec)))
    await tasks.restart()
    assert 7 == (await tasks.wait(spec.id)).code
    assert [("stdout", f"{LONG}{i}") for i in range(1, 3001)] == read_log(spec)[1:]


@pytest.mark.parametrize("tasks", SHIMS, indirect=True)
async def test_a_task_that_is_created_before_a_restart(tasks: ShimWorld) -> None:
    """Its output has no end before its shim has opened the pipes, though we went away between its creation and its start."""
    pod = await tasks.sandbox()
    spec = await tasks.create(pod, ("sh", "-c", "echo started; exit 5"))
    await tasks.restart()
    await tasks.backend.start_container(spec.id)
    assert (5, [("stdout", "started")]) == ((await tasks.wait(spec.id)).code, read_log(spec))


@pytest.mark.parametrize("tasks", SHIMS, indirect=True)
async def test_input_to_its_end(tasks: ShimWorld) -> None:
    """All input arrives before its end does, and the end arrives: the shim closes the container's stdin then."""
    pod = await tasks.sandbox()
    spec = await tasks.create(pod, ("sh", "-c", "cat > /input; exit 6"), stdin=True, stdin_once=True)
    stdin = Source()
    stdin.feed(bytes(1_000_000))
    stdin.feed(b"rest\n")
    stdin.end()
    attached = asyncio.ensure_future(tasks.runtime.attach(spec.id, ProcessIO(stdin=stdin, stdout=Sink())))
    await tasks.backend.start_container(spec.id)
    assert 6 == (await tasks.wait(spec.id)).code
    await attached
    assert bytes(1_000_000) + b"rest\n" == (tasks.folder / "roots" / spec.id / "input").read_bytes()


@pytest.mark.parametrize("tasks", SHIMS, indirect=True)
async def test_the_keeper_is_killed(tasks: ShimWorld, keeper: KeeperClient) -> None:
    """The exit is known all the same, since the shim has it; the log cannot be opened anew, which is said."""
    pod = await tasks.sandbox()
    spec = await tasks.run(pod, ("sh", "-c", f"{waits('go')}; exit 4"))
    process = processes.read(await keeper.identify() or 0)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await processes.ended(process.identity)
    with pytest.raises(Unavailable):
        await tasks.runtime.reopen_log(spec.id)
    (tasks.folder / "roots" / spec.id / "go").touch()
    assert 4 == (await tasks.wait(spec.id)).code
