"""The CPU of one status call in the server, beside servers that do nothing: what of it is ours, and what the stack costs.

Each server is a process of its own, and one client calls it in turn. Printed are microseconds of the server's CPU for each
call (the least of three rounds). `aio` is grpcio's asyncio server, which crishim uses, `sync` grpcio's with one thread,
`grpclib` a server in Python on h2; each answers with the bytes of a Version.

    python -m bench.rpc [--calls 4000]
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from crishim.cri import Dispatcher, pb
from crishim.server import serve
from crishim.testing import Harness

SERVICE: Final = "runtime.v1.RuntimeService"
ANSWER: Final = pb.VersionResponse(version="0.1.0", runtime_name="x", runtime_version="1", runtime_api_version="v1")
EMPTY: Final = ("aio", "sync", "grpclib")


async def ours(path: str) -> None:
    """Serve a pod and a container of the fake backend; print their ids."""
    async with Harness() as world:
        pod = await world.run_sandbox()
        container = await world.run_container(pod, "main", "sleep")
        async with serve(Dispatcher(world.services), path):
            print(pod, container, flush=True)
            await asyncio.Event().wait()


async def aio(path: str) -> None:
    """Grpcio on asyncio."""

    async def answer(*_: Any) -> bytes:
        return ANSWER.SerializeToString()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_methods(grpc.unary_unary_rpc_method_handler(answer)),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("-", "-", flush=True)
    await server.wait_for_termination()


def sync(path: str) -> None:
    """Grpcio with a thread."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: ANSWER.SerializeToString())
    server.add_generic_rpc_handlers((_methods(handler),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    print("-", "-", flush=True)
    server.wait_for_termination()


async def grpclib(path: str) -> None:
    """grpclib, with messages of protobuf."""
    from grpclib.const import Cardinality, Handler  # type: ignore[import-not-found,unused-ignore]
    from grpclib.server import Server  # type: ignore[import-not-found,unused-ignore]

    async def answer(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(ANSWER)

    class Service:
        def __mapping__(self) -> Any:
            return {f"/{SERVICE}/Version": Handler(answer, Cardinality.UNARY_UNARY, pb.VersionRequest, pb.VersionResponse)}

    server = Server([Service()])
    await server.start(path=path)
    print("-", "-", flush=True)
    await server.wait_closed()


def _methods(handler: Any) -> Any:
    return grpc.method_handlers_generic_handler(SERVICE, {"Version": handler})


@contextlib.contextmanager
def server(kind: str, folder: Path) -> Iterator[tuple[int, grpc.Channel, list[str]]]:
    """A server's process, a channel to it, and the ids that it printed."""
    path = folder / kind
    command = (sys.executable, "-m", "bench.rpc", "--serve", kind, str(path))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ids = process.stdout.readline().split()
        while not path.exists():
            time.sleep(0.01)
        with grpc.insecure_channel(f"unix:{path}") as channel:
            yield process.pid, channel, ids
    finally:
        process.kill()
        process.wait()


def cost(pid: int, channel: grpc.Channel, method: str, request: bytes, calls: int) -> float:
    """Microseconds of the server's CPU for one call."""
    call = channel.unary_unary(f"/{SERVICE}/{method}", bytes, bytes)
    for _ in range(calls // 10):
        call(request)
    rounds = []
    for _ in range(3):
        before = cpu(pid)
        for _ in range(calls):
            call(request)
        rounds.append((cpu(pid) - before) / calls * 1e6)
    return min(rounds)


def cpu(pid: int) -> float:
    """The seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, or be one of the servers."""
    parser = argparse.ArgumentParser(description="Measure the CPU of status calls.")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        kind, path = arguments.serve
        work = {"ours": ours, "aio": aio, "sync": sync, "grpclib": grpclib}[kind](path)
        if work is not None:
            asyncio.run(work)
        return
    with tempfile.TemporaryDirectory() as made:
        for kind in EMPTY:
            if kind == "grpclib" and importlib.util.find_spec("grpclib") is None:
                print("grpclib            left out: pip install grpclib")
                continue
            with server(kind, Path(made)) as (pid, channel, _):
                print(f"{kind:8} empty     {cost(pid, channel, 'Version', b'', arguments.calls):7.0f}")
        with server("ours", Path(made)) as (pid, channel, (pod, container)):
            for method, request in (
                ("Version", b""),
                ("Status", b""),
                ("ContainerStatus", pb.ContainerStatusRequest(container_id=container).SerializeToString()),
                ("PodSandboxStatus", pb.PodSandboxStatusRequest(pod_sandbox_id=pod).SerializeToString()),
                ("ListContainers", b""),
            ):
                print(f"crishim  {method:16} {cost(pid, channel, method, request, arguments.calls):5.0f}")


if __name__ == "__main__":
    main()
