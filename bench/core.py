"""What the library itself costs: no engine, only the fake backend.

Prints times and sizes of one run on one machine; nothing is asserted. Figures that depend on the machine are put beside an
empty call of the same server in the same run.

    python bench/core.py
"""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio

from crishim.cri import Dispatcher, pb
from crishim.server import serve
from crishim.testing import Harness
from crishim.testing.harness import IMAGE

PODS = 250
LIMITS = [("grpc.max_receive_message_length", 16 << 20)]


def labels(pod: int, container: str = "") -> dict[str, str]:
    """The labels that every pod of a node has."""
    values = {
        "io.kubernetes.pod.name": f"pod-{pod}",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": f"00000000-0000-0000-0000-{pod:012d}",
    }
    return {**values, "io.kubernetes.container.name": container} if container else values


ANNOTATIONS = {
    "io.kubernetes.container.hash": "5f2b3c4d",
    "io.kubernetes.container.restartCount": "0",
    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
    "io.kubernetes.container.terminationMessagePolicy": "File",
    "io.kubernetes.pod.terminationGracePeriod": "30",
}


def sandbox_config(pod: int) -> pb.PodSandboxConfig:
    """A sandbox as the kubelet asks for one."""
    metadata = pb.PodSandboxMetadata(name=f"pod-{pod}", namespace="default", uid=f"00000000-0000-0000-0000-{pod:012d}")
    return pb.PodSandboxConfig(metadata=metadata, hostname=f"pod-{pod}", labels=labels(pod), annotations={"seen": "2026"})


async def start_pod(dispatch: Dispatcher, pod: int, containers: int = 1) -> list[float]:
    """One pod with its containers; the seconds of each call."""
    spent = []

    async def timed(request: Any) -> Any:
        begin = time.perf_counter()
        reply = await dispatch(request)
        spent.append(time.perf_counter() - begin)
        return reply

    config = sandbox_config(pod)
    sandbox = await timed(pb.RunPodSandboxRequest(config=config))
    for number in range(containers):
        name = f"container-{number}"
        container_config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=IMAGE),
            command=["sleep"],
            labels=labels(pod, name),
            annotations=ANNOTATIONS,
            log_path=f"{name}/0.log",
        )
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox.pod_sandbox_id, config=container_config, sandbox_config=config
        )
        container = await timed(request)
        await timed(pb.StartContainerRequest(container_id=container.container_id))
    return spent


def percentile(values: list[float], part: float) -> float:
    """The value below which `part` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def pod_starts() -> None:
    """The library's own time for a pod's start, with many pods present."""
    async with Harness() as world:
        dispatch = Dispatcher(world.services, observe=lambda _: None)
        for pod in range(PODS):
            await start_pod(dispatch, pod)
        sums = [sum(await start_pod(dispatch, PODS + pod)) for pod in range(500)]
        p50, p99 = percentile(sums, 0.5) * 1e3, percentile(sums, 0.99) * 1e3
        print(f"Run + Create + Start with {PODS} pods present: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


async def cpu_per_call(path: Path, name: str, request: Any, calls: int, pid: int) -> float:
    """CPU seconds of the server process per call."""
    async with grpc.aio.insecure_channel(f"unix:{path}", options=LIMITS) as channel:
        method = channel.unary_unary(
            f"/runtime.v1.RuntimeService/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: data,
        )
        for _ in range(20):
            await method(request)
        before = cpu_of(pid)
        for _ in range(calls):
            await method(request)
        return (cpu_of(pid) - before) / calls


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


async def lists() -> None:
    """Server CPU of ListContainers above that of an empty call, over the socket; the quietest of nine rounds of each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cri.sock"
        for count in (500, 1000):
            server = subprocess.Popen([sys.executable, __file__, "serve", str(path), str(count)], stdout=subprocess.PIPE)
            assert server.stdout is not None
            server.stdout.readline()
            empty = min([await cpu_per_call(path, "Version", pb.VersionRequest(), 200, server.pid) for _ in range(9)])
            full = min(
                [await cpu_per_call(path, "ListContainers", pb.ListContainersRequest(), 200, server.pid) for _ in range(9)]
            )
            print(
                f"ListContainers of {count}: {full * 1e6:.0f} us of server CPU, {(full - empty) * 1e6:.0f} us above an empty"
                f" call ({empty * 1e6:.0f} us), {full / empty:.2f} times as much"
            )
            server.terminate()
            server.wait()


async def serve_containers(path: str, count: int) -> None:
    """A server with `count` containers, for another process to measure."""
    async with Harness() as world:
        dispatch = Dispatcher(world.services, observe=lambda _: None)
        for pod in range(count // 2):
            await start_pod(dispatch, pod, containers=2)
        async with serve(dispatch, path):
            print("ready", flush=True)
            await asyncio.Event().wait()


def imports() -> None:
    """What `import crishim` costs beside Python itself."""
    rows = {}
    for name, code in {"python": "pass", "import crishim": "import crishim", "crishim.cri": "import crishim.cri"}.items():
        times, sizes = [], []
        for _ in range(7):
            begin = time.perf_counter()
            script = f"{code}\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            times.append(time.perf_counter() - begin)
            sizes.append(int(done.stdout))
        rows[name] = statistics.median(times) * 1e3, statistics.median(sizes) / 1024
    for name, (milliseconds, mebibytes) in rows.items():
        base = rows["python"]
        print(
            f"{name}: {milliseconds:.0f} ms ({milliseconds - base[0]:+.1f}), {mebibytes:.1f} MiB ({mebibytes - base[1]:+.1f})"
        )


def daemon() -> None:
    """The resident size of a server with 250 pods of two containers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cri.sock"
        server = subprocess.Popen([sys.executable, __file__, "serve", str(path), "500"], stdout=subprocess.PIPE)
        assert server.stdout is not None
        server.stdout.readline()
        status = Path(f"/proc/{server.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        print(f"server with 250 pods x 2 containers: {resident / 1024:.1f} MiB resident")
        server.terminate()
        server.wait()


def main() -> None:
    """Everything, or the server that the rest measures."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve_containers(sys.argv[2], int(sys.argv[3])))
        return
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    imports()
    asyncio.run(pod_starts())
    asyncio.run(lists())
    daemon()
    print(f"this script's own peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
