"""Containers that the kernel kills for want of memory, where systemd removes their cgroups at once."""

import asyncio
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.linux.oom import LOG, read_kills
from crishim.model.resources import Resources
from crishim.model.values import FrozenDict
from crishim.play import CriClient
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.guest.world import MIB, Pod, in_guest, kubelets_pod, run_container
from tests.node.world import TOOLS, Node, one_node, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS, "crun"), real_plugins(), in_guest()]

KILLS = 36
BURST = 24
LONG_LINES = 2000
"""Of 900 bytes, in a log of 256 KiB."""
LITTLE = Resources(memory_limit_in_bytes=16 * MIB, memory_swap_limit_in_bytes=16 * MIB)
ALL_TOGETHER = Resources(
    memory_limit_in_bytes=16 * MIB, memory_swap_limit_in_bytes=16 * MIB, unified=FrozenDict({"memory.oom.group": "1"})
)
GREEDY = "dd if=/dev/zero of=/dev/null bs=64M count=1"


async def end_of(client: CriClient, container: str) -> tuple[int, str]:
    """Exit code and reason, once it has ended."""
    status = await client.container_status(container)
    async with asyncio.timeout(60):
        while status.state != pb.CONTAINER_EXITED:
            await asyncio.sleep(0.05)
            status = await client.container_status(container)
    return status.exit_code, status.reason


async def one(client: CriClient, node: Node, sandbox: str, pod: Pod, name: str, *argv: str) -> tuple[int, str]:
    """How a container with little memory ended."""
    return await end_of(client, await run_container(client, node, sandbox, pod, name, *argv, limits=LITTLE))


async def test_every_kill_is_known(node: Node) -> None:
    """Of thirty-six containers, six at a time, all that the kernel has killed are OOMKilled."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "oom1") as pod:
            sandbox = await client.run_sandbox(pod.config)
            ends = []
            for start in range(0, KILLS, 6):
                names = [f"c{number}" for number in range(start, start + 6)]
                ends += await asyncio.gather(*(one(client, node, sandbox, pod, name, *GREEDY.split()) for name in names))
            assert [(137, "OOMKilled")] * KILLS == ends
            await node.empty(client)


async def test_only_the_first_process_counts(node: Node) -> None:
    """A container one of whose children was killed, and that ended otherwise, is not OOMKilled."""
    expected = {"exit 0": (0, "Completed"), "exit 3": (3, "Error"), "kill -TERM $$": (143, "Error")}
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "oom2") as pod:
            sandbox = await client.run_sandbox(pod.config)
            actual = {}
            for number, last in enumerate(expected):
                script = f"trap 'trap - TERM; exit 143' TERM; {GREEDY}; {last}; sleep 1"
                actual[last] = await one(client, node, sandbox, pod, f"c{number}", "sh", "-c", script)
            assert expected == actual
            await node.empty(client)


async def test_a_kill_of_ours_is_none_of_memory(node: Node) -> None:
    """A container whose child was killed for want of memory, and that we kill later, is not OOMKilled."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "oom3") as pod:
            sandbox = await client.run_sandbox(pod.config)
            script = f"{GREEDY}; echo survived; while :; do sleep 1; done"
            container = await run_container(client, node, sandbox, pod, "c", "sh", "-c", script, limits=LITTLE)
            log = Path(pod.config.log_directory, "c.log")
            await until(lambda: b"survived" in log.read_bytes())  # an exec could be the one that the kernel kills
            await client.stop_container(container, 0)
            assert (137, "Error") == await end_of(client, container)
            await node.empty(client)


async def test_a_group_is_killed_together(node: Node) -> None:
    """With memory.oom.group, as the kubelet asks for it, a child's want of memory ends the container, which is OOMKilled."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "oom4") as pod:
            sandbox = await client.run_sandbox(pod.config)
            script = f"{GREEDY} & while :; do sleep 1; done"
            container = await run_container(client, node, sandbox, pod, "c", "sh", "-c", script, limits=ALL_TOGETHER)
            assert (137, "OOMKilled") == await end_of(client, container)
            await node.empty(client)


async def test_while_no_server_runs(node: Node) -> None:
    """A kill that no server has seen is known to the next one."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        with kubelets_pod(node, "oom5") as pod:
            sandbox = await client.run_sandbox(pod.config)
            script = f"while ! [ -e /dev/shm/go ]; do sleep 0.1; done; exec {GREEDY}"
            container = await run_container(client, node, sandbox, pod, "c", "sh", "-c", script, limits=LITTLE)
            later = ("sh", "-c", "(sleep 1; : > /dev/shm/go) > /dev/null 2>&1 &")
            assert 0 == (await client.exec_sync(container, later)).exit_code
            node.kill()
            await until(lambda: not pod.scope(container).exists())
            node.start()
            async with node.client() as anew:
                assert (137, "OOMKilled") == await end_of(anew, container)
                await node.empty(anew)


def overwrite_the_log() -> None:
    """Write more to the kernel's log than it has room for."""
    limit = Path("/proc/sys/kernel/printk_devkmsg")
    before = limit.read_text()
    limit.write_text("on\n")
    try:
        with LOG.open("wb", buffering=0) as log:
            for _ in range(LONG_LINES):
                log.write(b"<7>" + b"x" * 900)
    finally:
        limit.write_text(before)


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
async def test_the_log_is_overwritten(image: str, monitor: str) -> None:
    """Kills while no server runs, whose records are overwritten before the next one starts, are known to it."""
    with one_node(image, monitor=monitor) as node:
        node.start()
        async with node.client() as client:
            await node.pull(client)
            with kubelets_pod(node, "oom6") as pod:
                sandbox = await client.run_sandbox(pod.config)
                begin = node.place / "begin"
                begin.mkdir()
                script = f"until [ -e /data/now ]; do sleep 0.1; done; exec {GREEDY}"
                containers = [
                    await run_container(
                        client, node, sandbox, pod, f"c{number}", "sh", "-c", script, limits=LITTLE, data=str(begin)
                    )
                    for number in range(BURST)
                ]
                node.kill()
                (begin / "now").touch()
                await until(lambda: not any(pod.scope(container).exists() for container in containers))
                overwrite_the_log()
                assert () == read_kills(LOG).found
                node.start()
                async with node.client() as anew:
                    assert [(137, "OOMKilled")] * BURST == [await end_of(anew, container) for container in containers]
                    await node.empty(anew)
