# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a short blocking read delays nothing
"""Pods with a user namespace of their own, on crun, and on runc where it is 1.2 or newer."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.runc.command import features
from crishim.errors import InvalidArgument
from crishim.images.snapshots import Snapshots
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.mounts import mounts_below, read_mounts
from crishim.linux.processes import recorded
from crishim.model.container import LinuxContainerConfig, Mount
from crishim.model.features import Feature
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


def idmaps(runtime: str) -> bool:
    """Whether a runtime says that it can mount with ids of a user namespace's."""
    if shutil.which(runtime) is None:
        return False
    output = subprocess.run([runtime, "features"], capture_output=True, text=True, check=False).stdout
    return features(runtime, "0", output, (6, 0)).idmap


LINES = (IDMapping(100000, 0, 65536),)
MAPPED = UserNamespace(NamespaceMode.POD, LINES, LINES)


def linux(options: NamespaceOption, **changes: object) -> LinuxPodSandboxConfig:
    """A pod's part with these namespaces."""
    return LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options), **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder into which anybody may go, as a container's first process must reach its root."""
    with tempfile.TemporaryDirectory(prefix="userns") as name:
        Path(name).chmod(0o711)
        yield Path(name)


RUNTIMES = [
    "crun",
    pytest.param("runc", marks=pytest.mark.skipif(not idmaps("runc"), reason="needs runc 1.2 or newer: put one on PATH")),
]


@pytest.fixture(params=RUNTIMES)
async def world(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Harness]:
    without_hybrid()
    async with node(folder, runtime=request.param) as world:
        yield world


async def output(
    world: Harness, folder: Path, options: NamespaceOption, script: str, *mounts: Mount, **changes: Any
) -> tuple[ContainerId, list[str]]:
    """What a container of a mapped pod writes: its script in a shell."""
    sandbox = await world.run_sandbox(linux=linux(options, **changes), log_directory=str(folder / "logs"))
    security = LinuxContainerSecurityContext(namespace_options=options)
    container = await world.run_container(
        sandbox,
        "main",
        "sh",
        "-c",
        script,
        log_path="main.log",
        linux=LinuxContainerConfig(security_context=security),
        mounts=mounts,
    )
    end = await world.services._core.backends.get("").backend.wait_container(container)
    lines = [line.split(" ", 3)[3].strip() for line in (folder / "logs" / "main.log").read_text().splitlines()]
    assert 0 == end.code, lines
    return container, lines


@pytest.mark.parametrize("network", [NamespaceMode.POD, NamespaceMode.NODE])
@pytest.mark.parametrize("pid", [NamespaceMode.POD, NamespaceMode.CONTAINER])
@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_mapped_pod(
    request: pytest.FixtureRequest, folder: Path, network: NamespaceMode, pid: NamespaceMode, runtime: str
) -> None:
    """Its root is unprivileged outside, owns the image's files of root, and may set the pod's own sysctls and hostname.

    Nothing of the node is mounted over, before, during or after.
    """
    if run_in_own_mounts(request):  # as the node's /sys is bound where the network is the node's
        return
    without_hybrid()
    before = nodes_mounts(folder)
    async with node(folder, runtime=runtime) as world:
        await mapped_pod(world, folder, network, pid)
        assert before == nodes_mounts(folder)
    assert before == nodes_mounts(folder)


def nodes_mounts(folder: Path) -> set[str]:
    """What is mounted outside of a test's folder."""
    return {mount.path for mount in read_mounts() if not mount.path.startswith(f"{folder}/")}


async def mapped_pod(world: Harness, folder: Path, network: NamespaceMode, pid: NamespaceMode) -> None:
    """The pod of `test_a_mapped_pod`."""
    options = NamespaceOption(network=network, pid=pid, userns_options=MAPPED)
    sysctls = {} if network is NamespaceMode.NODE else {"net.core.somaxconn": "77"}
    script = "cat /proc/self/uid_map; id -u; ls -nd /bin; cat /proc/sys/net/core/somaxconn; hostname; touch /made"
    container, lines = await output(world, folder, options, script, sysctls=sysctls)
    assert (["0", "100000", "65536"], "0") == (lines[0].split(), lines[1])
    assert ["0", "0"] == lines[2].split()[2:4]
    if network is NamespaceMode.POD:
        assert ["77", "pod"] == lines[3:]
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


async def test_sysctls_of_ipc_and_message_queues(world: Harness, folder: Path) -> None:
    """What the kernel leaves to the owner of an IPC namespace is set, and the node's own stays."""
    wanted = {"kernel.shm_rmid_forced": "1", "kernel.msgmax": "4096", "fs.mqueue.msg_max": "21", "kernel.domainname": "mine"}
    files = {name: Path("/proc/sys", name.replace(".", "/")) for name in wanted}
    before = {name: file.read_text() for name, file in files.items()}
    script = f"cat {' '.join(map(str, files.values()))}"
    _, lines = await output(world, folder, NamespaceOption(userns_options=MAPPED), script, sysctls=wanted)
    assert list(wanted.values()) == lines
    assert before == {name: file.read_text() for name, file in files.items()}


async def test_a_sysctl_that_the_kernel_does_not_take(world: Harness) -> None:
    """The owner's sysctl with a value that makes no sense is refused by its name."""
    with pytest.raises(InvalidArgument, match=r"shm_rmid_forced.*'7'.*Invalid argument"):
        await world.run_sandbox(linux=linux(NamespaceOption(userns_options=MAPPED), sysctls={"kernel.shm_rmid_forced": "7"}))


async def test_volumes_have_the_ids_of_the_pod(world: Harness, folder: Path) -> None:
    """A volume with mappings is owned by root inside as outside, and the pod's own files are writable for its root."""
    if Feature.IDMAP_MOUNTS not in (await world.backend.probe()).supported:
        pytest.skip("needs crun 1.9 or newer: put one on PATH")
    volume = folder / "volume"
    volume.mkdir()
    (volume / "file").write_text("text")
    mount = Mount(container_path="/volume", host_path=str(volume), uid_mappings=LINES, gid_mappings=LINES)
    script = "echo more >> /volume/new; ls -n /volume; echo x > /etc/hostname; echo 127.0.0.1 x >> /etc/hosts; touch /dev/shm/a"
    _, lines = await output(world, folder, NamespaceOption(userns_options=MAPPED), script, mount)
    assert [["0", "0"]] * 2 == [line.split()[2:4] for line in lines if line.endswith(("file", "new"))]
    assert (0, 0) == ((volume / "new").stat().st_uid, (volume / "new").stat().st_gid)


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
    """An image's root is the mapped root in a container's root and in its volumes, and written files are in its folder."""
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
