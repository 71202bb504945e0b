"""The daemon of a shim v2 runtime: one process that serves the tasks of a whole node to containerd.

Its state folder has the socket `control`, to which launchers connect (see `launcher`), and NAME.sock for each of containerd's
namespaces: one address serves all tasks of a namespace, since every call names its task. An error is a response, and never
ends the daemon.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any, Final

import attrs

from crishim._proto import shim_bootstrap_pb2 as bootstrap_pb
from crishim._proto import shim_events_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import AlreadyExists, CrishimError, InvalidArgument
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.interfaces.seats import Clock
from crishim.linux.cgroups import Cgroups
from crishim.model.process import Exit
from crishim.pods.bundle import write_atomically
from crishim.pods.host import cgroup_v2
from crishim.shimv2.server.events import Publisher
from crishim.shimv2.server.launcher import CONTROL, DONE, FAILED
from crishim.shimv2.server.options import asked, start_options
from crishim.shimv2.server.routes import delete_response, handlers
from crishim.shimv2.server.sandbox_routes import sandbox_handlers
from crishim.shimv2.server.sandboxes import ShimSandboxes
from crishim.shimv2.server.task import NONE, Creation, Key, Task, TaskEvents, TaskRecords
from crishim.shimv2.server.tasks import Tasks
from crishim.shimv2.wire.messages import timestamp_of
from crishim.ttrpc.address import bound_socket
from crishim.ttrpc.server import Server

__all__ = ["Make", "ShimServer"]

Make = Callable[[str, tuple[str, bytes]], OciRuntime]
"""Returns the runtime for containerd's namespace and a task's options (type and value). Called for each task; may return the
same object.
"""

_MOST_ASKED: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*")

_LOOK: Final = 0.2
_UNUSED: Final = 5_000_000_000
_AFTER_SHUTDOWN: Final = 500_000_000
"""Nanoseconds without use after which the daemon of one sandbox ends. containerd connects at once after `start`; after Shutdown
it closes its connection itself.
"""

_log = logging.getLogger(__name__)


@attrs.frozen
class ShimStart:
    """What a launcher's `start` has named: the address for events, and the runtime's options."""

    events: str = ""
    options: tuple[str, bytes] = NONE


class EventSink(TaskEvents):
    """Publishes the events of each task to its containerd."""

    def __init__(self, publisher_of: Callable[[Task], Publisher | None], forget: Callable[[Task], object]) -> None:
        self._publisher_of = publisher_of
        self._forget = forget

    def created(self, task: Task, creation: Creation) -> None:
        """As `TaskEvents.created`."""
        paths = creation.io
        mounts = [
            types_pb.Mount(type=mount.kind, source=mount.source, target=mount.target, options=mount.options)
            for mount in creation.mounts
        ]
        io = pb.TaskIO(stdin=paths.stdin, stdout=paths.stdout, stderr=paths.stderr, terminal=paths.terminal)
        event = pb.TaskCreate(container_id=task.id, bundle=str(creation.bundle), rootfs=mounts, io=io, pid=task.main.pid)
        self._publish(task, "create", event)

    def started(self, task: Task) -> None:
        """As `TaskEvents.started`."""
        self._publish(task, "start", pb.TaskStart(container_id=task.id, pid=task.main.pid))

    def exec_added(self, task: Task, exec_id: str) -> None:
        """As `TaskEvents.exec_added`."""
        self._publish(task, "exec-added", pb.TaskExecAdded(container_id=task.id, exec_id=exec_id))

    def exec_started(self, task: Task, exec_id: str, pid: int) -> None:
        """As `TaskEvents.exec_started`."""
        self._publish(task, "exec-started", pb.TaskExecStarted(container_id=task.id, exec_id=exec_id, pid=pid))

    def exited(self, task: Task, exec_id: str, pid: int, end: Exit) -> None:
        """As `TaskEvents.exited`; an out-of-memory kill is published before the exit."""
        if end.oom:
            self._publish(task, "oom", pb.TaskOOM(container_id=task.id))
        event = pb.TaskExit(
            container_id=task.id, id=exec_id or task.id, pid=pid, exit_status=end.code, exited_at=timestamp_of(end)
        )
        self._publish(task, "exit", event)

    def deleted(self, task: Task, end: Exit) -> None:
        """As `TaskEvents.deleted`."""
        event = pb.TaskDelete(
            container_id=task.id, id=task.id, pid=task.main.pid, exit_status=end.code, exited_at=timestamp_of(end)
        )
        self._publish(task, "delete", event)
        self._forget(task)

    def paused(self, task: Task, *, paused: bool) -> None:
        """As `TaskEvents.paused`."""
        event = pb.TaskPaused(container_id=task.id) if paused else pb.TaskResumed(container_id=task.id)
        self._publish(task, "paused" if paused else "resumed", event)

    def _publish(self, task: Task, topic: str, event: Any) -> None:
        publisher = self._publisher_of(task)
        if publisher is not None:
            publisher.publish(task.key[0], f"/tasks/{topic}", event)


class ShimServer:
    """Serves tasks on the runtimes that `make` returns, on sockets in `folder`."""

    def __init__(self, folder: Path, make: Make, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._publishers: dict[str, Publisher] = {}
        self._starts: dict[Key, ShimStart] = {}
        self._asking = 0
        unified = cgroup_v2()
        cgroups = Cgroups(v2=unified)
        self._servers: dict[str, tuple[Server, asyncio.Task[None]]] = {}
        self.tasks = Tasks(
            make,
            clock,
            EventSink(self._publisher_of, lambda task: self._forget(task.key)),
            cgroups,
            TaskRecords(folder / "tasks"),
            pods=folder / "pods",
            unified=unified,
        )
        self.sandboxes = ShimSandboxes(
            make, clock, self.tasks, cgroups, folder, lambda key: self._starts.get(key, ShimStart()).options, self._forget
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve inside the `async with`. Raises `AlreadyExists` if another daemon serves the folder."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        listening = _bound(self._folder / CONTROL)
        listening.listen()  # from now on other daemons see that the folder is served
        left = [*self.sandboxes.left().items(), *((task.key, task.bundle) for task in self.tasks.take_over())]
        control = await asyncio.start_unix_server(self._answer, sock=listening, limit=_MOST_ASKED)
        ending = asyncio.get_running_loop().create_task(self._end(left))
        try:
            yield
        finally:
            ending.cancel()
            control.close()
            for server, _ in self._servers.values():
                await server.close()
            for publisher in self._publishers.values():
                await publisher.close()

    async def unused(self) -> None:
        """Return when there is no task and no sandbox: soon after a Shutdown, else after some seconds without a client."""
        last = self._clock.now()
        while True:
            shut = self.tasks.shutdown_asked.is_set()
            clients = 0 if shut else sum(server.connections for server, _ in self._servers.values())
            now = self._clock.now()
            if self._asking or clients or len(self.tasks) or len(self.sandboxes):
                last = now
            elif now - last >= (_AFTER_SHUTDOWN if shut else _UNUSED):
                return
            await self._clock.sleep(_LOOK)

    async def _end(self, left: Collection[tuple[Key, Path]]) -> None:
        """End what a previous daemon has left. containerd asks for each, but waits only five seconds."""
        ends = (self.sandboxes.end(key, bundle) for key, bundle in left)
        for (key, _), outcome in zip(left, await asyncio.gather(*ends, return_exceptions=True), strict=True):
            if isinstance(outcome, Exception):
                _log.warning("leftovers of %s remain: %s", key[1], outcome)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one launcher."""
        self._asking += 1
        try:
            reply = DONE + await self._do(await _question(reader))
        except (CrishimError, OSError, ValueError) as error:
            reply = FAILED + (str(error) or repr(error)).encode()
        except Exception as error:  # noqa: BLE001 - one launcher's request must not end the service
            _log.exception("a launcher's question")
            reply = FAILED + repr(error).encode()
        finally:
            self._asking -= 1
        with contextlib.suppress(OSError):
            writer.write(reply)
            writer.close()
            await writer.wait_closed()

    async def _do(self, request: bytes) -> bytes:
        *texts, stdin = request.split(b"\0", 5)
        command, task, namespace, place, events = map(os.fsdecode, texts)
        key, bundle = (namespace, task), Path(place)
        if not all(_NAME.fullmatch(name) for name in key):
            raise InvalidArgument("id", f"{key!r} are not valid names of a namespace and a task")
        if command == "start":
            self._starts[key] = ShimStart(events, start_options(stdin))
            address = await self._address(namespace)
            write_atomically(bundle / "address", address)
            return _bootstrap(address, stdin)
        if command == "delete":
            end = await self.sandboxes.end(key, bundle)
            self._forget(key)
            return delete_response(0, end).SerializeToString()
        raise InvalidArgument("command", f"{command!r} is not known")

    async def _address(self, namespace: str) -> str:
        """The address that serves the tasks of a namespace, which is opened if necessary."""
        path = self._folder / f"{namespace}.sock"
        if namespace not in self._servers:
            served = handlers(self.tasks, namespace, os.getpid()) | sandbox_handlers(self.sandboxes, namespace)
            server = Server(served)
            listening = asyncio.get_running_loop().create_task(server.listen(_bound(path)))
            self._servers[namespace] = server, listening
        try:
            await asyncio.shield(self._servers[namespace][1])
        except (OSError, CrishimError):
            self._servers.pop(namespace, None)  # the next request tries again
            raise
        return f"unix://{path}"

    def _forget(self, key: Key) -> None:
        self._starts.pop(key, None)

    def _publisher_of(self, task: Task) -> Publisher | None:
        start = self._starts.get(task.key)
        if start is None:  # containerd 2 runs `start` for a sandbox, and not for its members
            start = self._starts.get((task.key[0], task.sandbox), ShimStart())
            self._starts[task.key] = start
        address = start.events
        if address and address not in self._publishers:
            self._publishers[address] = Publisher(address, self._clock)
        return self._publishers.get(address)


async def _question(reader: asyncio.StreamReader) -> bytes:
    """The complete request of a launcher. Raises `InvalidArgument` if it is too long."""
    try:
        await reader.readexactly(_MOST_ASKED)
    except asyncio.IncompleteReadError as short:
        return short.partial
    raise InvalidArgument("stdin", "is too long")


def _bootstrap(address: str, stdin: bytes) -> bytes:
    """The plain address, which every containerd reads as Task v2; a BootstrapResult with Task v3 for one that sends
    BootstrapParams.
    """
    if asked(stdin) is None:
        return address.encode()
    return bootstrap_pb.BootstrapResult(version=3, address=address, protocol="ttrpc").SerializeToString()


def _bound(path: Path) -> socket.socket:
    """A socket bound at a path. An unserved socket is replaced; raises `AlreadyExists` if a process serves it."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise AlreadyExists("daemon", str(path))
    return bound_socket(path)
