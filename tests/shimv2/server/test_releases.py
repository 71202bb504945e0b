"""Pods of containerd 1.6, 1.7 and 2 with our shim; of containerd 2 by both of its sandboxers."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import pytest

from crishim.cri import pb
from crishim.model.container import ContainerMetadata, LinuxContainerConfig
from crishim.model.features import Feature
from crishim.model.image import ImageSpec
from crishim.model.sandbox import DNSConfig, LinuxPodSandboxConfig, PodSandboxConfig
from crishim.model.security import (
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    UserNamespace,
)
from crishim.model.values import FrozenDict
from crishim.oci.features import config_features
from crishim.play import CallError, CriClient
from crishim.shimv2.server.launcher import NODE, SANDBOX
from crishim.testing.harness import container_config, sandbox_config
from tests.backends.runc.test_user_namespaces import idmaps
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, images
from tests.shimv2.containerd import PROGRAMS, Containerd, containerd
from tests.suite.settings import BEFORE_BOOTSTRAP, DISTRIBUTION, MIDDLE, NEWEST, Release

pytestmark = [pytest.mark.node, needs(*PROGRAMS, *TOOLS, "catatonit")]

BRIDGE = "crishimtwo"
ROWS = [
    (DISTRIBUTION, "crishim"),
    (MIDDLE, "crishim"),
    (BEFORE_BOOTSTRAP, "crishim"),
    (BEFORE_BOOTSTRAP, "pod"),
    (NEWEST, "crishim"),
    (NEWEST, "pod"),
]
"""Releases, and handlers: `pod` is the one whose sandboxer is the shim. With that, containerd 2.2 panics for a pod on the
node's network (core/runtime/v2, NewBundle), so all pods here have one of their own.
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@contextlib.contextmanager
def running(image: str, release: Release, scope: str = NODE) -> Iterator[Containerd]:
    """A release that runs; the test is left out without it."""
    if release.missing:
        pytest.skip(f"needs {release.missing}")
    with containerd(image, release, BRIDGE, scope) as started:
        yield started


@pytest.fixture(params=ROWS, ids=lambda row: f"{row[0].name}-{row[1]}")
def row(request: pytest.FixtureRequest, image: str) -> Iterator[tuple[Containerd, str]]:
    """A containerd that runs, and the handler to use."""
    release, handler = request.param
    with running(image, release) as started:
        yield started, handler


def pod_config(logs: Path, network: NamespaceMode = NamespaceMode.POD, userns: UserNamespace | None = None) -> PodSandboxConfig:
    options = NamespaceOption(network=network, pid=NamespaceMode.CONTAINER, userns_options=userns)
    linux = LinuxPodSandboxConfig(
        security_context=LinuxSandboxSecurityContext(namespace_options=options),
        sysctls=FrozenDict({"kernel.shm_rmid_forced": "1"}),
    )
    hostname = "the-pod" if network is NamespaceMode.POD else ""
    dns = DNSConfig(servers=("10.9.8.7",))
    return sandbox_config("pod", hostname=hostname, linux=linux, log_directory=str(logs), dns_config=dns)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():  # noqa: ASYNC110 - the state of another program
            await asyncio.sleep(0.1)


async def until_gone(node: Containerd) -> None:
    async def gone() -> bool:
        return not node.leftovers() and not list((node.state / "pods").glob("*/*"))

    await until(gone)


async def run_pod(client: CriClient, node: Containerd, sandbox: PodSandboxConfig, handler: str) -> str:
    await client.pull_image(ImageSpec(image=node.image), sandbox)
    return await client.run_sandbox(sandbox, handler)


async def start_one(client: CriClient, node: Containerd, pod: str, sandbox: PodSandboxConfig, name: str) -> str:
    options = sandbox.linux.security_context.namespace_options
    config = container_config(
        "",
        metadata=ContainerMetadata(name),
        image=ImageSpec(image=node.image),
        command=("sh", "-c", f"echo from {name}; sleep 600"),
        log_path=f"{name}.log",
        linux=LinuxContainerConfig(security_context=LinuxContainerSecurityContext(namespace_options=options)),
    )
    container = await client.create_container(pod, config, sandbox)
    await client.start_container(container)
    return container


def asked_by(node: Containerd, container: str) -> list[Feature]:
    """What a container's config.json asks its runtime for."""
    bundle = node.folder / "run" / "io.containerd.runtime.v2.task" / "k8s.io" / container
    asked = config_features(json.loads((bundle / "config.json").read_text()))
    return [feature for feature, is_set in asked.items() if is_set]


async def test_a_pod_of_two_containers(row: tuple[Containerd, str], tmp_path: Path) -> None:
    """A pod of two containers: the pod's files, namespaces, log, events, exec and exits; the removal leaves nothing.

    A plain container asks its runtime for no feature.
    """
    node, handler = row
    sandbox = pod_config(tmp_path)
    with node.events(tmp_path / "events"):
        async with node.cri() as client:
            pod = await run_pod(client, node, sandbox, handler)
            assert (await client.sandbox_status(pod)).network.ip.startswith("10.86.")
            one, two = [await start_one(client, node, pod, sandbox, name) for name in ("one", "two")]
            assert [] == asked_by(node, one)
            files = ("sh", "-c", "cat /etc/hostname /etc/resolv.conf /proc/sys/kernel/hostname; exit 3")
            done = await client.exec_sync(one, files, 10)
            assert (3, b"the-pod\nnameserver 10.9.8.7\nthe-pod\n") == (done.exit_code, done.stdout)
            await client.exec_sync(one, ("sh", "-c", "echo shared > /dev/shm/file"), 10)
            done = await client.exec_sync(two, ("sh", "-c", "cat /dev/shm/file /proc/sys/kernel/shm_rmid_forced"), 10)
            assert b"shared\n1\n" == done.stdout
            assert (tmp_path / "one.log").read_text().endswith(" stdout F from one\n")
            await client.stop_container(one, 0)
            assert 137 == (await client.container_status(one)).exit_code
            await client.stop_sandbox(pod)
            assert pb.SANDBOX_NOTREADY == (await client.sandbox_status(pod)).state
            await client.remove_sandbox(pod)
            assert [] == await client.list_sandboxes({})
        await until_gone(node)
    published = {word for line in (tmp_path / "events").read_text().splitlines() if one in line for word in line.split()}
    assert {"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"} <= published


async def test_a_sandbox_that_ends_by_itself(row: tuple[Containerd, str], tmp_path: Path) -> None:
    """The pod is NOTREADY as soon as its first process has ended, and can be removed."""
    node, handler = row
    sandbox = pod_config(tmp_path)
    async with node.cri() as client:
        pod = await run_pod(client, node, sandbox, handler)
        (pid,) = (int(state["init_process_pid"]) for state in node.states() if state["id"] == pod)
        os.kill(pid, signal.SIGKILL)

        async def not_ready() -> bool:
            return pb.SANDBOX_NOTREADY == (await client.sandbox_status(pod)).state

        await until(not_ready)
        await client.stop_sandbox(pod)
        await client.remove_sandbox(pod)
    await until_gone(node)


async def test_containerd_comes_back(row: tuple[Containerd, str], tmp_path: Path) -> None:
    """While containerd is down a pod keeps running; the next one knows it and its container, and removes both."""
    node, handler = row
    sandbox = pod_config(tmp_path)
    async with node.cri() as client:
        pod = await run_pod(client, node, sandbox, handler)
        one = await start_one(client, node, pod, sandbox, "one")
    node.stop()
    node.start()
    async with node.cri() as client:
        assert pb.SANDBOX_READY == (await client.sandbox_status(pod)).state
        assert 3 == (await client.exec_sync(one, ("sh", "-c", "exit 3"), 10)).exit_code
        await client.stop_sandbox(pod)
        await client.remove_sandbox(pod)
    await until_gone(node)


async def test_the_daemon_is_killed(row: tuple[Containerd, str], tmp_path: Path) -> None:
    """Containerd takes that for dead shims: the pod is NOTREADY, its container has ended, and all of it is freed."""
    node, handler = row
    sandbox = pod_config(tmp_path)
    async with node.cri() as client:
        pod = await run_pod(client, node, sandbox, handler)
        one = await start_one(client, node, pod, sandbox, "one")
        os.kill(node.daemon(), signal.SIGKILL)

        async def ended() -> bool:
            state = (await client.container_status(one)).state
            return (pb.CONTAINER_EXITED, []) == (state, node.states())

        await until(ended)
        await client.stop_sandbox(pod)
        await client.remove_sandbox(pod)
        again = await client.run_sandbox(sandbox, handler)
        await client.remove_sandbox(again)
    await until_gone(node)


@pytest.mark.skipif(not idmaps("runc"), reason="needs runc 1.2 or newer: put one on PATH")
@pytest.mark.parametrize("handler", ["crishim", "pod"])
@pytest.mark.parametrize("network", [NamespaceMode.POD, NamespaceMode.NODE])
async def test_a_pod_with_a_user_namespace(image: str, tmp_path: Path, handler: str, network: NamespaceMode) -> None:
    """Containerd 2 offers user namespaces with our shim; root in a container is unprivileged outside, and owns root's files."""
    ids = (IDMapping(host_id=200000, container_id=0, length=65536),)
    with running(image, NEWEST) as node:
        sandbox = pod_config(tmp_path, network, UserNamespace(uids=ids, gids=ids))
        async with node.cri() as client:
            pod = await run_pod(client, node, sandbox, handler)
            one = await start_one(client, node, pod, sandbox, "one")
            done = await client.exec_sync(one, ("sh", "-c", "cat /proc/self/uid_map; touch /bin/made && echo made"), 10)
            assert ["0", "200000", "65536", "made"] == done.stdout.decode().split(), done
            await client.stop_sandbox(pod)
            await client.remove_sandbox(pod)
        await until_gone(node)


@pytest.mark.parametrize(("release", "handler"), ROWS)
async def test_a_daemon_for_each_pod(image: str, tmp_path: Path, release: Release, handler: str) -> None:
    """With the scope `sandbox` the death of a pod's daemon ends that pod alone, and each ends with its pod."""
    with running(image, release, SANDBOX) as node:
        sandbox = pod_config(tmp_path)
        other = attrs.evolve(sandbox, metadata=attrs.evolve(sandbox.metadata, uid="other", name="other"))
        async with node.cri() as client:
            pod = await run_pod(client, node, sandbox, handler)
            one = await start_one(client, node, pod, sandbox, "one")
            (first,) = node.daemons()
            beside = await client.run_sandbox(other, handler)
            two = await start_one(client, node, beside, other, "two")
            assert 2 == len(node.daemons())
            os.kill(first, signal.SIGKILL)

            async def ended() -> bool:
                return pb.CONTAINER_EXITED == (await client.container_status(one)).state

            await until(ended)
            assert 3 == (await client.exec_sync(two, ("sh", "-c", "exit 3"), 10)).exit_code

            async def removed() -> bool:  # as a kubelet, which tries again while containerd cleans up after a dead shim
                for each in (pod, beside):
                    with contextlib.suppress(CallError):
                        await client.stop_sandbox(each)
                        await client.remove_sandbox(each)
                return [] == await client.list_sandboxes({})

            await until(removed)

        async def gone() -> bool:
            return ([], set(), []) == (node.daemons(), node.leftovers(), list(node.state.glob("k8s.io/*")))

        await until(gone)
