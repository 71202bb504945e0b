"""A node whose containers' monitor is the keeper: the server is killed, the keeper is killed, both are upgraded, under load."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import crishim
from crishim.cri import pb
from crishim.keeper.client import KeeperClient
from crishim.linux import processes
from crishim.logs.lines import parse
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.play import CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS), real_plugins()]

SOURCE = Path(crishim.__file__).parents[1]
COUNTING = "trap 'exit 9' TERM; n=0; while :; do n=$((n+1)); echo $n; [ $((n % 100)) != 0 ] || sleep 0.01; done"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture
def node(image: str) -> Iterator[Node]:
    with one_node(image, monitor="keeper") as node:
        yield node


async def counts(node: Node, client: CriClient, name: str) -> str:
    """A container that writes hundreds of numbers at once, in a pod of its own, and has begun: it ends with 9 when stopped."""
    sandbox = node.sandbox(name)
    pod = await client.run_sandbox(sandbox)
    config = container_config(
        "",
        metadata=ContainerMetadata("counts"),
        image=ImageSpec(image=node.image),
        command=("sh", "-c", COUNTING),
        log_path="counts.log",
    )
    container = await client.create_container(pod, config, sandbox)
    await client.start_container(container)
    await until(lambda: numbers(node, name) != [])
    return container


def numbers(node: Node, name: str) -> list[int]:
    """What has been counted, as the log has it."""
    log = node.place / "logs" / name / "counts.log"
    whole = log.read_bytes().rpartition(b"\n")[0] if log.exists() else b""
    return [int(parse(line).content) for line in whole.split(b"\n") if line]


async def grown(node: Node, name: str) -> None:
    """Return when more was counted than at the call."""
    before = len(numbers(node, name))
    await until(lambda: len(numbers(node, name)) > before)


async def test_the_server_is_killed_under_load(node: Node) -> None:
    """Logs go on without the server, and no line of them is lost or doubled; the next server has the containers, an older pod
    beside a newer one, and their exits.
    """
    node.start()
    async with node.client() as client:
        await node.pull(client)
        older = await counts(node, client, "older")
    for _ in range(3):
        node.kill()
        await grown(node, "older")
        node.start()
        async with node.client() as client:
            await grown(node, "older")
    async with node.client() as client:
        newer = await counts(node, client, "newer")
        for container in (older, newer):
            await client.stop_container(container, 30)
            assert (pb.CONTAINER_EXITED, 9) == ((end := await client.container_status(container)).state, end.exit_code)
        for name in ("older", "newer"):
            seen = numbers(node, name)
            assert list(range(1, len(seen) + 1)) == seen
        await node.empty(client)
    assert set() == node.traces()


async def test_an_upgrade_under_load(node: Node, tmp_path: Path) -> None:
    """The next version's server has the keeper of the older one execute its own code: no line is lost or doubled, and the
    keeper is the same process.
    """
    shutil.copytree(SOURCE / "crishim", tmp_path / "crishim")
    with (tmp_path / "crishim" / "keeper" / "daemon.py").open("a") as file:
        file.write("# of an older version\n")
    keeper = KeeperClient(node.run / "keeper")
    node.source = tmp_path
    node.start()
    async with node.client() as client:
        await node.pull(client)
        older = await counts(node, client, "older")
    pid = await keeper.identify()
    command = Path(f"/proc/{pid}/cmdline")
    await until(lambda: str(tmp_path) in command.read_text())
    node.kill(signal.SIGTERM)
    node.source = None
    node.start()
    async with node.client() as client:
        await until(lambda: str(SOURCE) in command.read_text())
        await grown(node, "older")
        assert pid == await keeper.identify()
        await client.stop_container(older, 30)
        assert 9 == (await client.container_status(older)).exit_code
        seen = numbers(node, "older")
        assert list(range(1, len(seen) + 1)) == seen
        await node.empty(client)
    assert set() == node.traces()


@pytest.mark.parametrize("server", ["runs", "was killed before"])
async def test_the_keeper_is_killed(node: Node, server: str) -> None:
    """A container that writes ends by its broken pipe, one that does not goes on; what ended before is known; the server
    answers, makes new pods with a new keeper, and everything can be removed.
    """
    node.start()
    keeper = KeeperClient(node.run / "keeper")
    async with node.client() as client:
        await node.pull(client)
        writes = await counts(node, client, "writes")
        _, ended, silent = await node.make_pod(client, "pod")
        await client.stop_container(ended, 0)
        assert 137 == (await client.container_status(ended)).exit_code
    if server != "runs":
        node.kill()
    process = processes.read(await keeper.identify() or 0)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await processes.ended(process.identity)
    if server != "runs":
        node.start()
    async with node.client() as client:
        states: dict[str, int] = {}
        while pb.CONTAINER_EXITED != states.get(writes):
            await asyncio.sleep(0.01)
            states = {container.id: container.state for container in await client.list_containers({})}
        assert {writes: pb.CONTAINER_EXITED, ended: pb.CONTAINER_EXITED, silent: pb.CONTAINER_RUNNING} == states
        assert 137 == (await client.container_status(ended)).exit_code
        newer = await counts(node, client, "newer")
        await client.stop_container(newer, 30)
        assert 9 == (await client.container_status(newer)).exit_code
        await client.stop_container(silent, 0)
        await node.empty(client)
    assert set() == node.traces()
