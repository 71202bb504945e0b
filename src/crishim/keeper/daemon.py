"""The keeper itself: what it is asked, the children it has, and how it hands over to its successor.

    python -IS -c "..." FOLDER --fds=LISTENER,LOCK
    python -IS -c "..." FOLDER --table=FD

Standard library only, without asyncio, so that it stays small. FOLDER shows whose it is.

It is a child subreaper: what a program leaves behind becomes its child. Without containers and clients it ends soon.

For an upgrade it executes its successor's code in its place: pid, children and descriptors stay, as a table in memory says.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from crishim.keeper import wire
from crishim.keeper.connection import Connection
from crishim.keeper.container import KeeperContainer, is_child, read_number, spawn
from crishim.keeper.loop import READ, Loop
from crishim.keeper.streams import KeeperStreams

IDLE = 3.0
"""Seconds without a container and without a client, after which it ends."""

UNKNOWN = 255
"""The exit code of a process that its creator has collected itself."""

_COMPLAINT = 8192

_PAUSE = 1.0
"""Seconds without accepting clients after an accept has failed."""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Request: TypeAlias = dict[str, Any]


class Refused(Exception):
    """A request cannot be served; `name` is a class of `crishim.errors`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class KeeperProcess:
    """All containers of a keeper, and its clients."""

    def __init__(self, listener: socket.socket, lock: int) -> None:
        self._listener = listener
        self._lock = lock
        self._containers: dict[str, KeeperContainer] = {}
        self._connections: set[Connection] = set()
        self._callers: dict[str, Connection] = {}
        """Who waits for a creation, by the container's name."""
        self._processes: dict[int, KeeperContainer] = {}
        """Containers by the pid of their process, or of their creator before."""
        self._unclaimed: dict[int, tuple[int, int]] = {}
        """Exits of processes that may be a container's whose creator has not ended."""
        self._loop = Loop(self._reap)
        self._verbs: dict[str, Callable[[Connection, Request], None]] = {
            "hello": self._hello,
            "keep": self._keep,
            "adopt": self._adopt,
            "attach": self._attach,
            "resize": self._resize,
            "reopen": self._reopen,
            "wait": self._wait,
            "drain": self._drain,
            "input": self._input,
            "release": self._release,
            "kill": self._kill,
            "list": self._list,
            "forget": self._forget,
            "upgrade": self._upgrade,
        }
        listener.setblocking(False)
        self._listen()
        self._idle()

    def run(self) -> None:
        """Serve until it is idle."""
        self._reap()
        while True:
            self._loop.step()

    def _listen(self) -> None:
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors are left: others may be closed soon
            print(f"no client is accepted for a second: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
            self._loop.unwatch(self._listener.fileno())
            self._loop.at(self._listener, time.monotonic() + _PAUSE, self._listen)
            return
        self._connections.add(Connection(self._loop, connected, self._request, self._closed))
        self._idle()

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection.awaits is not None and connection in connection.awaits.waiting:
            connection.awaits.waiting.remove(connection)
        self._callers = {name: caller for name, caller in self._callers.items() if caller is not connection}
        if (attached := connection.container) is not None and connection in attached.streams.attached:
            attached.streams.attached.remove(connection)
            if connection.feeds and attached.streams.once:
                attached.streams.end_input()
        self._idle()

    def _idle(self) -> None:
        if self._containers or self._connections:
            self._loop.cancel(self)
        else:
            self._loop.at(self, time.monotonic() + IDLE, lambda: os._exit(0))

    def _request(self, connection: Connection, request: "Request") -> None:
        try:
            verb = self._verbs.get(request.get("verb", ""))
            if verb is None:
                raise Refused("Unimplemented", f"the keeper does not know {request.get('verb')!r}")
            verb(connection, request)
        except Refused as error:
            connection.reply({"error": error.name, "message": str(error)})
        except OSError as error:
            path = os.fsdecode(error.filename or "")
            connection.reply({"error": "OSError", "errno": error.errno, "message": error.strerror or str(error), "path": path})
        except Exception as error:  # noqa: BLE001 - the fault of one request
            connection.reply({"error": "InvalidArgument", "message": repr(error)})

    def _named(self, request: "Request") -> KeeperContainer:
        container = self._containers.get(request["name"])
        if container is None:
            raise Refused("NotFound", request["name"])
        return container

    def _hello(self, connection: Connection, _request: "Request") -> None:
        connection.reply({"pid": os.getpid(), "code": wire.CODE, "table": wire.TABLE})

    def _list(self, connection: Connection, _request: "Request") -> None:
        found = {name: [container.pid, container.exit] for name, container in self._containers.items()}
        connection.reply({"containers": found})

    def _new(self, request: "Request") -> KeeperContainer:
        if request["name"] in self._containers:
            raise Refused("AlreadyExists", request["name"])
        streams = KeeperStreams(self._loop, request["log"], terminal=request["terminal"], once=request["stdin_once"])
        return KeeperContainer(request["name"], streams, request.get("folder", ""))

    def _keep(self, connection: Connection, request: "Request") -> None:
        """Run a command line; the reply has the pid of the container's process."""
        container = self._new(request)
        theirs: list[int] = []
        try:
            streams = container.open(request, theirs)
            pid = spawn(request, streams)
        except BaseException:
            container.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._containers[container.name] = container
        self._processes[pid] = container
        if request["pid_file"]:
            container.creator, container.pid_file = pid, request["pid_file"]
            self._callers[container.name] = connection
        else:
            container.created(pid)
            connection.reply({"pid": pid})

    def _adopt(self, connection: Connection, request: "Request") -> None:
        """Take over streams that others have made, which come as descriptors."""
        names = request["streams"]
        if len(connection.fds) < len(names):
            raise Refused("InvalidArgument", f"{len(connection.fds)} descriptors for {len(names)} streams")
        container = self._new(request)
        fds, connection.fds = connection.fds, []
        container.writers = fds[len(names) :]
        try:
            for stream, fd in zip(names, fds, strict=False):
                container.streams.take(stream, fd)
            container.streams.begin()
        except BaseException:
            container.close()
            raise
        self._containers[container.name] = container
        connection.reply({"pid": 0})

    def _attach(self, connection: Connection, request: "Request") -> None:
        container = self._named(request)
        connection.reply({}, last=False)
        if container.exit is not None:
            connection.finish()
            return
        connection.container = container
        connection.feeds = request["stdin"] and container.streams.takes_input
        container.streams.attached.append(connection)

    def _resize(self, connection: Connection, request: "Request") -> None:
        self._named(request).streams.resize(request["height"], request["width"])
        connection.reply({})

    def _reopen(self, connection: Connection, request: "Request") -> None:
        container = self._named(request)
        if container.exit is not None:
            raise Refused("Unavailable", f"{container.name} has ended")
        container.streams.reopen()
        connection.reply({})

    def _wait(self, connection: Connection, request: "Request") -> None:
        container = self._named(request)
        if container.exit is not None:
            connection.reply(container.exit)
        else:
            self._await(container, connection)

    def _await(self, container: KeeperContainer, connection: Connection) -> None:
        connection.awaits = container
        container.waiting.append(connection)

    def _drain(self, connection: Connection, request: "Request") -> None:
        """The process behind streams that were adopted has exited, as the client knows."""
        container = self._named(request)
        if container.pid or container.creator:
            raise Refused("InvalidArgument", f"{container.name} has a process")
        if container.exit is None:
            container.release()
            self._await(container, connection)
            if container.status is None:
                container.exited(request["code"], request["at"], lambda: self._ended(container))
        else:
            connection.reply(container.exit)

    def _release(self, connection: Connection, request: "Request") -> None:
        self._named(request).release()
        connection.reply({})

    def _input(self, connection: Connection, request: "Request") -> None:
        connection.reply({"open": self._named(request).streams.has_input})

    def _kill(self, connection: Connection, request: "Request") -> None:
        container = self._named(request)
        if not container.pid or container.status is not None:
            raise Refused("NotFound", container.name)
        send = os.kill if container.pid_file else os.killpg  # its pid is nobody else's: only this process collects it
        send(container.pid, request["signal"])
        connection.reply({})

    def _forget(self, connection: Connection, request: "Request") -> None:
        """Forget a container, and kill its creator; its process, if there is one, is left alone."""
        container = self._named(request)
        if not container.creator:
            self._remove(container)
            connection.reply({})
            return
        if (caller := self._callers.pop(container.name, None)) is not None:
            caller.reply({"error": "Aborted", "message": f"the creation of {container.name} was given up"})
        self._callers[container.name] = connection
        container.given_up = True
        os.killpg(container.creator, signal.SIGKILL)

    def _remove(self, container: KeeperContainer) -> None:
        self._containers.pop(container.name, None)
        self._processes.pop(container.creator or container.pid, None)
        container.close()
        for waiting in tuple(container.waiting):
            waiting.reply({"error": "NotFound", "message": container.name})
        self._idle()

    def _reap(self) -> None:
        """Collect all children that have exited."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            self._unclaimed[pid] = (code if code >= 0 else 128 - code, time.time_ns())
            ended.append(pid)
        for pid in ended:
            if (container := self._processes.get(pid)) is not None:
                self._processes.pop(pid)
                if container.creator:
                    self._finish_creation(container, self._unclaimed.pop(pid)[0])
                else:
                    self._exited(container)
        if self._unclaimed and not any(container.creator for container in self._containers.values()):
            self._unclaimed.clear()

    def _exited(self, container: KeeperContainer) -> None:
        container.exited(*self._unclaimed.pop(container.pid), lambda: self._ended(container))

    def _finish_creation(self, container: KeeperContainer, code: int) -> None:
        """A creator has ended: the container is there, or nothing of it."""
        container.creator = 0
        pid = 0 if code else read_number(container.pid_file)
        caller = self._callers.pop(container.name, None)
        problem = "" if pid else container.complaint(_COMPLAINT)
        if pid and container.console is not None:
            try:
                container.take_console()
            except OSError as error:
                pid, problem = 0, f"the runtime has sent no terminal: {error.strerror}"
        if not pid or container.given_up:
            self._remove(container)
            reply: Request = {} if container.given_up else {"error": "CreateRefused", "message": problem}
        else:
            container.created(pid)
            self._processes[pid] = container
            if pid not in self._unclaimed and not is_child(pid):
                self._unclaimed[pid] = (UNKNOWN, time.time_ns())
            reply = {"pid": pid}
        if caller is not None:
            caller.reply(reply)
        if pid in self._unclaimed and not container.given_up:
            self._processes.pop(pid)
            self._exited(container)

    def _ended(self, container: KeeperContainer) -> None:
        for waiting in tuple(container.waiting):
            waiting.reply(container.exit or {})

    def _upgrade(self, connection: Connection, request: "Request") -> None:
        """Execute the successor, which replies. Refused where it cannot be executed, and then nothing has changed."""
        table = os.memfd_create("table")
        content = json.dumps(self._dump(connection)).encode()
        while content:
            content = content[os.write(table, content) :]
        fds = [table, *self._descriptors()]
        try:
            for fd in fds:
                os.set_inheritable(fd, True)
            os.execv(request["argv"][0], [*request["argv"], f"--table={table}"])  # noqa: S606 - no shell is wanted
        except BaseException:
            for fd in fds:
                os.set_inheritable(fd, False)
            os.close(table)
            raise

    def _descriptors(self) -> list[int]:
        """All that a successor needs."""
        fds = [fd for container in self._containers.values() for fd in container.descriptors()]
        fds += [fd for client in self._connections for fd in (client.socket.fileno(), *client.fds)]
        return [self._listener.fileno(), self._lock, *fds]

    def _dump(self, upgrading: Connection) -> "Request":
        return {
            "version": wire.TABLE,
            "fds": [self._listener.fileno(), self._lock],
            "upgrading": upgrading.socket.fileno(),
            "containers": [container.dump() for container in self._containers.values()],
            "connections": [connection.dump() for connection in self._connections],
            "callers": {name: caller.socket.fileno() for name, caller in self._callers.items()},
            "unclaimed": list(self._unclaimed.items()),
        }

    def load(self, table: "Request") -> None:
        """Take over what an earlier keeper has left; its descriptors are open here, and its children are ours."""
        for dumped in table["containers"]:
            container = KeeperContainer(dumped["name"], KeeperStreams.load(self._loop, dumped["streams"]))
            container.load(dumped)
            self._containers[container.name] = container
            if (pid := container.creator or container.pid) and container.status is None:
                self._processes[pid] = container
        clients = {}
        for dumped in table["connections"]:
            client = Connection(self._loop, socket.socket(fileno=dumped["fd"]), self._request, self._closed)
            self._connections.add(client)
            clients[dumped["fd"]] = client
            client.load(dumped, self._containers)
        self._callers = {name: clients[fd] for name, fd in table["callers"].items()}
        self._unclaimed = {pid: (code, at) for pid, (code, at) in table["unclaimed"]}
        for fd in self._descriptors():
            os.set_inheritable(fd, False)
        for container in self._containers.values():
            container.streams.resume()
            self._resume(container)
        self._hello(clients[table["upgrading"]], {})
        self._idle()

    def _resume(self, container: KeeperContainer) -> None:
        container.resume(lambda: self._ended(container))


def main(arguments: list[str]) -> None:
    """Serve with a listening socket and a lock that are open here, or go on with a predecessor's table."""
    _, option = arguments
    name, _, numbers = option.partition("=")
    if name == "--table":
        with os.fdopen(int(numbers), "rb") as file:
            file.seek(0)
            table = json.load(file)
        keeper = _keeper(table["fds"])
        keeper.load(table)
    else:
        keeper = _keeper([int(number) for number in numbers.split(",")])
    keeper.run()


def _keeper(fds: list[int]) -> KeeperProcess:
    for fd in fds:
        os.set_inheritable(fd, False)
    listener, lock = fds
    return KeeperProcess(socket.socket(fileno=listener), lock)
