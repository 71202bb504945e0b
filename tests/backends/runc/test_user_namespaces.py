# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a blocking look at a small file holds up nobody
"""Pods with a user namespace of their own, on crun, which Debian's runc is too old for."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest

from crishim.errors import InvalidArgument
from crishim.images.snapshots import Snapshots
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.mounts import mounts_below
from crishim.linux.processes import recorded
from crishim.model.container import LinuxContainerConfig
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import (
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    UserNamespace,
)
from crishim.model.values import ContainerId, ImageId
from crishim.pods.namespaces import PinnedNamespaces
from crishim.testing import Harness
from crishim.testing.harness import sandbox_config
from tests.backends.runc.world import needs, node, without_hybrid
from tests.own_mounts import run_in_own_mounts

pytestmark = [pytest.mark.node, needs("crun", "conmon", "busybox", "unshare", "nsenter", "catatonit")]

LINES = (IDMapping(100000, 0, 65536),)
MAPPED = UserNamespace(NamespaceMode.POD, LINES, LINES)


def linux(options: NamespaceOption, **changes: object) -> LinuxPodSandboxConfig:
    """A pod's part with these namespaces."""
    return LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options), **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder into which anybody may go, as a container's first process must reach its root."""
    with tempfile.TemporaryDirectory(prefix="userns") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[Harness]:
    without_hybrid()
    async with node(folder, runtime="crun") as world:
        yield world


@pytest.mark.parametrize("network", [NamespaceMode.POD, NamespaceMode.NODE])
@pytest.mark.parametrize("pid", [NamespaceMode.POD, NamespaceMode.CONTAINER])
async def test_a_mapped_pod(request: pytest.FixtureRequest, folder: Path, network: NamespaceMode, pid: NamespaceMode) -> None:
    """Its root is nobody outside, owns what the image gives root, and may set the pod's own sysctls and hostname."""
    if run_in_own_mounts(request):  # as the node's /sys is bound where the network is the node's
        return
    without_hybrid()
    async with node(folder, runtime="crun") as world:
        await mapped_pod(world, folder, network, pid)


async def mapped_pod(world: Harness, folder: Path, network: NamespaceMode, pid: NamespaceMode) -> None:
    """The pod of `test_a_mapped_pod`."""
    options = NamespaceOption(network=network, pid=pid, userns_options=MAPPED)
    sysctls = {} if network is NamespaceMode.NODE else {"net.core.somaxconn": "77"}
    config = linux(options, sysctls=sysctls)
    sandbox = await world.run_sandbox(linux=config, log_directory=str(folder / "logs"))
    script = "cat /proc/self/uid_map; id -u; ls -nd /bin | head -c 60; cat /proc/sys/net/core/somaxconn; hostname; touch /made"
    security = LinuxContainerSecurityContext(namespace_options=options)
    container = await world.run_container(
        sandbox, "main", "sh", "-c", script, log_path="main.log", linux=LinuxContainerConfig(security_context=security)
    )
    end = await world.services._core.backends.get("").backend.wait_container(container)
    lines = [line.split(" ", 3)[3].split() for line in (folder / "logs" / "main.log").read_text().splitlines()]
    assert 0 == end.code
    assert [["0", "100000", "65536"], ["0"]] == lines[:2]
    assert ["0", "0"] == lines[2][2:4]
    if network is NamespaceMode.POD:
        assert [["77"], ["pod"]] == lines[3:]
    assert 0 == (folder / "roots" / container / "made").stat().st_uid


async def test_processes_outside(world: Harness, folder: Path) -> None:
    """The container's first process is the mapped user's on the node."""
    options = NamespaceOption(userns_options=MAPPED)
    sandbox = await world.run_sandbox(linux=linux(options))
    security = LinuxContainerSecurityContext(namespace_options=options)
    container = await world.run_container(sandbox, "main", "sleep", "60", linux=LinuxContainerConfig(security_context=security))
    first = recorded(folder / "run" / "containers" / container / FIRST_PROCESS)
    assert first is not None
    assert 100000 == Path(f"/proc/{first.pid}").stat().st_uid


async def test_a_mapping_that_the_kernel_refuses(tmp_path: Path) -> None:
    """A mapping that overlaps itself is refused by its field, and nothing stays pinned."""
    pins = PinnedNamespaces(tmp_path / "pins")
    lines = (IDMapping(100000, 0, 10), IDMapping(100000, 5, 10))
    options = NamespaceOption(userns_options=UserNamespace(NamespaceMode.POD, lines, lines))
    async with Harness() as harness:
        sandbox = await harness.run_sandbox()
        spec = harness.services._core.table.sandbox(sandbox).record.spec
    try:
        with pytest.raises(InvalidArgument, match="userns_options"):
            await pins.create(attrs.evolve(spec, config=sandbox_config(linux=linux(options))))
        assert not list((tmp_path / "pins").iterdir())
    finally:
        pins.close()


async def test_layers_with_ids_of_their_own(tmp_path: Path) -> None:
    """An image's root is the mapped root's in a container's root and in its volumes, and what is written goes to its folder."""
    pins = PinnedNamespaces(tmp_path / "pins")
    options = NamespaceOption(userns_options=MAPPED)
    async with Harness() as harness:
        sandbox = await harness.run_sandbox()
        spec = harness.services._core.table.sandbox(sandbox).record.spec
    await pins.create(attrs.evolve(spec, config=sandbox_config(linux=linux(options))))
    userns = pins.path(sandbox, "user")
    for name in ("one", "two", "containers", "trash"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "file").write_text("text")
    snapshots = Snapshots(tmp_path / "containers", tmp_path / "trash", lambda layer: tmp_path / layer)
    container, image = ContainerId("c" * 64), ImageId("sha256:" + "1" * 64)
    try:
        snapshots.hold(container, ("one", "two"))
        root = snapshots.prepare(container, userns)
        view = snapshots.view(container, image, ("one", "two"), userns)
        assert [100000, 100000, 100000] == [
            path.stat().st_uid for path in (Path(root.path), Path(root.path) / "file", view / "file")
        ]
        assert 0 == (tmp_path / "one" / "file").stat().st_uid
    finally:
        snapshots.release(container)
        await pins.remove(sandbox)
        pins.close()
    assert [] == mounts_below(tmp_path)
