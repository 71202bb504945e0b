"""Shims, both sides: ttrpc calls per second against Go's server and ours, finding 50 shims again after a restart, and our
shim server beside containerd's own shim (`bench/shim_server.py`).

Prints measurements of one machine; nothing is asserted. Needs root, containerd's shim, runc, busybox and catatonit.

    python -m bench.shim [ttrpc] [reconnect] [server]
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import bench.shim_server
from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.backends.shim import build
from crishim.errors import CrishimError
from crishim.interfaces.backend import BackendContext
from crishim.pods.namespaces import PinnedNamespaces
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.shimv2.wire.messages import NAMESPACE_KEY
from crishim.system import SystemClock
from crishim.testing.conformance.candidate import Candidate, World
from crishim.testing.roots import BusyboxRoots
from crishim.ttrpc.address import bound_socket
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server

TASK = "containerd.task.v2.Task"
METADATA = ((NAMESPACE_KEY, "bench"),)
SECONDS = 3.0
PODS = 50


@contextlib.asynccontextmanager
async def go_server(folder: Path) -> AsyncIterator[str]:
    """Containerd's shim with one created task `t`; its address."""
    root = folder / "b" / "rootfs"
    root.mkdir(parents=True)
    shutil.copy2(str(shutil.which("busybox")), root / "busybox")
    subprocess.run(["runc", "spec", "--bundle", root.parent], check=True)
    config = (root.parent / "config.json").read_text().replace('"sh"', '"/busybox", "sleep", "600"')
    (root.parent / "config.json").write_text(config.replace('"terminal": true', '"terminal": false'))
    os.mkfifo(root.parent / "log")
    log = os.open(root.parent / "log", os.O_RDWR | os.O_NONBLOCK)
    name = f"bench{os.getpid()}"
    command = ["containerd-shim-runc-v2", "-namespace", "bench", "-address", str(folder), "-id", name, "start"]
    environment = {**os.environ, "TTRPC_ADDRESS": ""}
    started = subprocess.run(command, cwd=root.parent, env=environment, stdout=subprocess.PIPE, check=True)
    address = started.stdout.decode().strip()
    client = await Client.connect(address)

    async def call(method: str, payload: bytes) -> None:
        await client.call(TASK, method, payload, metadata=METADATA)

    await call("Create", pb.CreateTaskRequest(id="t", bundle=str(root.parent)).SerializeToString())
    try:
        yield address
    finally:
        await call("Kill", pb.KillRequest(id="t", signal=9, all=True).SerializeToString())
        await call("Wait", pb.WaitRequest(id="t").SerializeToString())
        await call("Delete", pb.DeleteRequest(id="t").SerializeToString())
        with contextlib.suppress(CrishimError):
            await call("Shutdown", pb.ShutdownRequest(id="t").SerializeToString())
        await client.close()
        os.close(log)


@contextlib.asynccontextmanager
async def our_server(folder: Path) -> AsyncIterator[str]:
    """A process that answers State with the requested id; yields its address."""
    code = f"import asyncio, bench.shim; asyncio.run(bench.shim.answer({str(folder)!r}))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield f"unix://{folder}/s"
    finally:
        process.terminate()
        await process.wait()


async def answer(folder: str) -> None:
    """Be that process."""

    async def state(request: Request) -> bytes:
        query = pb.StateRequest.FromString(request.payload)
        return pb.StateResponse(id=query.id, bundle=folder, pid=1, status=types_pb.RUNNING).SerializeToString()

    server = Server({(TASK, "State"): state})
    await server.listen(bound_socket(Path(folder) / "s"))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def rate(address: str, callers: int) -> float:
    """State calls a second on one connection, by so many callers at once."""
    client = await Client.connect(address)
    payload = pb.StateRequest(id="t").SerializeToString()
    until = time.monotonic() + SECONDS

    async def caller() -> int:
        count = 0
        while time.monotonic() < until:
            pb.StateResponse.FromString(await client.call(TASK, "State", payload, timeout=10, metadata=METADATA))
            count += 1
        return count

    begun = time.monotonic()
    done = sum(await asyncio.gather(*(caller() for _ in range(callers))))
    spent = time.monotonic() - begun
    await client.close()
    return done / spent


async def ttrpc() -> None:
    """Calls per second."""
    for name, server in (("Go's server (containerd's shim)", go_server), ("ours", our_server)):
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with server(Path(folder)) as address:
                for callers in (1, 8):
                    print(f"State calls/s, our client, {name}, {callers} caller(s): {await rate(address, callers):.0f}")


async def reconnect() -> None:
    """Seconds until 50 pods, a container in each, are known again after a restart."""
    with tempfile.TemporaryDirectory(prefix="b") as name, contextlib.closing(PinnedNamespaces(Path(name) / "p")) as pins:
        folder = Path(name)
        context = BackendContext(
            state=folder / "state",
            runtime_state=folder / "r",
            clock=SystemClock(),
            rootfs=BusyboxRoots(folder / "roots"),
            namespaces=pins,
        )

        async def make(context: BackendContext) -> MeasuredPods:
            backend = build(context)
            assert isinstance(backend, MeasuredPods)
            return backend

        backend = await make(context)
        world = World(Candidate(make=make, context=context, scratch=folder / "scratch"), backend)
        await world.begin()
        begun = time.monotonic()
        for _ in range(PODS):
            await world.run(await world.sandbox(), world.programs.sleeps())
        print(f"starting {PODS} pods of one container, one after the other: {time.monotonic() - begun:.2f} s")
        runtime = backend._runtime  # noqa: SLF001 - no verb of a backend is a crash of ours
        assert isinstance(runtime, ShimRuntime)
        await runtime.detach()
        world.backend = await make(context)
        begun = time.monotonic()
        inventory = await world.backend.inventory()
        spent = time.monotonic() - begun
        running = sum(container.state.name == "RUNNING" for container in inventory.containers)
        print(f"finding {PODS} shims again after a restart ({running} containers running): {spent * 1000:.0f} ms")
        await world.tidy()


async def server() -> None:
    """Our shim server beside containerd's shim (`bench/shim_server.py`)."""
    await asyncio.to_thread(bench.shim_server.main)


PARTS = {"ttrpc": ttrpc, "reconnect": reconnect, "server": server}


def main() -> None:
    """Run the parts that are named, or all."""
    for part in sys.argv[1:] or PARTS:
        asyncio.run(PARTS[part]())


if __name__ == "__main__":
    main()
