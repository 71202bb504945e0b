"""A Docker Engine of our own: started in a folder of its own, ended by its number, never the machine's."""

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from crishim.backends.docker import DockerBackend
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.options import read_options
from crishim.errors import CrishimError
from crishim.interfaces.backend import BackendContext
from crishim.linux import processes
from crishim.linux.mounts import unmount_below
from crishim.model.values import FrozenDict
from crishim.system import SystemClock
from crishim.testing.roots import APPLETS

TOOLS = {"dockerd": "docker.io", "busybox": "busybox-static", "catatonit": "catatonit"}
ELSEWHERE = {"crictl": "docs/how-to/debug.md says how to get it"}
IMAGE = "exam"

_TIMEOUT = 60.0


def needs(*tools: str) -> pytest.MarkDecorator:
    """A test that runs as root where these programs are; elsewhere it says which are missing and how to get them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return pytest.mark.skip(reason="needs root: run the tests as root")
    ways = [ELSEWHERE.get(tool) or f"apt-get install {TOOLS.get(tool, tool)}" for tool in missing]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: {'; '.join(ways)}")


def busybox() -> bytes:
    """A root file system of Debian's static busybox, as a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:

        def add(name: str, content: bytes, mode: int) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))

        add("bin/busybox", Path(str(shutil.which("busybox"))).read_bytes(), 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            tar.addfile(link)
        add("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nwww:x:33:44::/:/bin/sh\n", 0o644)
        add("etc/group", b"root:x:0:\nwww:x:44:\nextra:x:50000:www\n", 0o644)
    return packed.getvalue()


class Dockerd:
    """One engine. `start` and `stop` may be repeated; its data is in `place`, whose path is short."""

    def __init__(self, place: Path, *more: str) -> None:
        self.place = place
        self.socket = str(place / "s")
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when it answers."""
        folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        options = [f"{option}={self.place / name}" for option, name in folders.items()]
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", f"--host=unix://{self.socket}", "--bridge=none", "--iptables=false", *options, *self._more],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            if asyncio.run(self._answers()):
                return
            time.sleep(0.05)
        pytest.fail((self.place / "log").read_text()[-2000:])

    def kill(self) -> None:
        """Kill it, as a crash would; containers keep running, but its containerd dies with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._bury_containerd()

    def _bury_containerd(self) -> None:
        """Where init collects the dead late, the next engine would take a dead containerd for a living one."""
        noted = self.place / "exec/containerd/containerd.pid"
        pid = int(noted.read_text())
        deadline = time.monotonic() + _TIMEOUT
        while (process := processes.read(pid)) is not None and not process.ended:
            assert time.monotonic() < deadline, "containerd outlives its engine"
            time.sleep(0.01)
        noted.unlink()

    def stop(self) -> None:
        """Stop the daemon; it stops containers, unless it has live-restore."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_TIMEOUT)
            self._process = None

    def load(self, name: str = IMAGE, *changes: str) -> None:
        """Make an image of busybox."""
        asyncio.run(load(self.socket, name, *changes))

    def clear(self) -> None:
        """End everything it holds."""
        asyncio.run(self._clear())

    async def _answers(self) -> bool:
        engine = Engine(self.socket)
        try:
            await engine.probe()
        except CrishimError:
            return False
        finally:
            engine.close()
        return True

    async def _clear(self) -> None:
        engine = Engine(self.socket)
        for row in await engine.get("/containers/json", all=1):
            with contextlib.suppress(CrishimError):
                await engine.delete(f"/containers/{row['Id']}", force=1, v=1)
        engine.close()


async def load(socket: str, name: str = IMAGE, *changes: str) -> None:
    """Make an image of busybox in the engine at `socket`."""
    engine = Engine(socket)
    query = {"fromSrc": "-", "repo": name, "tag": "latest", **({"changes": changes[0]} if changes else {})}
    kind = (("Content-Type", "application/x-tar"),)
    async with engine.stream("POST", "/images/create", body=busybox(), headers=kind, query=query) as pieces:
        said = b"".join([piece async for piece in pieces])
    engine.close()
    assert b"error" not in said


@contextlib.contextmanager
def dockerd(*more: str, place: Path | None = None) -> Iterator[Dockerd]:
    """An engine with the exam's image, for the duration of a context; below `place`, or in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="dk", ignore_cleanup_errors=True) as folder:
        engine = Dockerd(place or Path(folder), *more)
        try:
            engine.start()
            engine.load()
            yield engine
        finally:
            if not engine.alive:
                engine.start()
            engine.clear()
            engine.stop()
            unmount_below(engine.place)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of 64 MiB."""
    with tempfile.TemporaryDirectory(prefix="dk") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            unmount_below(Path(folder))


def context(folder: Path, socket: str, **options: Any) -> BackendContext:
    """A backend's context below a folder."""
    state, run = folder / "state", folder / "run"
    for path in (state, run):
        path.mkdir(parents=True, exist_ok=True)
    return BackendContext(
        state=state, runtime_state=run, options=FrozenDict({"socket": socket, **options}), clock=SystemClock()
    )


@contextlib.asynccontextmanager
async def backend_at(folder: Path, socket: str, **options: Any) -> AsyncIterator[DockerBackend]:
    """A backend, which closes its engine's connections at the end."""
    backend_context = context(folder, socket, **options)
    backend = DockerBackend(backend_context, read_options(backend_context.options))
    try:
        yield backend
    finally:
        await backend.disconnect()
