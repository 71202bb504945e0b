"""A backend for tests whose exec starts real child processes and whose ports are those of the loopback."""

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator

from crishim.errors import InvalidArgument, Unavailable
from crishim.interfaces.capabilities import ByteStream, ByteWriter, ProcessIO
from crishim.model.process import ExecSpec, Exit, TerminalSize
from crishim.model.values import ContainerId, SandboxId
from crishim.testing import FakeBackend


class TcpStream:
    """A `ByteStream` over a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(64 * 1024)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class ChildBackend(FakeBackend):
    """The fake world, but for exec and dial. `written` counts what exec'd processes have handed over."""

    def __init__(self) -> None:
        super().__init__(logs_to_disk=False)
        self.written = 0
        self.running = 0

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        self._called("exec", container_id)
        self.running += 1
        try:
            return await (self._on_a_terminal(spec, io) if spec.tty else self._on_pipes(spec, io))
        except FileNotFoundError as error:
            raise InvalidArgument("cmd", f"exec: {spec.argv[0]!r}: no such file") from error
        finally:
            self.running -= 1

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        self._called("dial", sandbox_id)
        try:
            return TcpStream(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise Unavailable(f"127.0.0.1:{port}: connection refused") from error

    async def _on_pipes(self, spec: ExecSpec, io: ProcessIO) -> Exit:
        child = await asyncio.create_subprocess_exec(*spec.argv, stdin=-1, stdout=-1, stderr=-1)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        feeding = asyncio.create_task(self._feed(io, child.stdin))
        try:
            await asyncio.gather(self._drain(child.stdout, io.stdout), self._drain(child.stderr, io.stderr))
            return Exit.from_returncode(await child.wait())
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            child._transport.close()  # type: ignore[attr-defined]  # kills it, and leaves no pipe that is full
            await child.wait()

    async def _on_a_terminal(self, spec: ExecSpec, io: ProcessIO) -> Exit:
        ours, theirs = pty.openpty()
        try:
            child = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": "xterm"},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0))
        tasks = [loop.create_task(self._type(io, ours))]
        if io.sizes is not None:
            tasks.append(loop.create_task(_resize(io.sizes, ours)))
        try:
            with contextlib.suppress(OSError):  # EIO is how a terminal ends
                await self._drain(reader, io.stdout)
            return Exit.from_returncode(await child.wait())
        finally:
            for task in tasks:
                task.cancel()
            if child.returncode is None:
                child.kill()
                await child.wait()
            await asyncio.gather(*tasks, return_exceptions=True)
            transport.close()

    async def _drain(self, reader: asyncio.StreamReader, writer: ByteWriter | None) -> None:
        while data := await reader.read(64 * 1024):
            self.written += len(data)
            if writer is not None:
                with contextlib.suppress(BrokenPipeError):
                    await writer.write(data)

    async def _feed(self, io: ProcessIO, stdin: asyncio.StreamWriter) -> None:
        while io.stdin is not None and (data := await io.stdin.read()):
            stdin.write(data)
            await stdin.drain()
        stdin.close()

    async def _type(self, io: ProcessIO, terminal: int) -> None:
        while io.stdin is not None and (data := await io.stdin.read()):
            os.write(terminal, data)


async def _resize(sizes: AsyncIterator[TerminalSize], terminal: int) -> None:
    async for size in sizes:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
