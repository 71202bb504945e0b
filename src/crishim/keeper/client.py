"""The server's side of the keeper: starts it where there is none, upgrades it where it is older, and asks it.

Each request has a connection of its own, so nothing is open here between requests. A keeper that dies takes the streams and
the exits of its containers with it, but for the exits that are in their files: requests that wait then raise `Unavailable`, and
the next creation starts a new keeper.
"""

import asyncio
import contextlib
import errno
import json
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crishim.errors import (
    Aborted,
    AlreadyExists,
    CreateRefused,
    CrishimError,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unknown,
    from_os_error,
)
from crishim.interfaces.capabilities import ByteReader, ProcessIO
from crishim.interfaces.keeper import KeepRequest
from crishim.keeper import wire
from crishim.keeper.launcher import TAKEN
from crishim.linux.cgroups import start_scope
from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program
from crishim.logs.attachers import Attacher
from crishim.model.process import Exit, TerminalSize

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024 * 1024
_PIECE: Final = 64 * 1024
_WITHIN: Final = 10.0
"""Seconds in which a keeper has started, or has answered."""

_PAUSE: Final = 0.01
"""Seconds between tries while the keeper has more clients waiting than the kernel lets."""

_PATIENT: Final = frozenset({"keep", "wait", "drain"})
"""Requests whose replies may take any time."""

_ROOT: Final = str(Path(__file__).parents[2])


class KeeperClient:
    """The keeper of one folder, as `interfaces.keeper.Keeper`. With `slice_name` a new one gets a scope of systemd's there."""

    def __init__(self, folder: Path, *, slice_name: str = "") -> None:
        self._folder = folder
        self._slice = slice_name
        self._starting = asyncio.Lock()

    async def keep(self, request: KeepRequest) -> int:
        """As `Keeper.keep`. A creation that is cancelled is given up: its creator is killed, and has ended on return; a
        program without a creator is killed.
        """
        content = {
            "verb": "keep",
            "name": request.name,
            "program": find_program(request.argv[0], env=request.env, cwd=request.cwd) or request.argv[0],
            "argv": list(request.argv),
            "env": dict(request.env),
            "cwd": request.cwd,
            "folder": str(request.folder or ""),
            "log": request.log_path,
            "terminal": request.terminal,
            "stdin": request.stdin,
            "stdin_once": request.stdin_once,
            "pid_file": str(request.pid_file or ""),
            "console": str(request.console or ""),
            "soft": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }
        try:
            return int((await self._ask(content, start=True))["pid"])
        except asyncio.CancelledError:
            await asyncio.shield(self._give_up(request))
            raise

    async def adopt(
        self,
        name: str,
        streams: Mapping[str, int],
        *,
        writers: Sequence[int] = (),
        log_path: str = "",
        stdin_once: bool = False,
    ) -> None:
        """As `Keeper.adopt`."""
        content = {
            "verb": "adopt",
            "name": name,
            "streams": list(streams),
            "log": log_path,
            "terminal": False,
            "stdin_once": stdin_once,
        }
        await self._ask(content, [*streams.values(), *writers], start=True)

    async def release(self, name: str) -> None:
        """As `Keeper.release`."""
        await self._ask({"verb": "release", "name": name})

    async def takes_input(self, name: str) -> bool:
        """As `Keeper.takes_input`."""
        return bool((await self._ask({"verb": "input", "name": name}))["open"])

    async def wait(self, name: str) -> Exit:
        """As `Keeper.wait`."""
        return _exit(await self._ask({"verb": "wait", "name": name}))

    async def drain(self, name: str, end: Exit) -> Exit:
        """As `Keeper.drain`."""
        return _exit(await self._ask({"verb": "drain", "name": name, "code": end.code, "at": end.at}))

    async def kill(self, name: str, signal: int) -> None:
        """As `Keeper.kill`."""
        await self._ask({"verb": "kill", "name": name, "signal": signal})

    async def resize(self, name: str, size: TerminalSize) -> None:
        """As `Keeper.resize`."""
        await self._ask({"verb": "resize", "name": name, "height": size.height, "width": size.width})

    async def reopen_log(self, name: str) -> None:
        """As `Keeper.reopen_log`."""
        await self._ask({"verb": "reopen", "name": name})

    async def forget(self, name: str) -> None:
        """As `Keeper.forget`."""
        await self._ask({"verb": "forget", "name": name})

    async def containers(self) -> Mapping[str, int]:
        """As `Keeper.containers`."""
        return {name: pid for name, (pid, _) in (await self._list()).items()}

    async def exits(self) -> Mapping[str, Exit | None]:
        """As `Keeper.exits`."""
        return {name: None if end is None else _exit(end) for name, (_, end) in (await self._list()).items()}

    async def attach(self, name: str, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`. Our end is read whether or not the client reads.

        Raises `Aborted` if this process does not read for `connection.PATIENCE` seconds; until then the container waits.
        """
        async with self._asked({"verb": "attach", "name": name, "stdin": io.stdin is not None}) as (_, connection, rest):
            attacher = Attacher(io, _BACKLOG)
            feeds = [_feed(connection, io.stdin)] if io.stdin is not None else []
            sizes = [self._follow(name, io.sizes)] if io.sizes is not None else []
            await attacher.run_beside(_pump(connection, rest, attacher), *feeds, *sizes)

    async def identify(self) -> int | None:
        """The pid of the keeper; None if there is none."""
        try:
            return int((await self._ask({"verb": "hello"}))["pid"])
        except _NoKeeper:
            return None

    async def upgrade(self) -> bool:
        """Have a running keeper of other code execute this one; whether it did. Nothing is lost, and its pid stays.

        The new code is tried first by itself. Where it does not run, or cannot read the older one's table, the older goes on,
        which is logged.
        """
        try:
            running = await self._ask({"verb": "hello"})
        except _NoKeeper:
            return False
        if running["code"] == wire.CODE:
            return False
        if running["table"] != wire.TABLE:
            _log.warning("the keeper %d of another version goes on until its containers have ended", running["pid"])
            return False
        trial = await children.start(*_command(_code("daemon", trial=True)))
        if await trial.wait():
            _log.warning("the keeper %d goes on: its successor does not run", running["pid"])
            return False
        await self._execute(_command(_code("daemon")))
        return True

    async def _execute(self, command: Sequence[str]) -> None:
        """Have the keeper execute another program, which goes on with all that it has. Raises `Unknown` if it cannot."""
        await self._ask({"verb": "upgrade", "argv": [*command, str(self._folder)]})

    async def _follow(self, name: str, sizes: AsyncIterator[TerminalSize]) -> None:
        async for size in sizes:
            with contextlib.suppress(CrishimError):  # it may have ended meanwhile
                await self.resize(name, size)

    async def _list(self) -> Mapping[str, tuple[int, Mapping[str, Any] | None]]:
        try:
            found: Mapping[str, Any] = (await self._ask({"verb": "list"}))["containers"]
        except _NoKeeper:
            return {}
        return found

    async def _give_up(self, request: KeepRequest) -> None:
        if request.pid_file is None:
            with contextlib.suppress(NotFound, Unavailable):
                await self.kill(request.name, signal.SIGKILL)
        with contextlib.suppress(NotFound, Unavailable):
            await self.forget(request.name)

    async def _ask(self, content: Mapping[str, Any], fds: Sequence[int] = (), *, start: bool = False) -> dict[str, Any]:
        limit = None if content["verb"] in _PATIENT else _WITHIN
        try:
            async with asyncio.timeout(limit), self._asked(content, fds, start=start) as (reply, _, _):
                return reply
        except TimeoutError:
            raise Unavailable("the keeper does not answer") from None

    @contextlib.asynccontextmanager
    async def _asked(
        self, content: Mapping[str, Any], fds: Sequence[int] = (), *, start: bool = False
    ) -> AsyncIterator[tuple[dict[str, Any], socket.socket, bytearray]]:
        """Send a request; gives the reply, the connection, and what has come behind the reply."""
        for last in (False, True):
            with await self._connected(start=start) as connection:
                buffer = bytearray()
                try:
                    answer = await _exchange(connection, wire.message(dict(content)), fds, buffer)
                except ConnectionError as error:  # a keeper that ends just now has not read all of the request
                    if last:
                        raise Unavailable(f"the keeper cannot be asked: {error.strerror}") from error
                    continue
                if "error" in answer:
                    raise _error(answer, str(content.get("name", "")))
                yield answer, connection, buffer
                return

    async def _connected(self, *, start: bool) -> socket.socket:
        """A connection to the keeper, which is started if need be."""
        if (connection := await self._try()) is not None:
            return connection
        if not start:
            raise _NoKeeper("there is no keeper")
        async with self._starting, asyncio.timeout(_WITHIN):
            while (connection := await self._try()) is None:
                await self._start()
        return connection

    async def _try(self) -> socket.socket | None:
        """A connection; None if nobody listens. Waits while more clients are waiting than the kernel lets."""
        while True:
            try:
                return self._connect()
            except BlockingIOError:
                await asyncio.sleep(_PAUSE)

    def _connect(self) -> socket.socket | None:
        """A connection; None if nobody listens. Raises `BlockingIOError` while too many are waiting."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            wire.connect(connection, str(self._folder))
        except OSError as error:
            connection.close()
            if isinstance(error, BlockingIOError):
                raise
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
                return None
            raise Unavailable(f"the keeper cannot be reached: {error.strerror}") from error
        return connection

    async def _start(self) -> None:
        null = asyncio.subprocess.DEVNULL
        command = (*_command(_code("launcher")), str(self._folder), _code("daemon"))
        process = await children.start(*command, stdin=null, stdout=null, stderr=asyncio.subprocess.PIPE)
        try:
            _, complaint = await process.communicate()
        except BaseException:
            await asyncio.shield(end_program(process))
            raise
        if process.returncode == TAKEN:  # it listens soon, or ends just now
            await asyncio.sleep(0.01)
        elif process.returncode:
            raise Unknown(f"the keeper does not start: {complaint.decode('utf-8', 'replace').strip()[-500:]}")
        elif (probe := await self._try()) is None:
            raise Unknown(f"the keeper has ended at once: {complaint.decode('utf-8', 'replace').strip()[-500:]}")
        else:
            probe.close()
            if self._slice:
                await self._move()

    async def _move(self) -> None:
        """Put a new keeper into a scope of its own, or it would end with the service."""
        pid = await self.identify()
        try:
            if pid is not None:
                await start_scope(f"crishim-keeper-{pid}.scope", self._slice, pid)
        except CrishimError as error:
            _log.warning("the keeper stays in the cgroup of this process: %s", error)


class _NoKeeper(Unavailable):
    """Nobody listens; a keeper that does not answer is another matter."""


def _code(module: str, *, trial: bool = False) -> str:
    """Python code for a process without site packages: it finds this package, and runs a module, or only imports it."""
    run = "" if trial else "; sys.exit(main(sys.argv[1:]))"
    return f"import sys; sys.path.insert(0, {_ROOT!r}); from crishim.keeper.{module} import main{run}"


def _command(code: str) -> tuple[str, ...]:
    return (sys.executable, "-IS", "-c", code)


def _exit(reply: Mapping[str, Any]) -> Exit:
    return Exit(code=reply["code"], at=reply["at"], oom=reply["oom"])


def _error(reply: Mapping[str, Any], name: str) -> CrishimError:
    """The error of a reply."""
    kind, message = str(reply["error"]), str(reply["message"])
    if kind == "OSError":
        return from_os_error(OSError(reply["errno"], message), reply.get("path") or "the keeper")
    if kind == "InvalidArgument":
        return InvalidArgument("request", message)
    if kind in {"NotFound", "AlreadyExists"}:
        return (NotFound if kind == "NotFound" else AlreadyExists)("container", name)
    return _BY_MESSAGE.get(kind, Unknown)(message)


_BY_MESSAGE: Final[Mapping[str, type[CrishimError]]] = {
    "Aborted": Aborted,
    "CreateRefused": CreateRefused,
    "Unavailable": Unavailable,
}


async def _exchange(connection: socket.socket, request: bytes, fds: Sequence[int], buffer: bytearray) -> dict[str, Any]:
    """Send a request and receive its reply; what comes behind that is left in the buffer."""
    loop = asyncio.get_running_loop()
    sent = socket.send_fds(connection, [request], fds) if fds else 0
    if sent < len(request):  # else the keeper may have replied, and have closed its end
        await loop.sock_sendall(connection, request[sent:])
    while (reply := wire.take(buffer)) is None:
        if not (data := await loop.sock_recv(connection, _PIECE)):
            raise Unavailable("the keeper has died")
        buffer += data
    answer: dict[str, Any] = json.loads(reply[1])
    return answer


async def _pump(connection: socket.socket, buffer: bytearray, attacher: Attacher) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            while (frame := wire.take(buffer)) is not None:
                if frame[0] == wire.MESSAGE:
                    raise _error(json.loads(frame[1]), "")
                attacher.offer("stderr" if frame[0] == wire.STDERR else "stdout", frame[1])
            if not (data := await loop.sock_recv(connection, _PIECE)):
                return
            buffer += data
    except ConnectionError:
        pass
    finally:
        attacher.end()


async def _feed(connection: socket.socket, stdin: ByteReader) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await stdin.read():
            await loop.sock_sendall(connection, wire.frame(wire.STDIN, data))
        connection.shutdown(socket.SHUT_WR)
