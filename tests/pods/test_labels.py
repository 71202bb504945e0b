"""SELinux labels on files and in bundles. No SELinux kernel is needed: labels are extended attributes, which root may set."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from crishim.errors import InvalidArgument
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.seats import Rootfs
from crishim.linux.mounts import mount, unmount, unmount_below
from crishim.model.container import Mount
from crishim.model.image import ImageConfig
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import LinuxContainerSecurityContext, NamespaceMode, SELinuxOption
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.oci.facts import Labels
from crishim.pods.backend import OciPodBackend
from crishim.pods.bundle import read_config
from crishim.pods.host import has_selinux, host
from crishim.pods.labels import label_pod, level_of, relabel, volumes_to_label
from crishim.system import SystemClock
from crishim.testing.roots import BusyboxRoots
from tests.backends.runc.world import needs
from tests.oci.test_spec import SANDBOX, in_pod, spec
from tests.pods.test_capabilities import PlainRuntime

pytestmark = [pytest.mark.node, needs("busybox")]

FILES = "system_u:object_r:container_file_t:"
LABELS = Labels("system_u:system_r:container_t:s0:c3,c7", f"{FILES}s0:c3,c7")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on a disk that keeps labels."""
    with tempfile.TemporaryDirectory(prefix="labels", dir="/var/tmp") as name:
        yield Path(name)


def label_of(path: Path) -> str:
    """The label of a file itself; empty for none."""
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return ""


def pod(folder: Path, number: int, sandbox: SandboxSpec = SANDBOX) -> tuple[SandboxSpec, Path]:
    """A pod whose files exist, in the node's IPC namespace, so that nothing need be mounted."""
    spec = attrs.evolve(sandbox, id=SandboxId(f"{number:064x}"))
    (folder / spec.id).mkdir(parents=True)
    for name in ("hostname", "hosts", "resolv.conf"):
        (folder / spec.id / name).touch()
    return spec, folder / spec.id


def test_selinux_is_found_by_its_file_system(tmp_path: Path) -> None:
    """A machine has SELinux where its file system is mounted with `enforce` in it, enforcing or not."""
    (tmp_path / "enforce").write_text("0")
    assert (True, False) == (host(selinux=tmp_path).selinux, host(selinux=tmp_path / "none").selinux)


def test_each_pod_has_a_level_of_its_own(folder: Path) -> None:
    """Pods that start beside one another get different levels, which stay recorded, and their files that level."""
    pods = [pod(folder, number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda labelled: label_pod(folder, labelled[0]), pods))
    levels = [level_of(path) for _, path in pods]
    assert 40 == len(set(levels))
    assert [f"{FILES}{levels[0]}"] * 3 == [label_of(pods[0][1] / name) for name in ("hostname", "hosts", "resolv.conf")]
    assert "" == level_of(folder / "older")


def test_a_level_that_a_pod_names(folder: Path) -> None:
    """A pod's own level is recorded as any other, and what is no level is refused before anything is labelled."""
    sandbox, path = pod(folder, 1, in_pod(SELinuxOption(user="me", level="s0:c1,c2")))
    label_pod(folder, sandbox)
    assert ("s0:c1,c2", "me:object_r:container_file_t:s0:c1,c2") == (level_of(path), label_of(path / "hosts"))
    bad, other = pod(folder, 2, in_pod(SELinuxOption(level="loud")))
    with pytest.raises(InvalidArgument, match="level"):
        label_pod(folder, bad)
    assert ("", "") == (level_of(other), label_of(other / "hosts"))


def test_volumes_are_relabelled_with_all_that_is_in_them(folder: Path) -> None:
    """A volume that asks for it gets the container's label, links themselves and not what they lead to; others keep theirs."""
    for name in ("asked/deep", "other", "image"):
        (folder / name).mkdir(parents=True)
    (folder / "asked/deep/file").touch()
    (folder / "outside").touch()
    (folder / "asked/link").symlink_to(folder / "outside")
    (folder / "way").symlink_to(folder / "asked")
    mounts = (
        Mount(container_path="/a", host_path=str(folder / "way"), selinux_relabel=True),
        Mount(container_path="/b", host_path=str(folder / "other")),
    )
    relabel([*volumes_to_label(spec(mounts=mounts), LABELS), str(folder / "image")], LABELS.mounts)
    labels = {name: label_of(folder / name) for name in ("asked", "asked/deep/file", "asked/link", "image", "other", "outside")}
    ours = LABELS.mounts
    expected = {"asked": ours, "asked/deep/file": ours, "asked/link": ours, "image": ours, "other": "", "outside": ""}
    assert expected == labels


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/../var/lib", "/tmp/"])
def test_the_node_s_own_folders_are_refused(folder: Path, path: str) -> None:
    """Whatever a pod asks, the node's own folders are not relabelled: its container is refused by the mount's number."""
    mounts = tuple(
        Mount(container_path=f"/{number}", host_path=source, selinux_relabel=True)
        for number, source in enumerate((str(folder), path))
    )
    with pytest.raises(InvalidArgument, match=r"config\.mounts\[1\]\.selinux_relabel"):
        volumes_to_label(spec(mounts=mounts), LABELS)  # chooses, and labels nothing


def test_where_files_have_no_labels(folder: Path) -> None:
    """A file system without labels, as many networks' are, is no error, nor is a file that is gone."""
    bare = folder / "bare"
    bare.mkdir()
    mount("ramfs", bare, "ramfs")
    try:
        (bare / "file").touch()
        relabel([str(bare), str(folder / "none")], LABELS.mounts)
        assert "" == label_of(bare / "file")
    finally:
        unmount(bare)


class LabelledRoots(BusyboxRoots):
    """Roots that record the labels with which they were prepared."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.labels: list[str] = []

    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        self.labels.append(label)
        return await super().prepare(container_id, image_id, userns)


async def test_the_containers_of_a_pod_over_a_restart(folder: Path) -> None:
    """Containers before and after a restart of ours have their pod's level, in config.json, on roots and on volumes."""
    roots = LabelledRoots(folder / "roots")
    (folder / "volume").mkdir()
    configs = []
    sandbox = attrs.evolve(in_pod(ipc=NamespaceMode.NODE), id=SandboxId("a" * 64))
    for number in range(2):
        backend = pods(folder, roots)
        if not number:
            await backend.start_sandbox(sandbox)
        container = spec(
            id=ContainerId(str(number) * 64),
            sandbox=sandbox,
            security=LinuxContainerSecurityContext(selinux_options=SELinuxOption(type="my_t")),
            mounts=(Mount(container_path="/v", host_path=str(folder / "volume"), selinux_relabel=True),),
            image_config=ImageConfig(volumes=("/data",)),
        )
        await backend.create_container(container)
        configs.append(read_config(folder / "run" / "containers" / container.id))
    level = level_of(folder / "run" / "sandboxes" / sandbox.id)
    assert [f"system_u:system_r:my_t:{level}"] * 2 == [config["process"]["selinuxLabel"] for config in configs]
    assert [f"{FILES}{level}"] * 2 == [config["linux"]["mountLabel"] for config in configs] == roots.labels
    sources = {mount["destination"]: Path(mount["source"]) for mount in configs[0]["mounts"]}
    assert [f"{FILES}{level}"] * 3 == [label_of(sources[path]) for path in ("/v", "/data", "/etc/hosts")]
    assert {"selinux": "a level for each pod"}.items() <= (await pods(folder, roots).probe()).details.items()


@pytest.mark.skipif(shutil.which("catatonit") is None, reason="needs catatonit: apt-get install catatonit")
async def test_a_pods_first_process(folder: Path) -> None:
    """The process of a shared PID namespace runs with its pod's label, from files that have it too."""
    sandbox = attrs.evolve(in_pod(), id=SandboxId("a" * 64))
    pod_folder = folder / "run" / "sandboxes" / sandbox.id
    try:
        await pods(folder, BusyboxRoots(folder / "roots")).start_sandbox(sandbox)
    finally:
        unmount_below(folder)
    level = level_of(pod_folder)
    config = read_config(pod_folder / "pause")
    assert f"system_u:system_r:container_t:{level}" == config["process"]["selinuxLabel"]
    assert [f"{FILES}{level}"] * 2 == [label_of(pod_folder / "pause/rootfs" / name) for name in ("", "catatonit")]


def test_selinux_that_hides_its_file_system(folder: Path) -> None:
    """A machine whose policy does not let a server see that file system has SELinux."""
    (folder / "selinux").mkdir(mode=0)
    before = os.geteuid()
    os.seteuid(65534)
    try:
        assert has_selinux(folder / "selinux")
    finally:
        os.seteuid(before)


def pods(folder: Path, roots: BusyboxRoots) -> OciPodBackend:
    """Pods on a machine that has SELinux by a file of ours."""
    (folder / "selinux").mkdir(exist_ok=True)
    (folder / "selinux" / "enforce").write_text("1")
    machine = attrs.evolve(host(selinux=folder / "selinux"), apparmor=False)
    context = BackendContext(state=folder / "state", runtime_state=folder / "run", clock=SystemClock(), rootfs=roots)
    return OciPodBackend(PlainRuntime(), context, machine)
