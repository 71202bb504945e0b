"""Runs an exec in a task of a shim."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from crishim.errors import CrishimError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import OciStatus
from crishim.logs.execution import ExecStreams
from crishim.model.process import Exit, TerminalSize
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.fifos import Fifos, paths_in
from crishim.shimv2.client.sandbox import SandboxShim
from crishim.shimv2.wire.messages import runtime_spec

_CLEARED_WITHIN = 10.0

_KILL = 9


class ShimExec:
    """One exec in a container."""

    def __init__(
        self,
        sandbox: SandboxShim,
        container_id: str,
        process: Mapping[str, Any],
        io: ProcessIO,
        started: Callable[[int], None],
    ) -> None:
        self._sandbox = sandbox
        self._container_id = container_id
        self._process = process
        self._io = io
        self._started = started
        self._exec_id = f"x{secrets.token_hex(8)}"
        self._starting: asyncio.Future[int] | None = None
        self._running = False
        self._end: Exit | None = None

    async def run(self) -> Exit:
        """As `SupportsExecProcess.exec_process`."""
        link = await self._sandbox.link()
        process = runtime_spec("Process", self._process)
        tty = bool(self._process.get("terminal"))
        # All outputs, requested or not: runc's shim opens each of them as soon as there is any stream.
        paths = paths_in(self._sandbox.folder.io(self._exec_id), stdin=self._io.stdin is not None, stderr=not tty)
        fifos = Fifos(paths)
        streams = ExecStreams(self._io, tty=tty)
        try:
            fifos.make()
            streams.adopt(fifos.open(resize=self._resize, stdin_ended=self._stdin_ended, hold=True))
            await link.exec(self._container_id, self._exec_id, process, paths, terminal=tty)
            try:
                await self._start(link)
                fifos.release()
                await streams.copy(lambda: self._wait(link))
            finally:
                streams.close()  # some shims report no exit while output is unread
                await asyncio.shield(self._clear_away(link))
        finally:
            streams.close()
            fifos.remove()
        assert self._end is not None
        return self._end

    async def _start(self, link: ShimLink) -> None:
        self._running = True
        # A call continues in the shim when it is cancelled here: only what has started can be killed.
        self._starting = asyncio.ensure_future(link.start(self._container_id, self._exec_id))
        try:
            pid = await asyncio.shield(self._starting)
        except (Unavailable, DeadlineExceeded):
            raise
        except CrishimError as error:
            self._running = False
            status, _ = await self._sandbox.status(self._container_id)
            if status is OciStatus.RUNNING:
                raise InvalidArgument("cmd", error.message) from error
            raise
        self._started(pid)

    async def _wait(self, link: ShimLink) -> None:
        self._end = await link.wait(self._container_id, self._exec_id)
        self._running = False

    async def _clear_away(self, link: ShimLink) -> None:
        """Kill the exec if it runs, and delete it from the shim."""
        with contextlib.suppress(CrishimError, TimeoutError):
            async with asyncio.timeout(_CLEARED_WITHIN):
                if self._running and self._starting is not None:
                    await self._starting
                    with contextlib.suppress(NotFound):
                        await link.kill(self._container_id, _KILL, self._exec_id)
                        await link.wait(self._container_id, self._exec_id)
                await link.delete(self._container_id, self._exec_id)

    async def _resize(self, size: TerminalSize) -> None:
        with contextlib.suppress(CrishimError):  # it may have exited meanwhile
            await (await self._sandbox.link()).resize(self._container_id, self._exec_id, size)

    async def _stdin_ended(self) -> None:
        with contextlib.suppress(CrishimError):
            await (await self._sandbox.link()).close_stdin(self._container_id, self._exec_id)
