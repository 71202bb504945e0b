"""What the kubelet's own API gives: streams, logs, statistics, metrics."""

import asyncio
import json
import re
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.kubelet.apiserver import NAMESPACE, Spec
from tests.kubelet.checks import check
from tests.kubelet.settings import GATES
from tests.kubelet.world import NAME, KubeletNode, LeftOut
from tests.node.registry import Layout
from tests.streaming.spdy_client import spdy
from tests.streaming.websocket_client import websocket

V5: Final = "v5.channel.k8s.io"


def within(seconds: float, work: Coroutine[Any, Any, bytes]) -> bytes:
    """What the work gives."""

    async def bounded() -> bytes:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(bounded())


@check
def run_a_command(k: KubeletNode, pod: str) -> None:
    """/run gives the output of a command in the container, and an error where it fails."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    assert "hello there\n" == k.ran(pod, "c", "echo hello there")
    failed = k.request("POST", f"/run/test/{pod}-{NAME}/c", cmd="cat /nothing")
    assert HTTPStatus.INTERNAL_SERVER_ERROR == failed.status
    assert "can't open '/nothing'" in failed.text


@check
def exec_by_websocket(k: KubeletNode, pod: str) -> None:
    """/exec by WebSocket passes standard input on until it is closed, and gives the output and the exit code."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    query = urlencode({"command": ["sh", "-c", "cat; exit 3"], "input": 1, "output": 1, "error": 1}, doseq=True)

    async def talk() -> bytes:
        url = f"https://127.0.0.1:{k.port}/exec/test/{pod}-{NAME}/c?{query}"
        async with websocket(url, V5, tls=k.tls()) as client:
            await client.send(b"\x00hello\n")
            await client.send(b"\xff\x00")  # close of channel 0
            await client.until(3, b"}")
            return client.channel(1) + client.channel(3)

    said = within(60, talk()).decode()
    assert said.startswith("hello\n")
    assert {"reason": "ExitCode", "message": "3"} in json.loads(said.removeprefix("hello\n"))["details"]["causes"]


@check
def exec_by_spdy(k: KubeletNode, pod: str) -> None:
    """/exec by SPDY, as older clients speak it, gives the output of a command."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    query = urlencode({"command": ["echo", "hello"], "output": 1}, doseq=True)

    async def talk() -> bytes:
        async with spdy(f"https://127.0.0.1:{k.port}/exec/test/{pod}-{NAME}/c?{query}", tls=k.tls()) as client:
            streams = {name: await client.open(streamtype=name) for name in ("error", "stdout")}
            return await streams["stdout"].all()

    assert b"hello\n" == within(60, talk())


@check
def attach(k: KubeletNode, pod: str) -> None:
    """/attach gives what a running container writes from then on."""
    k.put(pod, k.container("c", "while :; do echo tick; usleep 300000; done"))
    k.running(pod, "c")

    async def talk() -> bytes:
        url = f"https://127.0.0.1:{k.port}/attach/test/{pod}-{NAME}/c?output=1"
        async with websocket(url, V5, tls=k.tls()) as client:
            await client.until(1, b"tick\ntick\n")
            return client.channel(1)

    assert b"tick\ntick\n" in within(60, talk())


@check
def logs_in_part(k: KubeletNode, pod: str) -> None:
    """/containerLogs returns the requested last lines, number of bytes, and times."""
    k.put(pod, k.container("c", "for n in 1 2 3 4; do echo line $n; done; sleep 600"))
    k.says(pod, "c", "line 4")
    assert "line 3\nline 4\n" == k.logged(pod, "c", tailLines=2)
    assert "line 1\n" == k.logged(pod, "c", limitBytes=7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+ line 4\n", k.logged(pod, "c", tailLines=1, timestamps="true"))


@check
def logs_that_are_followed(k: KubeletNode, pod: str) -> None:
    """/containerLogs with follow gives what is written until the container ends, to its last line."""
    k.put(pod, k.container("c", "for n in 1 2 3; do echo line $n; usleep 500000; done"), restartPolicy="Never")
    k.until(lambda: "containerID" in k.status(pod, "c"), "the container is started", 60, pod)
    assert "line 1\nline 2\nline 3\n" == k.logged(pod, "c", follow="true")


@check
def a_checkpoint(k: KubeletNode, pod: str) -> None:
    """/checkpoint writes a container's archive (ContainerCheckpoint); a pod of an image made of it counts on from there."""
    k.put(pod, k.container("c", "n=0; while :; do n=$((n+1)); echo $n; usleep 100000; done"))
    k.says(pod, "c", "5\n")
    before = int(k.logged(pod, "c", tailLines=1))
    reply = k.request("POST", f"/checkpoint/{NAMESPACE}/{pod}-{NAME}/c")
    if "code = Unimplemented" in reply.text:
        raise LeftOut(f"checkpoints: {reply.text.rpartition('desc = ')[2].rstrip(')')}")
    assert HTTPStatus.OK == reply.status, reply.text
    (archive,) = json.loads(reply.body)["items"]
    k.until(lambda: int(k.logged(pod, "c", tailLines=1)) > before + 3, "the container counts on", 30)
    k.take_away(pod)
    layout = Layout(k.place / pod)
    layout.image([Path(archive).read_bytes()], tag="one", annotations={"org.criu.checkpoint.container.name": "c"})
    image = k.registry.push(layout, "one", f"test/{pod}:1")
    k.put(f"{pod}--again", {"name": "c", "image": image})
    k.running(f"{pod}--again", "c")
    k.until(lambda: k.logged(f"{pod}--again", "c").count("\n") > 3, "the restored container counts on", 30)
    first = int(k.logged(f"{pod}--again", "c").split()[0])
    assert before <= first <= before + 30


def summary_of(k: KubeletNode, pod: str) -> Spec:
    """A pod in /stats/summary, read by the port without authentication."""
    pods = json.loads(k.get_read_only("/stats/summary").body)["pods"] or []
    return next((one for one in pods if one["podRef"]["name"] == f"{pod}-{NAME}"), {})


@check
def statistics(k: KubeletNode, pod: str) -> None:
    """/stats/summary has a pod's processor time, memory, network and processes, and each container's (from CRI)."""
    k.put(pod, k.container("c", "while :; do :; done", resources={"limits": {"memory": "32Mi", "cpu": "100m"}}))
    k.running(pod, "c")

    def complete() -> Spec:
        found = summary_of(k, pod)
        (container,) = found.get("containers") or [{}]
        parts = [found.get("cpu", {}).get("usageCoreNanoSeconds"), found.get("memory", {}).get("workingSetBytes")]
        parts += [container.get("cpu", {}).get("usageNanoCores"), container.get("memory", {}).get("workingSetBytes")]
        parts += [found.get("process_stats", {}).get("process_count"), found.get("network", {}).get("interfaces")]
        return found if all(parts) else {}

    found = k.until(complete, "the statistics of the pod are complete", 90)
    assert "c" == found["containers"][0]["name"]
    assert "eth0" in {one["name"] for one in found["network"]["interfaces"]}


@check
def what_is_on_the_disk(k: KubeletNode, pod: str) -> None:
    """/stats/summary has the bytes of a container's own files, of its log and of its volumes, and the pod's sum of them."""
    mib = 1 << 20
    script = "dd if=/dev/zero of=/file bs=1M count=3; dd if=/dev/zero of=/v/file bs=1M count=5; sync; sleep 600"
    mounts = [{"name": "v", "mountPath": "/v"}]
    k.put(pod, k.container("c", script, volumeMounts=mounts), volumes=[{"name": "v", "emptyDir": {}}])
    k.running(pod, "c")

    def complete() -> bool:
        found = summary_of(k, pod)
        (container,) = found.get("containers") or [{}]
        volume = next((one["usedBytes"] for one in found.get("volume", []) if one["name"] == "v"), 0)
        own = container.get("rootfs", {}).get("usedBytes", 0)
        whole = found.get("ephemeral-storage", {}).get("usedBytes", 0)
        return own >= 3 * mib and volume >= 5 * mib and container["logs"]["usedBytes"] > 0 and whole >= 8 * mib

    k.until(complete, "the statistics have what was written", 90)


@check
def metrics_of_containers(k: KubeletNode, pod: str) -> None:
    """/metrics/cadvisor has a container's metrics, which come from the runtime (ListPodSandboxMetrics)."""
    k.put(pod, k.container("c", "sleep 600", resources={"limits": {"memory": "32Mi", "cpu": "100m"}}))
    k.running(pod, "c")
    names = (
        *("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_spec_memory_limit_bytes"),
        *("container_processes", "container_fs_usage_bytes"),
    )

    def of_this() -> bool:
        text = k.get_read_only("/metrics/cadvisor").text
        lines = [line for line in text.splitlines() if f'pod="{pod}-{NAME}"' in line and 'container="c"' in line]
        return set(names) <= {line.partition("{")[0] for line in lines}

    k.until(of_this, f"{names} of the container", 60)


@check
def metrics_of_resources(k: KubeletNode, pod: str) -> None:
    """/metrics/resource has each container's and each pod's processor time and memory."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    names = {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "pod_memory_working_set_bytes"}

    def of_this() -> bool:
        lines = [line for line in k.get("/metrics/resource").text.splitlines() if f'pod="{pod}-{NAME}"' in line]
        return names <= {line.partition("{")[0] for line in lines}

    k.until(of_this, f"{names} of the pod", 90)


@check
def features(k: KubeletNode, pod: str) -> None:
    """The kubelet runs with the requested features, and has the cgroup driver that the runtime names."""
    config = json.loads(k.get("/configz").body)["kubeletconfig"]
    assert GATES == {name: config["featureGates"].get(name) for name in GATES}
    assert ("systemd" if k.node.systemd else "cgroupfs") == config["cgroupDriver"]


@check
def lists_by_streams(k: KubeletNode, pod: str) -> None:
    """The kubelet lists containers and pods by streams (CRIListStreaming), and never by ListContainers."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    called = " ".join(k.metrics_of("crishim_rpcs_total"))
    assert "StreamContainers" in called
    assert "StreamPodSandboxes" in called
    assert '"ListContainers"' not in called
