"""No pod changes the mounts of the node outside crishim's own folders."""

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest

from crishim.backends.runc.command import version_of
from crishim.cri import pb
from crishim.linux.mounts import MountPoint, mounts_below, read_mounts, unmount_below
from crishim.model.container import ContainerConfig, ContainerMetadata, LinuxContainerConfig, Mount, MountPropagation
from crishim.model.image import ImageSpec
from crishim.model.security import (
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    UserNamespace,
)
from crishim.oci.security import MASKED, READONLY
from crishim.play import CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs, without_hybrid
from tests.node.world import TOOLS, Node, images, one_node, real_plugins
from tests.own_mounts import run_in_own_mounts

pytestmark = [pytest.mark.node, needs(*TOOLS, "crun", "catatonit"), real_plugins()]

LINES: Final = (IDMapping(100000, 0, 65536),)
MAPPED: Final = UserNamespace(NamespaceMode.POD, LINES, LINES)


@attrs.frozen(kw_only=True)
class Kind:
    """A kind of pod."""

    namespaces: NamespaceOption = NamespaceOption()
    privileged: bool = False
    readonly_rootfs: bool = False


PLAIN: Final = {
    "plain": Kind(),
    "host network": Kind(namespaces=NamespaceOption(network=NamespaceMode.NODE)),
    "host IPC": Kind(namespaces=NamespaceOption(ipc=NamespaceMode.NODE)),
    "host PID": Kind(namespaces=NamespaceOption(pid=NamespaceMode.NODE)),
    "shared PID": Kind(namespaces=NamespaceOption(pid=NamespaceMode.POD)),
    "all of the host": Kind(
        namespaces=NamespaceOption(network=NamespaceMode.NODE, ipc=NamespaceMode.NODE, pid=NamespaceMode.NODE)
    ),
    "privileged": Kind(privileged=True),
    "privileged, host network": Kind(privileged=True, namespaces=NamespaceOption(network=NamespaceMode.NODE)),
    "read-only root": Kind(readonly_rootfs=True),
}
USER: Final = {
    "user namespace": Kind(namespaces=NamespaceOption(userns_options=MAPPED)),
    "user namespace, shared PID": Kind(namespaces=NamespaceOption(userns_options=MAPPED, pid=NamespaceMode.POD)),
    "user namespace, read-only root": Kind(namespaces=NamespaceOption(userns_options=MAPPED), readonly_rootfs=True),
    "user namespace, host network": Kind(namespaces=NamespaceOption(userns_options=MAPPED, network=NamespaceMode.NODE)),
    "user namespace, host network, shared PID": Kind(
        namespaces=NamespaceOption(userns_options=MAPPED, network=NamespaceMode.NODE, pid=NamespaceMode.POD)
    ),
}


def outside(node: Node) -> set[MountPoint]:
    """What is mounted anywhere but in the node's folder."""
    return {mount for mount in read_mounts() if not Path(mount.path).is_relative_to(node.place)}


@contextlib.asynccontextmanager
async def serving_node(place: Path, runtime: str) -> AsyncIterator[tuple[Node, CriClient]]:
    """A node whose server runs, and which has its image."""
    with images(place) as image, one_node(image, number=79) as node:
        node.configure(runtime)
        node.start()
        async with node.client() as client:
            await node.pull(client)
            yield node, client


async def run_pod(node: Node, client: CriClient, kind: Kind, *command: str, mounts: tuple[Mount, ...] = ()) -> str:
    """A pod of this kind with one container that runs, masked as a kubelet asks for it; the container's id."""
    sandbox = node.sandbox("pod", LinuxSandboxSecurityContext(namespace_options=kind.namespaces, privileged=kind.privileged))
    security = LinuxContainerSecurityContext(
        namespace_options=kind.namespaces,
        privileged=kind.privileged,
        readonly_rootfs=kind.readonly_rootfs,
        masked_paths=() if kind.privileged else MASKED,
        readonly_paths=() if kind.privileged else READONLY,
    )
    config: ContainerConfig = container_config(
        "",
        metadata=ContainerMetadata("main"),
        image=ImageSpec(image=node.image),
        command=command,
        log_path="main.log",
        mounts=mounts,
        linux=LinuxContainerConfig(security_context=security),
    )
    container = await client.create_container(await client.run_sandbox(sandbox), config, sandbox)
    await client.start_container(container)
    assert pb.CONTAINER_RUNNING == (await client.container_status(container)).state
    return container


async def changes(node: Node, client: CriClient, kinds: Mapping[str, Kind]) -> dict[str, set[MountPoint]]:
    """What each kind of pod has changed outside the node's folder while it ran, and after its removal."""
    before = outside(node)
    found = {}
    for name, kind in kinds.items():
        await run_pod(node, client, kind)
        found[name] = outside(node) ^ before
        await node.empty(client)
        found[f"{name}, removed"] = outside(node) ^ before
    return {name: changed for name, changed in found.items() if changed}


def runc_with_user_namespaces() -> pytest.MarkDecorator:
    """A test that needs a runc that joins user namespaces and maps mounts."""
    version: tuple[int, ...] = ()
    if shutil.which("runc"):
        output = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=False).stdout
        version = version_of(output.partition("\n")[0].rpartition(" ")[2])
    reason = "needs runc 1.2 or newer: from the releases of opencontainers/runc, on PATH"
    return pytest.mark.skipif(version < (1, 2), reason=reason)


@pytest.mark.parametrize(
    ("runtime", "kinds"),
    [
        pytest.param("runc", PLAIN, id="runc"),
        pytest.param("crun", PLAIN, id="crun"),
        pytest.param("crun", USER, id="crun-user-namespaces"),
        pytest.param("runc", USER, id="runc-user-namespaces", marks=runc_with_user_namespaces()),
    ],
)
async def test_no_pod_changes_the_node(
    request: pytest.FixtureRequest, tmp_path: Path, runtime: str, kinds: Mapping[str, Kind]
) -> None:
    """While a pod of any kind runs, and after its removal, the mounts outside crishim's folders are unchanged."""
    if run_in_own_mounts(request):
        return
    without_hybrid()
    async with serving_node(tmp_path, runtime) as (node, client):
        assert {} == await changes(node, client, kinds)
        assert set() == node.traces()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_bidirectional_mounts(request: pytest.FixtureRequest, tmp_path: Path, runtime: str) -> None:
    """Only what the container mounts below the bidirectional mount appears on the node; it stays, since it is not ours."""
    if run_in_own_mounts(request):
        return
    without_hybrid()
    async with serving_node(tmp_path, runtime) as (node, client):
        before = outside(node)
        shared = node.place / "shared"
        mount = Mount(container_path="/shared", host_path=str(shared), propagation=MountPropagation.BIDIRECTIONAL)
        script = "; ".join(
            [*(f"busybox mkdir {path}; busybox mount -t tmpfs none {path}" for path in ("/own", "/shared/inner")), "sleep 600"]
        )
        await run_pod(node, client, Kind(privileged=True), "/bin/busybox", "sh", "-c", script, mounts=(mount,))
        await until(lambda: bool(mounts_below(shared)))
        assert set() == outside(node) ^ before
        await node.empty(client)
        assert {f"mount {shared}/inner"} == node.traces()
        unmount_below(shared)
        assert (set(), set()) == (node.traces(), outside(node) ^ before)
