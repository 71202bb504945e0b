import os
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import CrishimError, InvalidArgument
from crishim.linux.mounts import MS_BIND, is_mount_root, mount, unmount_below
from crishim.play.configs import Node, Start, container_config
from crishim.play.manifest import parse
from crishim.play.pod import Pod
from crishim.play.volumes import PodFolders


def pod_of(volumes: list[Any], mounts: list[Any] | None = None, **spec: Any) -> Pod:
    main = {"name": "main", "image": "image:1", "volumeMounts": mounts or []}
    metadata = {"name": "pod", "labels": {"b": "2", "a": 'say "x"'}}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [main], "volumes": volumes, **spec},
    }
    return parse(manifest, uid="uid-1", seen="2026-01-01T00:00:00Z")


def folders_of(pod: Pod, tmp_path: Path) -> tuple[PodFolders, Node]:
    node = Node(root=str(tmp_path / "kubelet"), logs=str(tmp_path / "logs"), ips=("192.0.2.1",))
    return PodFolders(pod, node), node


def test_volumes_are_where_containers_look(tmp_path: Path) -> None:
    """Each mount's host path is there: the empty folder, the path below it, the downward files."""
    downward = {"items": [{"path": "sub/labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}
    volumes = [{"name": "d", "emptyDir": {}}, {"name": "w", "downwardAPI": downward}]
    mounts = [
        {"name": "d", "mountPath": "/data"},
        {"name": "d", "mountPath": "/below", "subPath": "x/y"},
        {"name": "w", "mountPath": "/written"},
    ]
    pod = pod_of(volumes, mounts)
    folders, node = folders_of(pod, tmp_path)
    folders.make()
    folders.complete(("10.0.0.9",))
    folders.container(pod.containers[0], "token")
    start = Start(image_id="i", ips=("10.0.0.9",), token="token")
    data, below, written, hosts, message = container_config(pod, pod.containers[0], node, start).mounts
    assert (Path(data.host_path) / "x" / "y").samefile(below.host_path)
    assert 0o777 == Path(data.host_path).stat().st_mode & 0o7777
    assert 'a="say \\"x\\""\nb="2"' == (Path(written.host_path) / "sub" / "labels").read_text()
    assert written.readonly
    assert Path(hosts.host_path).read_text().endswith("10.0.0.9\tpod\n")
    Path(message.host_path).write_text("last words")
    assert "last words" == folders.termination_message(pod.containers[0], "token", "", failed=False)
    folders.remove()
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_users_stay_outside(tmp_path: Path) -> None:
    """A Secret's file may be read by every user of a container, and by no other user of this machine."""
    folders, node = folders_of(pod_of([{"name": "d", "emptyDir": {}}]), tmp_path)
    folders.make()
    assert 0 == Path(node.root, "pods", "uid-1").stat().st_mode & 0o007


@pytest.mark.parametrize("kind", ["Directory", "File", "Socket", "CharDevice", "BlockDevice"])
def test_a_host_path_must_be_what_it_says(tmp_path: Path, kind: str) -> None:
    """A host path that is not of its type is refused by its path in the manifest."""
    folders, _ = folders_of(pod_of([{"name": "h", "hostPath": {"path": str(tmp_path / "no"), "type": kind}}]), tmp_path)
    with pytest.raises(InvalidArgument) as refused:
        folders.make()
    assert "spec.volumes[0].hostPath.type" == refused.value.field


def test_host_paths_are_created_and_stay(tmp_path: Path) -> None:
    """DirectoryOrCreate and FileOrCreate create missing paths, and no removal of the pod deletes them."""
    paths = {"DirectoryOrCreate": tmp_path / "folder", "FileOrCreate": tmp_path / "file"}
    volumes = [
        {"name": str(number), "hostPath": {"path": str(path), "type": kind}}
        for number, (kind, path) in enumerate(paths.items())
    ]
    folders, _ = folders_of(pod_of(volumes), tmp_path)
    folders.make()
    folders.remove()
    assert (True, True) == (paths["DirectoryOrCreate"].is_dir(), paths["FileOrCreate"].is_file())


def test_a_path_below_a_volume_stays_there(tmp_path: Path) -> None:
    """A subPath that a link would lead out of its volume is refused."""
    pod = pod_of([{"name": "d", "emptyDir": {}}], [{"name": "d", "mountPath": "/m", "subPath": "out/etc"}])
    folders, node = folders_of(pod, tmp_path)
    folders.make()
    link = Path(node.root) / "pods" / "uid-1" / "volumes" / "kubernetes.io~empty-dir" / "d" / "out"
    link.symlink_to("/")
    with pytest.raises(InvalidArgument):
        folders.container(pod.containers[0], "token")


def test_a_failed_containers_log_can_be_its_message(tmp_path: Path) -> None:
    """With FallbackToLogsOnError the message of a failed container without a message file is the end of its log."""
    pod = pod_of([])
    manifest_ = {"name": "main", "image": "i", "terminationMessagePolicy": "FallbackToLogsOnError"}
    other = parse(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [manifest_]}}, uid="u", seen=""
    )
    folders, _ = folders_of(pod, tmp_path)
    log = tmp_path / "0.log"
    log.write_text(
        "2026-01-01T00:00:00Z stdout P one \n2026-01-01T00:00:00Z stderr F two\n2026-01-01T00:00:00Z stdout F three\n"
    )
    assert "one two\nthree\n" == folders.termination_message(other.containers[0], "token", str(log), failed=True)
    assert "" == folders.termination_message(other.containers[0], "token", str(log), failed=False)
    assert "" == folders.termination_message(pod.containers[0], "token", str(log), failed=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and give away folders")
def test_memory_and_groups(tmp_path: Path) -> None:
    """A volume in memory is a mount of its own, where mounting is allowed; fsGroup owns the volumes."""
    pod = pod_of([{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}], securityContext={"fsGroup": 3000})
    folders, node = folders_of(pod, tmp_path)
    volume = Path(node.root) / "pods" / "uid-1" / "volumes" / "kubernetes.io~empty-dir" / "m"
    refused: CrishimError | None = None
    try:
        folders.make()
    except CrishimError as error:
        refused = error
    seen = is_mount_root(volume), volume.stat().st_gid, volume.stat().st_mode & 0o7777
    folders.remove()
    assert not volume.exists()
    if refused is None:
        assert (True, 3000, 0o2777) == seen
    else:
        assert refused.message.startswith("spec.volumes[0].emptyDir.medium")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_is_mounted_in_a_volume_is_not_deleted(tmp_path: Path) -> None:
    """What a container has mounted in its pod's volume, as bidirectional propagation lets it, loses the mount and no file."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folders, node = folders_of(pod_of([{"name": "m", "emptyDir": {}}]), tmp_path)
    folders.make()
    inner = Path(node.root) / "pods" / "uid-1" / "volumes" / "kubernetes.io~empty-dir" / "m" / "inner"
    inner.mkdir()
    mount(str(precious), inner, flags=MS_BIND)
    try:
        folders.remove()
        assert (True, False) == ((precious / "file").exists(), inner.exists())
    finally:
        unmount_below(tmp_path)
