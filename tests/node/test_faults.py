"""A node whose parts are killed, missing, full or rebooted reports the right error and leaves nothing without a record."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.errors import Code
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.mounts import mount, mounts_below, unmount
from crishim.linux.processes import recorded
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config, sandbox_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS), real_plugins()]

MOMENTS = int(os.environ.get("CRISHIM_MOMENTS", "20"))
"""`make soak` takes more of them."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture
def node(image: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node, with conmon where a test does not name the monitor."""
    with one_node(image, monitor=getattr(request, "param", "conmon")) as node:
        yield node


MONITORS = pytest.mark.parametrize("node", ["conmon", "keeper"], indirect=True)


async def fails(call: "asyncio.Future[object] | object") -> CallError:
    """The error of a call that must fail."""
    with pytest.raises(CallError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@MONITORS
async def test_killed_at_many_moments(node: Node) -> None:
    """Whenever the server is killed while a pod is made, the next one knows all that runs; pods of earlier moments go on, and
    take new containers; removing them leaves nothing.
    """
    node.start()
    async with node.client() as client:
        await node.pull(client)
        begun = asyncio.get_running_loop().time()
        await node.make_pod(client, "first")
        took = asyncio.get_running_loop().time() - begun
    older, lost, stuck, late = {"first"}, 0, 0, 0
    for moment in range(MOMENTS):
        async with node.client() as client:
            making = asyncio.ensure_future(node.make_pod(client, f"pod{moment}"))
            await asyncio.sleep(took * moment / (MOMENTS - 1))
            node.kill()
            with contextlib.suppress(CallError):
                await making
        node.start()
        async with node.client() as client:
            sandboxes = {sandbox.metadata.name: sandbox for sandbox in await client.list_sandboxes({})}
            known = {sandbox.id for sandbox in sandboxes.values()}
            known |= {container.id for container in await client.list_containers({})}
            assert set() == node.resources() - known, f"moment {moment}"
            await node.make_pod(client, f"newer{moment}")
            for name in older:
                sandbox = sandboxes.get(name)
                if sandbox is None or sandbox.state != pb.SANDBOX_READY:
                    lost += 1
                elif await node.takes_a_container(client, sandbox.id, name, f"late{moment}"):
                    late += 1
                else:
                    stuck += 1
            older = await forget_some(node, client, {*older, f"pod{moment}", f"newer{moment}"})
    async with node.client() as client:
        await node.empty(client)
    await until(lambda: not node.traces())
    left = node.traces()
    print(f"{MOMENTS} moments, {late} containers in older pods: {lost} lost, {stuck} stuck, {len(left)} left")  # noqa: T201
    assert (0, 0, set()) == (lost, stuck, left)


async def forget_some(node: Node, client: CriClient, names: set[str]) -> set[str]:
    """Remove the incomplete pods, and those with the lowest numbers beyond four; returns the names of the others."""
    whole = {}
    for sandbox in await client.list_sandboxes({}):
        containers = [container for container in await client.list_containers({}) if container.pod_sandbox_id == sandbox.id]
        running = [container for container in containers if container.state == pb.CONTAINER_RUNNING]
        if sandbox.state == pb.SANDBOX_READY and len(running) >= 2:
            whole[sandbox.metadata.name] = sandbox.created_at
    remaining = set(sorted(whole, key=lambda name: whole[name])[-4:]) & names
    await node.empty(client, remaining)
    return remaining


@MONITORS
async def test_a_running_pod_survives_the_servers_death(node: Node) -> None:
    """Containers run on without the server, and how one ended meanwhile is known to the next."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        _, one, two = await node.make_pod(client, "pod")
    node.kill()
    bundle = node.run / "backends" / "runc" / "containers" / one
    first = recorded(bundle / FIRST_PROCESS)
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    node.start()
    async with node.client() as client:
        assert pb.CONTAINER_RUNNING == (await client.container_status(two)).state
        ended = await client.container_status(one)
        assert (pb.CONTAINER_EXITED, 137) == (ended.state, ended.exit_code)
        await node.empty(client)
    assert set() == node.traces()


def namespace(file: Path) -> tuple[int, int]:
    """Which namespace a file is."""
    status = file.stat()
    return status.st_dev, status.st_ino


async def test_an_older_pod_beside_a_newer_one(node: Node) -> None:
    """After a restart and a new pod, the pods before it take new containers, and removing all of them leaves nothing."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        older, *_ = await node.make_pod(client, "older")
        before = namespace(node.run / "namespaces" / older / "net")
    node.kill()
    node.start()
    async with node.client() as client:
        await node.make_pod(client, "newer")
        config = container_config("", metadata=ContainerMetadata("late"), image=ImageSpec(image=node.image), command=())
        late = await client.create_container(older, config, node.sandbox("older"))
        await client.start_container(late)
        first = recorded(node.run / "backends" / "runc" / "containers" / late / FIRST_PROCESS)
        assert first is not None
        assert before == namespace(Path(f"/proc/{first.pid}/ns/net"))
        await node.empty(client)
    assert set() == node.traces()
    assert 1 == len(mounts_below(node.run / "namespaces"))


async def test_a_reboot(node: Node, tmp_path: Path) -> None:
    """After a reboot every pod is NOTREADY and no container runs; addresses of the dead pods are free once they are removed."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        sandbox, one, _ = await node.make_pod(client, "pod")
    node.crash()
    await until(lambda: {"address"} == {trace.split()[0] for trace in node.traces()} - {"folder", "cgroup"})
    other = tmp_path / "boot_id"
    other.write_text("00000000-0000-4000-8000-000000000001\n")
    script = f'mount --bind {other} /proc/sys/kernel/random/boot_id; exec "$@"'
    node.start("unshare", "--mount", "--propagation=shared", "sh", "-c", script, "sh")
    try:
        async with node.client() as client:
            assert pb.SANDBOX_NOTREADY == (await client.sandbox_status(sandbox)).state
            assert pb.CONTAINER_EXITED == (await client.container_status(one)).state
            await node.empty(client)
            assert set() == {trace for trace in node.traces() if not trace.startswith("cgroup")}
            await node.make_pod(client, "pod")
            await node.empty(client)
    finally:
        unmount("/proc/sys/kernel/random/boot_id")


async def test_a_full_disk(image: str, tmp_path: Path) -> None:
    """A pull onto a full disk says so and leaves nothing usable; with room again it goes through."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", 0, "size=3m")
    try:
        with one_node(image, state=disk / "state") as node:
            (disk / "ballast").write_bytes(bytes(1 << 20))
            node.start()
            async with node.client() as client:
                error = await fails(client.pull_image(ImageSpec(image=image), sandbox_config()))
                assert "space" in error.message
                assert None is await client.image_status(ImageSpec(image=image))
                mount("", disk, "tmpfs", 32, "size=40m")  # MS_REMOUNT: space was freed
                await node.pull(client)
                await node.make_pod(client, "pod")
                await node.empty(client)
            assert set() == node.traces()
    finally:
        unmount(disk)


async def test_runc_is_missing(node: Node) -> None:
    """Without the runtime the server starts, reports what is missing, and refuses pods; it recovers once the runtime exists."""
    program = node.place / "late-runc"
    node.configure(str(program))
    node.start()
    async with node.client() as client:
        condition = (await client.status()).conditions[0]
        assert ("RuntimeReady", False) == (condition.type, condition.status)
        assert "late-runc" in condition.message
        await node.pull(client)
        await fails(node.make_pod(client, "pod"))
        program.write_text('#!/bin/sh\nexec runc "$@"\n')
        program.chmod(0o755)
        async with asyncio.timeout(60):
            while not (await client.status()).conditions[0].status:  # noqa: ASYNC110 - a kubelet asks over and over too
                await asyncio.sleep(0.1)
        await node.make_pod(client, "pod")
        await node.empty(client)
    assert set() == node.traces()


async def test_conmon_is_killed(node: Node) -> None:
    """A container whose monitor is killed runs on, now as our child: its exit is seen, and it can be removed."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        _, one, two = await node.make_pod(client, "pod")
        bundle = node.run / "backends" / "runc" / "containers" / one
        os.kill(int((bundle / "conmon-pidfile").read_text()), signal.SIGKILL)
        assert pb.CONTAINER_RUNNING == (await client.container_status(one)).state
        await client.stop_container(one, 0)
        ended = await client.container_status(one)
        assert (pb.CONTAINER_EXITED, 137) == (ended.state, ended.exit_code)
        assert pb.CONTAINER_RUNNING == (await client.container_status(two)).state
        await node.empty(client)
    await until(lambda: not node.traces())
    assert set() == node.traces()


@pytest.mark.parametrize(("script", "word"), [("echo broken >&2; exit 1", "fail"), ("sleep 600", "hang")])
async def test_a_network_plugin_fails_or_hangs(image: str, script: str, word: str) -> None:
    """RunPodSandbox fails, or the server is killed over it, and nothing is left of the pod, the plugin that hangs included."""
    with one_node(image, plugin="bad") as node:
        plugin = node.place / "bin" / "bad"
        plugin.write_text(f'#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\n{script}\n')
        plugin.chmod(0o755)
        node.start()
        async with node.client() as client:
            making = asyncio.ensure_future(node.make_pod(client, "pod"))
            if word == "hang":
                await until(lambda: any(trace.startswith("address") for trace in node.traces()))
                node.kill()
                await fails(making)
                node.start()
            else:
                assert Code.UNKNOWN is (await fails(making)).code
        async with node.client() as client:
            await node.empty(client)
        await until(lambda: not node.traces())
        assert set() == node.traces()


async def all_at_once(node: Node, client: CriClient, pods: int) -> None:
    """Make and remove many pods side by side."""
    await asyncio.gather(*(node.make_pod(client, f"pod{number}", 1) for number in range(pods)))
    await asyncio.gather(*(client.remove_sandbox(sandbox.id) for sandbox in await client.list_sandboxes({})))


async def test_a_hundred_calls_at_once(node: Node) -> None:
    """Thirty pods created concurrently (over a hundred calls) all start, and removed concurrently leave nothing."""
    node.start()
    async with node.client() as client:
        await node.pull(client)
        await all_at_once(node, client, 30)
    assert set() == node.traces()
