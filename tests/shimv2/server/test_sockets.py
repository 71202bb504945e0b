"""The daemon's sockets, with its services behind them."""

import asyncio
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim._proto import shim_sandbox_pb2 as pb
from crishim.errors import Code
from crishim.shimv2.server.daemon import ShimServer
from crishim.shimv2.server.launcher import CONTROL, DONE, question, talk
from crishim.shimv2.wire.messages import SANDBOX_SERVICE
from crishim.system import SystemClock
from crishim.ttrpc.client import Client
from crishim.ttrpc.status import TtrpcError
from tests.shimv2.memory import MemoryRuntime


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """The state folder of a daemon over a runtime in memory."""
    with tempfile.TemporaryDirectory(prefix="shm") as name:
        runtime = MemoryRuntime()
        async with ShimServer(Path(name), lambda *_: runtime, SystemClock()).serving():
            yield Path(name)


async def start(folder: Path) -> str:
    """The address of a namespace."""
    answer = await asyncio.to_thread(talk, str(folder / CONTROL), question(("start", "pod", "k8s.io", str(folder), "")))
    assert answer.startswith(DONE)
    return answer.removeprefix(DONE).decode()


async def refusal(client: Client, method: str, payload: bytes) -> Code:
    with pytest.raises(TtrpcError) as refused:
        await client.call(SANDBOX_SERVICE, method, payload, timeout=10)
    return refused.value.answer


def sockets(folder: Path) -> dict[str, int]:
    """The modes of the sockets in a folder."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_socket()}


async def test_sockets_are_the_owner_s(folder: Path) -> None:
    """Nobody but root may connect to them."""
    await start(folder)
    assert {CONTROL: 0o600, "k8s.io.sock": 0o600} == sockets(folder)


async def test_statuses_of_the_sandbox_service(folder: Path) -> None:
    """A call in the wrong order, one that cannot be read and one that is not served have the status of their reason."""
    client = await Client.connect(await start(folder))
    unknown = pb.StartSandboxRequest(sandbox_id="pod").SerializeToString()
    assert Code.NOT_FOUND is await refusal(client, "StartSandbox", unknown)
    assert Code.INVALID_ARGUMENT is await refusal(client, "StartSandbox", b"\xff")
    assert Code.UNIMPLEMENTED is await refusal(client, "UpdateSandbox", unknown)
    await client.close()


async def test_a_frame_that_is_too_long(folder: Path) -> None:
    """It harms no other client: the daemon still answers."""
    address = await start(folder)
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
    writer.write((1 << 30).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"x" * 100)
    await writer.drain()
    client = await Client.connect(address)
    unknown = pb.PingRequest(sandbox_id="pod").SerializeToString()
    assert Code.NOT_FOUND is await refusal(client, "PingSandbox", unknown)
    await client.close()
    writer.close()
    async with asyncio.timeout(10):
        await reader.read()
