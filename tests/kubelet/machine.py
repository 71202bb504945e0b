"""The node as a whole: growing logs, its disk, unused images, kubelet and server restarted in the middle."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crishim._proto import cri_pb2 as pb
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.model.image import ImageSpec
from tests.kubelet.checks import check, check_alone
from tests.kubelet.collector import Collector, collecting
from tests.kubelet.settings import GATES
from tests.kubelet.world import MIB, NAME, KubeletNode, LeftOut


def has_image(k: KubeletNode, name: str) -> bool:
    """Whether the runtime has an image."""
    return k.ask(lambda client: client.image_status(ImageSpec(image=f"{k.images}/{name}"))) is not None


@check
def logs_are_rotated(k: KubeletNode, pod: str) -> None:
    """A log above containerLogMaxSize is rotated, older ones are packed, and the container writes on into the new one."""
    k.put(pod, k.container("c", "n=0; while :; do n=$((n+1)); echo line $n of a log that grows; usleep 10000; done"))
    k.running(pod, "c")
    folder = k.logs / f"test_{pod}-{NAME}_{k.uid(pod)}" / "c"

    def rotated() -> bool:
        names = [path.name for path in folder.iterdir()]
        return any(name.endswith(".gz") for name in names) and sum(name.startswith("0.log.") for name in names) > 1

    k.until(rotated, "the log is rotated twice", 90)
    number = int(k.logged(pod, "c", tailLines=1).split()[1])
    k.until(lambda: int((k.logged(pod, "c", tailLines=1).split() or ["", "0"])[1]) > number, "the log goes on", 30)
    assert 0 == k.status(pod, "c")["restartCount"]


@check
def more_than_its_share_of_the_disk(k: KubeletNode, pod: str) -> None:
    """The kubelet finds a container that is over its limit of ephemeral storage, and would evict it were it no static pod."""
    resources = {"limits": {"ephemeral-storage": "4Mi"}}
    script = "dd if=/dev/zero of=/file bs=1M count=9; sync; sleep 600"
    k.put(pod, k.container("c", script, resources=resources))
    k.running(pod, "c")

    def found() -> bool:
        lines = [line for line in k.log().splitlines() if f"{pod}-{NAME}" in line and "cannot evict a critical pod" in line]
        return bool(lines)

    k.until(found, "the kubelet wants to evict the pod", 90)
    assert "running" in k.status(pod, "c")["state"]


@check_alone
def the_kubelet_is_restarted(k: KubeletNode, pod: str) -> None:
    """A restarted kubelet continues with the running containers: same ids, no restart, and changes in the meantime applied."""
    for name in (pod, f"{pod}--gone"):
        k.put(name, k.container("c", "n=0; while :; do n=$((n+1)); echo line $n; usleep 200000; done"))
        k.running(name, "c")
    before = k.id_of(pod, "c")
    k.stop()
    (k.manifests / f"{pod}--gone.json").unlink()
    k.put(f"{pod}--new", k.container("c"))
    k.start()
    k.running(f"{pod}--new", "c")
    k.until(lambda: k.pod(f"{pod}--gone") is None, "the pod without a manifest is gone", 60)
    k.until(lambda: not k.sandboxes(f"{pod}--gone"), "the runtime has no pod of that name", 120)
    k.running(pod, "c")
    assert (before, 0) == (k.id_of(pod, "c"), k.status(pod, "c")["restartCount"])


@check_alone
def subpaths_without_a_kubelet(k: KubeletNode, pod: str) -> None:
    """A pod removed while there is no kubelet leaves the mounts of its subPaths in no mount namespace but the kubelet's own.

    There they stay, with containerd as well: a restarted kubelet finds volumes by the folder `volumes` of the pod, in which a
    hostPath has no entry (https://github.com/kubernetes/kubernetes/issues/61446). When we have unmounted them, the kubelet
    removes the pod's folder.
    """
    path, volume, _ = k.share(pod)
    (path / "folder").mkdir()
    (path / "file").touch()
    mounts = [{"name": "shared", "mountPath": f"/{name}", "subPath": name} for name in ("folder", "file")]
    k.put(pod, k.container("c", volumeMounts=mounts), volumes=[volume])
    k.running(pod, "c")
    folder = k.place / "root/pods" / k.uid(pod)
    assert {f"{folder}/volume-subpaths/shared/c/{number}" for number in (0, 1)} == {one.path for one in mounts_below(folder)}
    k.stop()
    (k.manifests / f"{pod}.json").unlink()
    k.start()
    k.until(lambda: pb.SANDBOX_READY not in k.sandboxes(pod), "the pod is stopped", 60)
    assert set() == namespaces_with(folder) - k.mount_namespaces()
    unmount_below(folder)
    k.until(lambda: not folder.exists(), "the kubelet has removed the pod's folder", 60)


def namespaces_with(folder: Path) -> set[Path]:
    """The mount namespaces of all processes of this machine that have a mount in a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if f" {folder}/" in (process / "mountinfo").read_text(errors="surrogateescape"):
                found.add((process / "ns/mnt").readlink())
    return found


@check_alone
def the_kubelet_is_killed(k: KubeletNode, pod: str) -> None:
    """A container that ends while there is no kubelet is started again by the next one, which finds its exit code."""
    k.put(pod, k.container("c", "trap 'exit 6' TERM; while :; do usleep 100000; done"))
    k.running(pod, "c")
    container = k.id_of(pod, "c")
    k.stop(signal.SIGKILL)
    k.signal(container, signal.SIGTERM)
    k.start()
    status = k.restarted(pod, "c")
    k.running(pod, "c")
    assert 6 == status["lastState"]["terminated"]["exitCode"]


@check_alone
def the_server_is_killed(k: KubeletNode, pod: str) -> None:
    """A killed and restarted server has the same containers; probes, logs and exec continue, new pods run."""
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    k.put(pod, k.container("c", "n=0; while :; do n=$((n+1)); echo line $n; usleep 100000; done", livenessProbe=probe))
    k.running(pod, "c")
    before = k.id_of(pod, "c")
    k.node.kill()
    k.node.start()
    k.put(f"{pod}--new", k.container("c"))
    k.running(f"{pod}--new", "c")
    last = k.logged(pod, "c", tailLines=1)
    k.until(lambda: k.logged(pod, "c", tailLines=1) != last, "the log goes on", 30)
    assert "hello\n" == k.ran(pod, "c", "echo hello")
    assert (before, 0) == (k.id_of(pod, "c"), k.status(pod, "c")["restartCount"])


@check_alone
def an_end_without_a_server(k: KubeletNode, pod: str) -> None:
    """A container that ends while there is no server is restarted when there is one, with its exit code in the status."""
    k.put(pod, k.container("c", "trap 'exit 9' TERM; while :; do usleep 100000; done"))
    k.running(pod, "c")
    container = k.id_of(pod, "c")
    k.node.kill()
    k.signal(container, signal.SIGTERM)
    k.node.start()
    status = k.restarted(pod, "c")
    assert 9 == status["lastState"]["terminated"]["exitCode"]


@check_alone
def events_of_containers(k: KubeletNode, pod: str) -> None:
    """A kubelet that reads container events (EventedPLEG) sees containers start and end by them, also of a server restarted."""
    k.stop()
    k.start(featureGates={**GATES, "EventedPLEG": True})
    try:
        for server in ("first", "second"):
            k.put(f"{pod}--{server}", k.container("c", "exit 0"), restartPolicy="Never")
            k.phase(f"{pod}--{server}", "Succeeded")
            k.node.kill(signal.SIGTERM)
            k.node.start()
        connected = re.search(r"kubelet_evented_pleg_connection_success_count (\d+)", k.get("/metrics").text)
        assert connected is not None
        assert 1 <= int(connected[1])
    finally:
        k.stop()
        k.start()


@check_alone
def events_and_init_containers(k: KubeletNode, pod: str) -> None:
    """With EventedPLEG the kubelet runs init containers as it does without."""
    raise LeftOut(
        "init containers with EventedPLEG: kubelet 1.37 starts them again and again, with every runtime that has events"
    )


@check_alone
def the_server_is_stopped(k: KubeletNode, pod: str) -> None:
    """Over a server that was stopped and restarted a pod runs to its end."""
    k.node.kill(signal.SIGTERM)
    k.node.start()
    k.put(pod, k.container("c", "exit 0"), restartPolicy="Never")
    k.phase(pod, "Succeeded")


@check_alone
def both_are_killed(k: KubeletNode, pod: str) -> None:
    """Kubelet and server that are killed at once find all as it was."""
    names = [f"{pod}--{number}" for number in range(4)]
    for name in names:
        k.put(name, k.container("c"))
    for name in names:
        k.running(name, "c")
    before = {name: k.id_of(name, "c") for name in names}
    k.stop(signal.SIGKILL)
    k.node.kill()
    k.node.start()
    k.start()
    for name in names:
        k.running(name, "c")
    assert before == {name: k.id_of(name, "c") for name in names}


@check_alone
def unused_images(k: KubeletNode, pod: str) -> None:
    """A kubelet that finds its disk too full removes the images that no container uses, and no other.

    It does so at once for its eviction thresholds, minutes after its start for those of images. The thresholds are reserved:
    it does not start with as much as the disk has. An age of 0 is its default.
    """
    disk = os.statvfs(k.node.place)
    threshold = str(disk.f_blocks * disk.f_frsize - MIB)  # of bytes that are free: the images alone are more than the rest
    k.put(pod, k.container("c", image="unused:1"))
    k.put(f"{pod}--stays", k.container("c"))
    k.running(pod, "c")
    k.running(f"{pod}--stays", "c")
    k.take_away(pod)
    k.until(lambda: not k.sandboxes(pod), "the runtime has the pod no more", 120)
    assert (True, True) == (has_image(k, "box:1"), has_image(k, "unused:1"))
    k.stop()
    k.start(evictionHard={"nodefs.available": threshold, "imagefs.available": threshold}, imageMinimumGCAge="1s")
    try:
        k.until(lambda: not has_image(k, "unused:1"), "the image is removed", 90)
        assert has_image(k, "box:1")
        k.running(f"{pod}--stays", "c")
    finally:
        k.stop()
        k.start()


@contextlib.contextmanager
def traced(k: KubeletNode) -> Iterator[Collector]:
    """Server and kubelet, both restarted, send all their spans to a collector inside the `with`."""
    config = k.node.place / "crishim.toml"
    text = config.read_text()

    def restart(text: str, **changed: Any) -> None:
        k.stop()
        k.node.kill(signal.SIGTERM)
        config.write_text(text)
        k.node.start()
        k.start(**changed)

    with collecting() as collector:
        try:
            section = f'[tracing]\nendpoint = "http://{collector.address}"\nsampling = 1.0\n'
            restart(text + section, tracing={"endpoint": collector.address, "samplingRatePerMillion": 1_000_000})
            yield collector
        finally:
            restart(text)


@check_alone
def a_trace_of_a_pod(k: KubeletNode, pod: str) -> None:
    """The kubelet's sync of a pod, its calls of CRI, the server's verbs and commands for them are one trace."""
    with traced(k) as collector:
        k.put(pod, k.container("c"))
        k.running(pod, "c")

        def above(end: str) -> list[tuple[str, str]]:
            """The spans above this pod's span whose name ends so, up to the root; none before all of them have arrived."""
            for way in [collector.upwards(span) for span in list(collector.spans.values()) if span.name.endswith(end)]:
                if not way[-1].parent and way[-1].attributes.get("k8s.pod.name") == f"{pod}-{NAME}":
                    return [(span.service, span.name.rpartition("/")[2]) for span in way[1:]]
            return []

        create = k.until(lambda: above(" create"), "the trace of the runtime's create has arrived")
        add = k.until(lambda: above("cni ADD bridge"), "the trace of the network's ADD has arrived")
    assert [
        ("crishim", "backend create_container"),
        ("crishim", "CreateContainer"),
        ("kubelet", "CreateContainer"),
        ("kubelet", "syncPod"),
    ] == create
    assert [
        ("crishim", "network"),
        ("crishim", "RunPodSandbox"),
        ("kubelet", "RunPodSandbox"),
        ("kubelet", "syncPod"),
    ] == add


@check_alone
def nothing_is_left(k: KubeletNode, pod: str) -> None:
    """When all pods are gone, no container, mount, address, process or folder of any is left."""
    for manifest in k.manifests.glob("*.json"):
        manifest.unlink()
    k.until(lambda: not (json.loads(k.get("/pods").body)["items"] or []), "the kubelet has no pod", 90)
    k.until(lambda: not k.ask(lambda client: client.list_sandboxes({})), "the runtime has no pod", 90)
    k.until(lambda: not k.pod_folders(), "the kubelet has removed the pods' folders", 90)
    k.stop()
    left = k.left()
    assert not left, left
