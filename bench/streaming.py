"""What streams cost: exec, port-forward, first byte and idle sessions, over SPDY as crictl speaks it.

    python bench/streaming.py [--megabytes 100] [--rounds 3] [--idle 200]

Measures this library with its process backend, serving CRI in a process of its own, and beside it Debian's containerd with
runc, started for the run with its state in a temporary folder, when `containerd` and `ctr` are installed (`apt-get install
containerd runc`) and we are root. Both get requests over CRI for the same pod on the host's network and the same commands, and
the same client, a process of its own, times them in turn. Prints a table; every figure is the best of the rounds, but for the
first byte, which is the median. Nothing is asserted.
"""

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import grpc.aio

from crishim.cri import pb
from crishim.streaming.spdy_frames import FrameWriter, SynStream, encode_data_head

IMAGE = "bench.invalid/tools:1"
TOOLS = ("sh", "cat", "sleep", "head", "echo")
CHUNK = 32 * 1024  # what Go's io.Copy writes as one frame


# --- the client: one measurement a process, as `bench/streaming.py client WHAT URL...`; prints JSON ---


def dialled(url: str, protocol: str) -> socket.socket:
    """An upgraded connection."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 0\r\nConnection: Upgrade\r\n"
    connection.sendall(f"{head}Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    if b" 101 " not in answer.split(b"\r\n")[0]:
        raise RuntimeError(answer.decode())
    return connection


def opened(connection: socket.socket, *streams: dict[str, str]) -> None:
    """Open streams one by one, as Go's client does, and wait for each answer."""
    writer = FrameWriter()
    for number, headers in enumerate(streams):
        connection.sendall(writer.encode(SynStream(2 * number + 1, tuple(headers.items()))))
        _, second = struct.unpack(">II", exactly(connection, 8))
        exactly(connection, second & 0xFFFFFF)


def exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def kinds(*names: str) -> list[dict[str, str]]:
    """The headers of an exec's streams."""
    return [{"streamtype": name} for name in names]


def received(connection: socket.socket, wanted: int) -> None:
    """Read until so many bytes came, frames and all."""
    buffer = bytearray(1024 * 1024)
    while wanted > 0:
        count = connection.recv_into(buffer)
        if not count:
            raise EOFError
        wanted -= count


def sent(connection: socket.socket, stream_id: int, size: int) -> None:
    """Write so many bytes to a stream, end it, and read until the server is done with it."""
    frame = encode_data_head(stream_id, CHUNK) + bytes(CHUNK)
    for _ in range(size // CHUNK):
        connection.sendall(frame)
    connection.sendall(encode_data_head(stream_id, 0, fin=True))
    while connection.recv(64 * 1024):
        pass


def client(what: str, urls: Sequence[str], size: int, port: str) -> None:
    """Measure, and print the seconds that it took."""
    spent = []
    if what == "idle":
        connections = [dialled(url, "v4.channel.k8s.io") for url in urls]
        for connection in connections:
            opened(connection, *kinds("error", "stdin", "stdout"))
        print("ready", flush=True)
        sys.stdin.read()
        return
    for url in urls:
        connection = dialled(url, "portforward.k8s.io" if what == "forward" else "v4.channel.k8s.io")
        began = time.perf_counter()
        if what == "forward":
            opened(connection, *({"streamtype": name, "port": port, "requestid": "0"} for name in ("error", "data")))
            received(connection, size)
        elif what == "stdin":
            opened(connection, *kinds("error", "stdin", "stdout"))
            sent(connection, 3, size)
        else:
            opened(connection, *kinds("error", "stdout"))
            received(connection, size)
        spent.append(time.perf_counter() - began)
        connection.close()
    print(json.dumps(spent))


# --- the runtimes ---


@attrs.frozen
class Runtime:
    """A CRI endpoint with a running container in a pod on the host's network, and all that is its own in `folder`."""

    call: Any
    folder: Path
    sandbox_id: str
    container_id: str

    async def exec(self, *cmd: str, stdin: bool = False) -> str:
        """The URL of an exec."""
        request = pb.ExecRequest(container_id=self.container_id, cmd=cmd, stdin=stdin, stdout=True)
        return str((await self.call("Exec", request, pb.ExecResponse)).url)

    async def forward(self, port: int) -> str:
        """The URL of a port-forward."""
        request = pb.PortForwardRequest(pod_sandbox_id=self.sandbox_id, port=[port])
        return str((await self.call("PortForward", request, pb.PortForwardResponse)).url)

    def memory(self) -> int:
        """Bytes in memory of the daemon and its shims."""
        pages = (Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1] for pid in processes_of(self.folder))
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def processes_of(folder: Path) -> list[int]:
    """The processes that name this folder in their command lines: a daemon and its shims."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Runtime]:
    """The pod, and its end."""
    endpoint = folder / "cri.sock"
    async with grpc.aio.insecure_channel(f"unix:{endpoint}") as channel:
        wire: Any = channel

        async def call(method: str, request: Any, reply: Any) -> Any:
            service = "ImageService" if "Image" in method else "RuntimeService"
            unary = wire.unary_unary(
                f"/runtime.v1.{service}/{method}", lambda message: message.SerializeToString(), reply.FromString
            )
            return await unary(request, timeout=60, wait_for_ready=True)

        await call("Version", pb.VersionRequest(), pb.VersionResponse)
        image = pb.ImageSpec(image=IMAGE)
        if not (await call("ImageStatus", pb.ImageStatusRequest(image=image), pb.ImageStatusResponse)).HasField("image"):
            await call("PullImage", pb.PullImageRequest(image=image), pb.PullImageResponse)
        host = pb.NamespaceOption(network=pb.NODE)
        pod = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="bench", namespace="bench", uid="bench"),
            log_directory=str(endpoint.parent / "logs"),
            linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=host)),
        )
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="bench"),
            image=image,
            command=["sleep", "100000"],
            linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=host)),
        )
        sandbox_id = (await call("RunPodSandbox", pb.RunPodSandboxRequest(config=pod), pb.RunPodSandboxResponse)).pod_sandbox_id
        request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=pod)
        container_id = (await call("CreateContainer", request, pb.CreateContainerResponse)).container_id
        await call("StartContainer", pb.StartContainerRequest(container_id=container_id), pb.StartContainerResponse)
        try:
            yield Runtime(call, folder, sandbox_id, container_id)
        finally:
            await call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), pb.StopPodSandboxResponse)
            await call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), pb.RemovePodSandboxResponse)


async def serve(folder: Path) -> None:
    """This library's side, as `bench/streaming.py serve FOLDER`."""
    from crishim.backends.process import HostImages, ProcessBackend
    from crishim.cri import Dispatcher
    from crishim.interfaces.backend import BackendContext
    from crishim.server import serve as serve_cri
    from crishim.service.services import Services
    from crishim.streaming.server import StreamServer
    from crishim.system import SystemClock

    context = BackendContext(state=folder / "state", runtime_state=folder / "run", clock=SystemClock())
    backend, streams = ProcessBackend(context), StreamServer()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        images = HostImages(context)
        services = await stack.enter_async_context(Services(backends={"": backend}, images=images, urls=streams))
        await stack.enter_async_context(streams.serving(services.streams))
        await stack.enter_async_context(serve_cri(Dispatcher(services), folder / "cri.sock"))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def started(*command: str, log: Path) -> Iterator[None]:
    """A process; at the end its stdin is closed, and it is terminated if that does not end it."""
    with log.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output) as child:
        assert child.stdin is not None
        try:
            yield
        finally:
            child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            child.terminate()


def why_no_containerd() -> str:
    """What keeps containerd out of the run; empty when nothing does."""
    missing = [tool for tool in ("containerd", "ctr", "runc") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install containerd runc)"
    return "" if os.geteuid() == 0 else "containerd needs root"


@contextlib.contextmanager
def containerd(folder: Path) -> Iterator[None]:
    """Debian's containerd with everything of its own in `folder`, and the image in it."""
    config = folder / "containerd.toml"
    config.write_text(
        f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/cri.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
enable_selinux = false
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{folder}/cni"
""",
        encoding="ascii",
    )
    image = folder / "image.tar"
    write_image(image)
    with started("containerd", "--config", str(config), "--log-level", "warn", log=folder / "log"):
        ctr = ("ctr", "--address", f"{folder}/cri.sock", "--namespace", "k8s.io")
        for _ in range(100):
            if subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        subprocess.run([*ctr, "images", "import", "--snapshotter", "native", str(image)], check=True, capture_output=True)
        yield


def write_image(path: Path) -> None:
    """An image of this machine's own tools, as `docker save` writes one; it does nothing by default, like a pause."""
    files = {Path("/bin") / tool: Path(str(shutil.which(tool))) for tool in TOOLS}
    for tool in tuple(files.values()):
        listed = subprocess.run(["ldd", str(tool)], capture_output=True, text=True, check=False).stdout
        files.update({Path(name): Path(name) for name in re.findall(r"(/\S+) \(0x", listed)})
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for inside, outside in files.items():
            archive.add(outside.resolve(), str(inside).lstrip("/"))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": ["sleep", "100000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as archive:
        for inner, content in ((name, config), ("layer.tar", layer.getvalue()), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(inner)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


# --- the measurements ---


async def timed(what: str, urls: Sequence[str], size: int, port: int = 0) -> list[float]:
    """The seconds that a client of its own took for each URL."""
    command = (sys.executable, __file__, "client", what, str(size), str(port), *urls)
    child = await asyncio.create_subprocess_exec(*command, stdout=-1)
    output, _ = await child.communicate()
    return [float(seconds) for seconds in json.loads(output)]


async def idle_memory(runtime: Runtime, sessions: int) -> float:
    """Bytes of memory in the serving process for each exec session in which nothing moves."""
    urls = [await runtime.exec("cat", stdin=True) for _ in range(sessions)]
    before = runtime.memory()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "client", "idle", "0", "0", *urls, stdin=-1, stdout=-1
    )
    assert child.stdout is not None
    await child.stdout.readline()
    await asyncio.sleep(1)
    grown = runtime.memory() - before
    await child.communicate(b"")
    return grown / sessions


async def measured(runtime: Runtime, options: argparse.Namespace) -> dict[str, float]:
    """All measurements of one runtime."""
    size = options.megabytes * 1_000_000
    rounds = range(options.rounds)

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(size // CHUNK + 1):
                writer.write(bytes(CHUNK))
                await writer.drain()
            writer.close()

    listener = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    megabytes = size / 1e6
    results = {}
    zeros = f"head -c {size} /dev/zero"
    urls = [await runtime.exec("sh", "-c", f"{zeros} | cat") for _ in rounds]
    results["exec stdout, MB/s"] = megabytes / min(await timed("stdout", urls, size))
    urls = [await runtime.exec("sh", "-c", "cat > /dev/null", stdin=True) for _ in rounds]
    results["exec stdin, MB/s"] = megabytes / min(await timed("stdin", urls, size))
    async with listener:
        urls = [await runtime.forward(port) for _ in rounds]
        results["port-forward, MB/s"] = megabytes / min(await timed("forward", urls, size, port))
    urls = [await runtime.exec("echo", "x") for _ in range(30)]
    results["exec to its first byte, ms"] = statistics.median(await timed("stdout", urls, 10)) * 1000
    results["memory of an idle session, KiB"] = await idle_memory(runtime, options.idle) / 1024
    return results


async def main(options: argparse.Namespace) -> None:
    """Measure what can be measured, and print it."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        ours = Path(temporary) / "ours"
        ours.mkdir()
        with started(sys.executable, __file__, "serve", str(ours), log=ours / "log"):
            async with running(ours) as runtime:
                results["crishim"] = await measured(runtime, options)
        if reason := why_no_containerd():
            print(f"without containerd: {reason}\n")
        else:
            theirs = Path(temporary) / "theirs"
            theirs.mkdir()
            with containerd(theirs):
                async with running(theirs) as runtime:
                    results["containerd"] = await measured(runtime, options)
    print(f"{'':32}" + "".join(f"{name:>14}" for name in results) + ("         ratio" if len(results) == 2 else ""))
    for figure in results["crishim"]:
        row = [result[figure] for result in results.values()]
        ratio = f"{row[0] / row[1]:>14.2f}" if len(row) == 2 and row[1] else ""
        print(f"{figure:32}" + "".join(f"{value:>14.1f}" for value in row) + ratio)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2], sys.argv[5:], int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--megabytes", type=int, default=100)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--idle", type=int, default=50)
        asyncio.run(main(parser.parse_args()))
