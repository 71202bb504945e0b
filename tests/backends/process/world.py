"""A process backend with pods and real children, for tests."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from crishim.backends.process import ProcessBackend
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import ProcessIO
from crishim.linux.processes import read
from crishim.logs.lines import parse
from crishim.model.container import ContainerSpec
from crishim.model.process import ExecSpec, Exit
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, FrozenDict
from crishim.system import SystemClock
from crishim.testing.conformance.candidate import Candidate, World

TIMEOUT = 60.0


class Pod(World):
    """One backend and one sandbox of it, with shell scripts as containers."""

    backend: ProcessBackend
    spec: SandboxSpec

    @property
    def folder(self) -> Path:
        return self.candidate.scratch

    async def start(self, script: str, **requested: Any) -> ContainerSpec:
        """Run a container with a shell script."""
        return await self.run(self.spec, ("sh", "-c", script), **requested)

    async def sh(self, container_id: ContainerId, script: str, io: ProcessIO | None = None, *, tty: bool = False) -> Exit:
        """Run a shell script in a container to its end."""
        async with asyncio.timeout(TIMEOUT):
            return await self.backend.exec(container_id, ExecSpec(argv=("sh", "-c", script), tty=tty), io or ProcessIO())


def context(folder: Path, **options: object) -> BackendContext:
    return BackendContext(
        state=folder / "state", runtime_state=folder / "run", options=FrozenDict(options), clock=SystemClock()
    )


@contextlib.asynccontextmanager
async def pod(folder: Path | None = None) -> AsyncIterator[Pod]:
    """A backend with one sandbox; at the end it holds nothing, and no descriptor or file is left."""
    with contextlib.ExitStack() as temporary:
        where = folder or Path(temporary.enter_context(tempfile.TemporaryDirectory()))
        before = descriptors()
        backend = ProcessBackend(context(where))
        candidate = Candidate(make=unmade, context=context(where), scratch=where)
        world = Pod(candidate, backend)
        await world.begin()
        try:
            world.spec = await world.sandbox()
            yield world
            await world.tidy()
            assert not (await backend.inventory()).containers
        finally:
            await backend.close()
        assert before == descriptors()
        assert [] == [file for file in (where / "run").rglob("*") if file.is_file()]


async def unmade(_: BackendContext) -> ProcessBackend:
    raise NotImplementedError


def log_lines(spec: ContainerSpec, stream: str = "stdout") -> list[bytes]:
    lines = map(parse, Path(spec.log_path).read_bytes().split(b"\n")[:-1])
    return [line.content for line in lines if line.stream == stream]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(pid: int | bytes) -> bool:
    """Whether a process of this number runs."""
    process = read(int(pid))
    return process is not None and not process.ended


async def until(true: Callable[[], bool]) -> None:
    """Wait for what announces itself by no event."""
    async with asyncio.timeout(TIMEOUT):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
