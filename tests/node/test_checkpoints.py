"""Checkpoints on a node: over the real image store and network, and with a server that dies."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.errors import Code
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.processes import recorded
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs, needs_criu
from tests.node.registry import File, Layout, serving, tar_of
from tests.node.world import TOOLS, Node, images, one_node, processes, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS), needs_criu(), real_plugins()]

COUNTS = "i=0; while :; do i=$((i+1)); echo $i; busybox sleep 0.05; done"
HOLDS = '#!/bin/sh\ntouch {folder}/waits\nwhile [ ! -e {folder}/go ]; do sleep 0.05; done\nexec {criu} "$@"\n'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture
def node(image: str) -> Iterator[Node]:
    with one_node(image) as node:
        yield node


def last(log: Path) -> int:
    """The number that a counting container has logged last; 0 before the first."""
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1].split()[-1]) if lines else 0


async def run(node: Node, client: CriClient, pod: str, name: str, script: str = "", *, image: str = "") -> str:
    """A running container of a pod: of a script, or of an archive."""
    config = container_config(
        "",
        metadata=ContainerMetadata(name),
        image=ImageSpec(image=image or node.image),
        command=("sh", "-c", script) if script else (),
        log_path=f"{name}.log",
    )
    container_id = await client.create_container(pod, config, node.sandbox("pod"))
    await client.start_container(container_id)
    return container_id


async def said(client: CriClient, container_id: str, script: str) -> str:
    """What a script in a container prints."""
    return (await client.exec_sync(container_id, ("sh", "-c", script), 20)).stdout.decode()


def cgroups_of(node: Node, container_id: str) -> str:
    """/proc/PID/cgroup of a container's first process."""
    process = recorded(node.run / "backends/runc/containers" / container_id / FIRST_PROCESS)
    assert process is not None
    return Path(f"/proc/{process.pid}/cgroup").read_text()


async def test_the_root_is_as_it_was(node: Node, tmp_path: Path) -> None:
    """Files that were written, changed and deleted, and a folder created again, are restored as dumped."""
    changes = """
    busybox mkdir -p /made/deep; echo one > /made/deep/file; busybox ln -s deep /made/link; busybox chmod 700 /made
    busybox rm /bin/dd /bin/true; busybox mkfifo /made/pipe
    busybox mv /old /gone; busybox rm -r /gone; busybox mkdir /old; echo new > /old/new
    """
    show = "busybox find / -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -print | busybox sort"
    content = "busybox cat /made/deep/file /old/new; busybox stat -c %a /made"
    node.start()
    async with node.client() as client:
        await node.pull(client)
        pod = await client.run_sandbox(node.sandbox("pod"))
        first = await run(
            node, client, pod, "first", "busybox mkdir /old; echo old > /old/old; while :; do busybox sleep 1; done"
        )
        await said(client, first, changes)
        for number in range(2):  # the second time the restored one is dumped, with something more deleted
            expected = await said(client, first, show), await said(client, first, content)
            archive = tmp_path / f"{number}.tar"
            await client.checkpoint_container(first, str(archive))
            await client.remove_container(first)
            first = await run(node, client, pod, f"again{number}", image=str(archive))
            assert expected == (await said(client, first, show), await said(client, first, content))
            assert node.image == (await client.container_status(first)).image.image
            await said(client, first, "busybox rm /made/link /bin/cat; echo more > /more")
        await node.empty(client)
    await until(lambda: not node.traces())
    assert set() == node.traces()


async def test_the_cgroup_of_a_restored_container(node: Node, tmp_path: Path) -> None:
    """The processes of a restored container are in its own cgroup, also while the dumped one goes on in the other."""
    archive = str(tmp_path / "main.tar")
    node.start()
    async with node.client() as client:
        await node.pull(client)
        pods = [await client.run_sandbox(node.sandbox(name)) for name in ("one", "two")]
        dumped = await run(node, client, pods[0], "main", COUNTS)
        await client.checkpoint_container(dumped, archive)
        restored = await run(node, client, pods[1], "again", image=archive)
        for container_id in (dumped, restored):
            assert {container_id} == {one for one in (dumped, restored) if one in cgroups_of(node, container_id)}
        await node.empty(client)
    await until(lambda: not node.traces())
    assert set() == node.traces()


async def test_a_listener_and_a_connection(node: Node, tmp_path: Path) -> None:
    """A container with a listener and an established connection is dumped; restored it listens, and takes another one."""
    serve = "while :; do busybox nc -l -p 7000 -e cat; done"
    ask = "until echo hello | busybox nc 127.0.0.1 7000; do busybox sleep 0.05; done"
    hold = "until (echo held; exec sleep 600) | busybox nc 127.0.0.1 7000 > /said; do busybox sleep 0.05; done"
    node.start()
    async with node.client() as client:
        await node.pull(client)
        pod = await client.run_sandbox(node.sandbox("pod"))
        server = await run(node, client, pod, "server", serve)
        assert "hello\n" == await said(client, server, ask)
        talker = await run(node, client, pod, "talker", hold)
        async with asyncio.timeout(20):
            while "held\n" != await said(client, talker, "cat /said"):  # noqa: ASYNC110 - a file sends no event
                await asyncio.sleep(0.05)
        await client.checkpoint_container(server, str(tmp_path / "server.tar"))
        assert pb.CONTAINER_RUNNING == (await client.container_status(talker)).state
        await client.remove_container(server)
        again = await run(node, client, pod, "again", image=str(tmp_path / "server.tar"))
        assert "hello\n" == await said(client, again, ask)
        await node.empty(client)


@pytest.mark.parametrize("both", [True, False], ids=["with-criu", "alone"])
async def test_the_server_is_killed_in_the_middle(node: Node, tmp_path: Path, *, both: bool) -> None:
    """Whether CRIU dies with the server or continues, the next server resumes the container, and no partial archive is left."""
    bin_folder, out = tmp_path / "bin", tmp_path / "out"
    bin_folder.mkdir()
    script = bin_folder / "criu"
    script.write_text(HOLDS.format(folder=tmp_path, criu=shutil.which("criu")))
    script.chmod(0o755)
    node.start("env", f"PATH={bin_folder}:{os.environ['PATH']}")
    log = node.place / "logs" / "pod" / "main.log"
    async with node.client() as client:
        await node.pull(client)
        pod = await client.run_sandbox(node.sandbox("pod"))
        container_id = await run(node, client, pod, "main", COUNTS)
        await until(lambda: last(log) > 3)
        dumping = asyncio.ensure_future(client.checkpoint_container(container_id, str(out / "main.tar")))
        await until((tmp_path / "waits").exists)
        node.kill()
        with contextlib.suppress(CallError):
            await dumping
    frozen = last(log)
    holders = [pid for pid, line in processes(str(script))]
    if both:
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    node.start()
    async with node.client() as client:
        await until(lambda: last(log) > frozen + 3)
        await until(lambda: list(out.iterdir()) == [])
        assert pb.CONTAINER_RUNNING == (await client.container_status(container_id)).state
        await client.checkpoint_container(container_id, str(out / "main.tar"))
        seen = last(log)
        await until(lambda: last(log) > seen + 3)
        assert ["main.tar"] == [path.name for path in out.iterdir()]
        await node.empty(client)


async def test_an_image_that_is_an_archive(node: Node, tmp_path: Path) -> None:
    """A container of an image that is annotated as a checkpoint is restored; one without the parts is refused."""
    archive = tmp_path / "main.tar"
    node.start()
    async with node.client() as client:
        await node.pull(client)
        pod = await client.run_sandbox(node.sandbox("pod"))
        container_id = await run(node, client, pod, "main", COUNTS)
        log = node.place / "logs" / "pod" / "main.log"
        await until(lambda: last(log) > 3)
        await client.checkpoint_container(container_id, str(archive))
        dumped = last(log)
        await client.remove_container(container_id)
        layout = Layout(tmp_path / "layout")
        mark = {"org.criu.checkpoint.container.name": "main"}
        layout.image([archive.read_bytes()], tag="whole", annotations=mark)
        layout.image([tar_of(File("config.dump", b"{}"))], tag="half", annotations=mark)
        with serving(tmp_path / "registry") as registry:
            hosts = (node.image.partition("/")[0], registry.address)
            trusted = (f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in hosts)
            (node.place / "registries.conf").write_text("".join(trusted))
            whole = registry.push(layout, "whole", "test/checkpoint:whole")
            half = registry.push(layout, "half", "test/checkpoint:half")
            for image in (whole, half):
                await client.pull_image(ImageSpec(image=image), node.sandbox("pod"))
        again = await run(node, client, pod, "again", image=whole)
        new = node.place / "logs" / "pod" / "again.log"
        await until(lambda: last(new) > dumped + 3)
        assert 3 < int(new.read_text().splitlines()[0].split()[-1]) <= dumped + 3
        assert node.image == (await client.container_status(again)).image.image
        with pytest.raises(CallError, match=r"is incomplete: it lacks checkpoint/inventory\.img, spec\.dump") as refused:
            await run(node, client, pod, "half", image=half)
        assert Code.DATA_LOSS is refused.value.code
        await node.empty(client)
    await until(lambda: not node.traces())
    assert set() == node.traces()
