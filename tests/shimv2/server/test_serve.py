"""The running `crishim serve` as the daemon of the shim: pods of the kubelet and tasks of containerd in one process."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, processes, real_plugins
from tests.shimv2.containerd import PROGRAMS, Containerd, containerd

pytestmark = [pytest.mark.node, needs(*TOOLS, *PROGRAMS), real_plugins()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with images(tmp_path) as image, one_node(image, number=79) as started:
        yield started


@pytest.fixture
def client_of_shims() -> Iterator[Containerd]:
    with containerd() as started:
        yield started


def serve_shims(node: Node, state: Path) -> None:
    with (node.place / "crishim.toml").open("a") as config:
        config.write(f'[shim]\nserve = true\nfolder = "{state}"\n')
    node.start()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/root").exists()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_pod_and_a_task_in_one_process(node: Node, client_of_shims: Containerd) -> None:
    """A task is the server's own child, beside a pod; when the server stops, the pod goes on, and the task has ended."""
    serve_shims(node, client_of_shims.state)
    assert node._server is not None
    async with node.client() as client:
        await node.pull(client)
        pod = await node.make_pod(client, "pod")
        done = client_of_shims.run("first", "sh", "-c", "echo out; exit 3", options=("--rm",))
        assert (3, b"out\n") == (done.returncode, done.stdout)
        assert 0 == client_of_shims.run("second", "sleep", "600", options=("-d",)).returncode
        (pid,) = (pid for pid, _ in client_of_shims.tasks().values())
        assert node._server.pid == parent(pid)
        assert [] == [line for _, line in processes(str(client_of_shims.state)) if "crishim.backends.runc.shim" in line]
    # the task's shim is gone for containerd, which asks for its end: the launcher starts a daemon for that
    node.kill(signal.SIGTERM)
    async with asyncio.timeout(30):
        while alive(pid) or "second" in client_of_shims.tasks():  # noqa: ASYNC110 - the state of another program
            await asyncio.sleep(0.1)
    node.start()
    async with node.client() as client:
        assert pod[0] in {sandbox.id for sandbox in await client.list_sandboxes({})}
        assert 3 == (await client.exec_sync(pod[1], ("sh", "-c", "exit 3"), 10)).exit_code
        assert "containerd's tasks are not served here" in (node.place / "log").read_text()
        await node.empty(client)
    assert 0 == client_of_shims.run("third", "true", options=("--rm",)).returncode
