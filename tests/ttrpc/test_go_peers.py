"""Go's ttrpc at the other end: containerd's own shim, as our server and as our client."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim._proto import shim_events_pb2 as events
from crishim._proto import shim_task_pb2 as task
from crishim.errors import Code, Unavailable
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.frames import HEADER, MAX_DATA
from crishim.ttrpc.status import TtrpcError
from tests.backends.runc.world import needs
from tests.ttrpc.world import serving

SHIM = "containerd-shim-runc-v2"
TASK = "containerd.task.v2.Task"

pytestmark = [pytest.mark.node, needs(SHIM, "runc", "busybox")]


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    """A bundle of a busybox that exits with 7, created by `runc spec`."""
    folder = tmp_path / "b"
    (folder / "rootfs").mkdir(parents=True)
    shutil.copy2(str(shutil.which("busybox")), folder / "rootfs" / "busybox")
    subprocess.run(["runc", "spec", "--bundle", folder], check=True)
    config = (folder / "config.json").read_text().replace('"sh"', '"/busybox", "sh", "-c", "exit 7"')
    (folder / "config.json").write_text(config.replace('"terminal": true', '"terminal": false'))
    os.mkfifo(folder / "log")
    reader = os.open(folder / "log", os.O_RDWR | os.O_NONBLOCK)
    yield folder
    os.close(reader)


def start_shim(bundle: Path, name: str, events_address: str) -> str:
    command = [SHIM, "-namespace", "crishim-test", "-address", f"{bundle}/c", "-id", name, "start"]
    environment = {**os.environ, "TTRPC_ADDRESS": events_address.removeprefix("unix://")}
    done = subprocess.run(command, cwd=bundle, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


async def shut_down(client: Client, name: str) -> None:
    """Ask the shim to end until it does; it may answer before it closes its socket."""
    with contextlib.suppress(Unavailable):
        while True:
            await client.call(TASK, "Shutdown", task.ShutdownRequest(id=name).SerializeToString(), timeout=30)


def clear_away(name: str, shim: int) -> None:
    """End what a test that failed has left."""
    if shim:
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, signal.SIGKILL)
    command = ["runc", "--root=/run/containerd/runc/crishim-test", "delete", "--force", name]
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


async def test_a_whole_life(bundle: Path, tmp_path: Path) -> None:
    """Go's server takes our calls, Go's client calls our server with its events, and a refusal has its code."""
    topics: list[str] = []

    async def forward(request: Request) -> bytes:
        topics.append(events.ForwardRequest.FromString(request.payload).envelope.topic)
        return b""

    name = f"go-{os.getpid()}"
    async with serving(tmp_path, {("containerd.services.events.ttrpc.v1.Events", "Forward"): forward}) as address:
        client = await Client.connect(start_shim(bundle, name, address))
        shim = task.ConnectResponse()
        try:

            async def call(method: str, payload: bytes) -> bytes:
                metadata = (("containerd-namespace-ttrpc", "crishim-test"),)
                return await client.call(TASK, method, payload, timeout=30, metadata=metadata)

            with pytest.raises(TtrpcError) as unknown:
                await call("State", task.StateRequest(id=name).SerializeToString())
            with pytest.raises(TtrpcError) as missing:
                await call("Nothing", b"")
            await call("Create", task.CreateTaskRequest(id=name, bundle=str(bundle)).SerializeToString())
            waiting = asyncio.create_task(call("Wait", task.WaitRequest(id=name).SerializeToString()))
            shim.ParseFromString(await call("Connect", task.ConnectRequest(id=name).SerializeToString()))
            many = [call("State", task.StateRequest(id=name).SerializeToString()) for _ in range(100)]
            states = [task.StateResponse.FromString(answer).status for answer in await asyncio.gather(*many)]
            await call("Start", task.StartRequest(id=name).SerializeToString())
            ended = task.WaitResponse.FromString(await waiting)
            await call("Delete", task.DeleteRequest(id=name).SerializeToString())
            async with asyncio.timeout(30):
                while "/tasks/delete" not in topics:  # noqa: ASYNC110 - the shim sends them when it likes
                    await asyncio.sleep(0.01)
            await shut_down(client, name)
        finally:
            await client.close()
            clear_away(name, shim.shim_pid)
    assert (Code.NOT_FOUND, Code.UNIMPLEMENTED) == (unknown.value.answer, missing.value.answer)
    assert [1] * 100 == states
    assert 7 == ended.exit_status
    assert ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] == topics


async def test_go_skips_a_frame_over_the_limit(bundle: Path) -> None:
    """Go's server answers a frame over 4 MiB as ours does: RESOURCE_EXHAUSTED on its stream, and the connection goes on."""
    name = f"long-{os.getpid()}"
    client = await Client.connect(start_shim(bundle, name, ""))
    transport = client._wire._alive()
    stream, answer = client._wire.begin(Request(service=TASK, method="State"))
    with pytest.raises(TtrpcError):
        await answer
    stream = client._wire._machine.call(Request(service=TASK, method="State"))
    client._wire._machine.to_send()
    answer = asyncio.get_running_loop().create_future()
    client._wire._waiting[stream] = (answer, None)
    transport.write(HEADER.pack(MAX_DATA + 1, stream, 1, 0) + bytes(MAX_DATA + 1))
    with pytest.raises(TtrpcError) as caught:
        await asyncio.wait_for(answer, 30)
    assert Code.RESOURCE_EXHAUSTED == caught.value.answer
    await shut_down(client, name)
    await client.close()
