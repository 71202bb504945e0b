"""Pods of CRI-O with our shim as a handler of the type `vm`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.model.container import ContainerMetadata, LinuxContainerConfig
from crishim.model.image import ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.security import LinuxContainerSecurityContext
from crishim.oci.features import config_features
from crishim.play import CriClient
from crishim.pods.bundle import read_config
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, images
from tests.shimv2.crio import OURS, PROGRAMS, Crio, crio
from tests.shimv2.server.test_releases import pod_config, until

pytestmark = [pytest.mark.node, needs(*PROGRAMS, *TOOLS)]

PAUSE = ("sh", "-c", "trap exit TERM; sleep 600 & wait")
"""The command of the image, for pods with a pause."""


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crio]:
    with images(tmp_path_factory.mktemp("images"), *PAUSE) as image, crio(image, "crishimcrio") as node:
        yield node


async def run_pod(client: CriClient, node: Crio, sandbox: PodSandboxConfig) -> str:
    await client.pull_image(ImageSpec(image=node.image), sandbox)
    return await client.run_sandbox(sandbox, OURS)


async def start(client: CriClient, node: Crio, pod: str, sandbox: PodSandboxConfig, name: str, *argv: str) -> str:
    options = sandbox.linux.security_context.namespace_options
    config = container_config(
        "",
        metadata=ContainerMetadata(name),
        image=ImageSpec(image=node.image, user_specified_image=node.image),
        command=argv,
        log_path=f"{name}.log",
        linux=LinuxContainerConfig(security_context=LinuxContainerSecurityContext(namespace_options=options)),
    )
    container = await client.create_container(pod, config, sandbox)
    await client.start_container(container)
    return container


async def until_exited(client: CriClient, container: str) -> int:
    async def exited() -> bool:
        return pb.CONTAINER_EXITED == (await client.container_status(container)).state

    await until(exited)
    return (await client.container_status(container)).exit_code


async def remove(client: CriClient, node: Crio, pod: str) -> None:
    await client.stop_sandbox(pod)
    assert pb.SANDBOX_NOTREADY == (await client.sandbox_status(pod)).state
    await client.remove_sandbox(pod)
    assert [] == await client.list_sandboxes({})

    async def gone() -> bool:
        return not node.leftovers()

    await until(gone)


async def test_a_pod_of_two_containers(node: Crio, tmp_path: Path) -> None:
    """A pod of two containers: address, the pod's files, namespaces, logs, execs and exits; the removal leaves nothing."""
    sandbox = pod_config(tmp_path)
    async with node.cri() as client:
        pod = await run_pod(client, node, sandbox)
        assert (await client.sandbox_status(pod)).network.ip.startswith("10.85.")
        one = await start(client, node, pod, sandbox, "one", "sh", "-c", "echo from one; sleep 600")
        two = await start(
            client,
            node,
            pod,
            sandbox,
            "two",
            "sh",
            "-c",
            "echo from two >&2; until [ -e /dev/shm/go ]; do sleep 0.1; done; exit 3",
        )
        files = ("sh", "-c", "cat /etc/hostname /etc/resolv.conf /proc/sys/kernel/hostname; exit 4")
        done = await client.exec_sync(one, files, 10)
        assert (4, b"the-pod\nnameserver 10.9.8.7\nthe-pod\n") == (done.exit_code, done.stdout)
        assert b"" == (await client.exec_sync(one, ("sh", "-c", "echo go > /dev/shm/go"), 10)).stderr
        assert 3 == await until_exited(client, two)
        (bundle,) = (node.folder / "run" / "overlay-containers").glob(f"{one}/userdata")
        assert set() == {feature for feature, is_set in config_features(read_config(bundle)).items() if is_set}
        await client.stop_container(one, 0)
        assert 137 == await until_exited(client, one)
        assert (tmp_path / "one.log").read_text().endswith(" stdout F from one\n")
        assert (tmp_path / "two.log").read_text().endswith(" stderr F from two\n")
        await remove(client, node, pod)


async def test_crio_restarts(node: Crio, tmp_path: Path) -> None:
    """After a restart of CRI-O an older pod runs on, takes an exec, and ends as its containers do."""
    sandbox = pod_config(tmp_path)
    async with node.cri() as client:
        pod = await run_pod(client, node, sandbox)
        one = await start(client, node, pod, sandbox, "one", "sh", "-c", "sleep 600")
    node.stop()
    node.start()
    async with node.cri() as client:
        assert pb.SANDBOX_READY == (await client.sandbox_status(pod)).state
        assert pb.CONTAINER_RUNNING == (await client.container_status(one)).state
        assert 3 == (await client.exec_sync(one, ("sh", "-c", "exit 3"), 10)).exit_code
        await client.stop_container(one, 0)
        assert 137 == await until_exited(client, one)
        await remove(client, node, pod)
