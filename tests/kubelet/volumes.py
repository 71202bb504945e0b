"""Volumes that a standalone kubelet has, and what containers see of them. Config maps and secrets are in `cluster.py`."""

import subprocess

from tests.kubelet.checks import check
from tests.kubelet.world import KubeletNode


@check
def an_empty_dir(k: KubeletNode, pod: str) -> None:
    """Two containers share an emptyDir, which one of them cannot write where it is mounted for reading."""
    volumes = [{"name": "v", "emptyDir": {}}]
    writes = k.container("a", "echo hello > /v/file; sleep 600", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    script = "until cat /r/file; do usleep 100000; done; touch /r/other 2>&1 || echo read-only; sleep 600"
    reads = k.container("b", script, volumeMounts=[{"name": "v", "mountPath": "/r", "readOnly": True}])
    k.put(pod, writes, reads, volumes=volumes)
    log = k.says(pod, "b", "read-only\n")
    assert "hello\n" in log
    assert "Read-only file system" in log


@check
def an_empty_dir_over_a_restart(k: KubeletNode, pod: str) -> None:
    """What is in an emptyDir outlives the container's restart, what the container wrote elsewhere does not."""
    script = "ls /v /tmp; if test -e /v/file; then echo again; sleep 600; fi; touch /v/file /tmp/own; exit 1"
    mounts = [{"name": "v", "mountPath": "/v"}]
    k.put(pod, k.container("c", script, volumeMounts=mounts), volumes=[{"name": "v", "emptyDir": {}}])
    log = k.says(pod, "c", "again")
    assert "file" in log
    assert "own" not in log


@check
def an_empty_dir_in_memory(k: KubeletNode, pod: str) -> None:
    """An emptyDir of medium Memory is a tmpfs of the size that its limit says."""
    volumes = [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}]
    k.put(pod, k.container("c", "sleep 600", volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=volumes)
    k.running(pod, "c")
    (line,) = [line for line in k.ran(pod, "c", "cat /proc/mounts").splitlines() if line.split()[1] == "/v"]
    assert "tmpfs" == line.split()[2]
    assert "size=8192k" in line


@check
def host_paths(k: KubeletNode, pod: str) -> None:
    """A folder and a file of the host are mounted, and a missing folder is created if requested."""
    path, _, _ = k.share(pod)
    (path / "file").write_text("of the host\n")
    volumes = [
        {"name": "file", "hostPath": {"path": str(path / "file"), "type": "File"}},
        {"name": "made", "hostPath": {"path": str(path / "made"), "type": "DirectoryOrCreate"}},
    ]
    mounts = [{"name": "file", "mountPath": "/mnt/file"}, {"name": "made", "mountPath": "/mnt/made"}]
    k.put(pod, k.container("c", "cp /mnt/file /mnt/made/copy; sleep 600", volumeMounts=mounts), volumes=volumes)
    k.running(pod, "c")
    k.until((path / "made/copy").exists, "the container has written", 30, pod)
    k.until(lambda: (path / "made/copy").read_text() == "of the host\n", "the copy is whole", 30, pod)


@check
def parts_of_a_volume(k: KubeletNode, pod: str) -> None:
    """A subPath, and one with a variable, are parts of a volume; the rest of it is not visible."""
    path, volume, _ = k.share(pod)
    for name in ("one", pod):
        (path / name).mkdir()
        (path / name / "file").write_text(f"in {name}\n")
    env = [{"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]
    mounts = [
        {"name": "shared", "mountPath": "/a", "subPath": "one"},
        {"name": "shared", "mountPath": "/b", "subPathExpr": "$(APP)"},
        {"name": "shared", "mountPath": "/c/file", "subPath": "one/file"},
    ]
    script = "cat /a/file /b/file /c/file; ls /a; sleep 600"
    k.put(pod, k.container("c", script, env=env, volumeMounts=mounts), volumes=[volume], labels={"app": pod})
    assert ["in one", f"in {pod}", "in one", "file"] == k.says(pod, "c", "\nfile\n").splitlines()


@check
def the_downward_api(k: KubeletNode, pod: str) -> None:
    """A volume has the pod's labels and a container's limit in files (downwardAPI), and the environment has them as well."""
    limits = {"limits": {"memory": "32Mi", "cpu": "100m"}}
    limit = {"containerName": "c", "resource": "limits.memory"}
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "memory", "resourceFieldRef": limit},
    ]
    volumes = [{"name": "v", "downwardAPI": {"items": items, "defaultMode": 0o400}}]
    env = [{"name": "MEMORY", "valueFrom": {"resourceFieldRef": limit}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    script = "cat /v/labels; echo; cat /v/memory; echo; echo $MEMORY; sleep 600"
    main = k.container("c", script, env=env, resources=limits, volumeMounts=mounts)
    k.put(pod, main, volumes=volumes, labels={"app": "of-ours"})
    expected = ['app="of-ours"', "33554432", "33554432"]
    k.until(lambda: len(k.logged(pod, "c").splitlines()) > 2, "three lines", 60, pod)
    assert expected == k.logged(pod, "c").splitlines()


@check
def a_volume_of_a_group(k: KubeletNode, pod: str) -> None:
    """An emptyDir belongs to the pod's fsGroup, and a container of another user can write there as one of the group."""
    security = {"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4321, "supplementalGroups": [777]}
    script = "id -u; id -g; id -G; touch /v/file && stat -c %g /v/file; sleep 600"
    main = k.container("c", script, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    k.put(pod, main, volumes=[{"name": "v", "emptyDir": {}}], securityContext=security)
    k.until(lambda: len(k.logged(pod, "c").splitlines()) > 3, "four lines", 60, pod)
    user, group, groups, owner = k.logged(pod, "c").splitlines()
    assert ("1234", "1234", "4321") == (user, group, owner)
    assert {"1234", "777", "4321"} == set(groups.split())


@check
def mounts_that_come_later(k: KubeletNode, pod: str) -> None:
    """With HostToContainer, what the host mounts below a volume is seen in a container that runs already."""
    path, volume, mount = k.share(pod)
    (path / "later").mkdir()
    k.put(pod, k.container("c", "sleep 600", volumeMounts=[{**mount, "mountPropagation": "HostToContainer"}]), volumes=[volume])
    k.running(pod, "c")
    subprocess.run(["mount", "-t", "tmpfs", "later", path / "later"], check=True)
    try:
        (path / "later/file").write_text("there\n")
        assert "there\n" == k.ran(pod, "c", "cat /shared/later/file")
    finally:
        subprocess.run(["umount", path / "later"], check=True)


@check
def an_image_as_a_volume(k: KubeletNode, pod: str) -> None:
    """The files of an image are a volume (ImageVolume), and cannot be written."""
    volumes = [{"name": "v", "image": {"reference": f"{k.images}/data:1"}}]
    script = "cat /v/file; echo more >> /v/file || echo refused; sleep 600"
    k.put(pod, k.container("c", script, volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=volumes)
    assert "from an image\n" in k.says(pod, "c", "refused\n")
