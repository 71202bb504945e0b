"""A keeper in a folder of its own, and clients of it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import CrishimError
from crishim.interfaces.capabilities import ByteReader, ByteWriter
from crishim.interfaces.keeper import KeepRequest
from crishim.keeper.client import KeeperClient
from crishim.linux import processes
from crishim.logs.lines import parse
from crishim.model.process import Exit


class Collector(ByteWriter):
    """A client's end of an output. While `reading` is clear, it takes nothing."""

    def __init__(self) -> None:
        self.text = b""
        self.reading = asyncio.Event()
        self.reading.set()

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        self.text += data


class Typed(ByteReader):
    """A client's input, which comes when it is put there; an empty piece is its end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self.queue.get()


class KeeperWorld:
    """A keeper's folder, and the files of the containers in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keeper = KeeperClient(folder / "keeper")

    async def run(self, name: str, script: str, **changes: Any) -> int:
        """Run a shell's lines with a log; the pid."""
        (self.folder / name).mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "name": name,
            "argv": ("/bin/sh", "-c", script),
            "env": {"PATH": os.defpath},
            "log_path": str(self.folder / "logs" / f"{name}.log"),
            "folder": self.folder / name,
        }
        return await self.keeper.keep(KeepRequest(**{**values, **changes}))

    async def ended(self, name: str) -> Exit:
        """The exit of a container, which comes soon."""
        async with asyncio.timeout(30):
            return await self.keeper.wait(name)

    def log(self, name: str, stream: str = "stdout") -> bytes:
        """What a container has written to one stream, as its log has it."""
        file = self.folder / "logs" / f"{name}.log"
        lines = [parse(raw) for raw in file.read_bytes().splitlines(keepends=True)] if file.exists() else []
        return b"".join(line.content + (b"" if line.partial else b"\n") for line in lines if line.stream == stream)

    async def pid(self) -> int:
        """The keeper's pid."""
        pid = await self.keeper.identify()
        assert pid is not None
        return pid


@contextlib.asynccontextmanager
async def keeping(folder: Path) -> AsyncIterator[KeeperWorld]:
    """A world whose keeper and processes are gone afterwards."""
    world = KeeperWorld(folder)
    try:
        yield world
    finally:
        with contextlib.suppress(CrishimError):
            for pid in (await world.keeper.containers()).values():
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        if (keeper := await world.keeper.identify()) is not None:
            found = processes.read(keeper)
            os.kill(keeper, signal.SIGKILL)
            if found is not None:
                await processes.ended(found.identity)
        log = folder / "keeper" / "log"
        assert "Traceback" not in (log.read_text() if log.exists() else "")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[KeeperWorld]:
    """A keeper, which begins with its first container."""
    async with keeping(tmp_path) as made:
        yield made


async def until(true: Callable[[], bool]) -> None:
    """Poll a condition without an event, such as the content of a file."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
