"""A backend for an engine that is reached over HTTP, and has ids, networks and addresses of its own.

State that the engine can store is there, as labels: the sandbox of each machine, the container of each task. So a restarted
crishim finds everything by queries. State that it cannot store is in `context.state`: the path of a container's log.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from crishim import (
    Backend,
    BackendContext,
    BackendInfo,
    ContainerId,
    ContainerSpec,
    ContainerState,
    ExecSpec,
    Exit,
    InvalidArgument,
    Inventory,
    NetnsSource,
    NotFound,
    ObservedContainer,
    ObservedSandbox,
    Plugin,
    ProcessIO,
    SandboxId,
    SandboxSpec,
    SandboxStarted,
    SupportsClose,
    SupportsExec,
    SupportsLogReopen,
    Unavailable,
)
from crishim.logs.follower import LogFollower

IGNORES = {
    "PodSandboxConfig.hostname": "the engine names its machines",
    "PodSandboxConfig.dns_config": "a machine has the engine's resolver",
    "PodSandboxConfig.linux": "the engine configures its machines",
    "ContainerConfig.linux": "the engine configures its tasks",
}


class Remote:
    """The client of the engine's HTTP API, in JSON; its errors are converted to crishim's, by condition."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, **options: Any) -> Any:
        async with self._asked(method, path, **options) as reply:
            return await reply.json()

    async def lines(self, path: str) -> AsyncIterator[Any]:
        """The objects of a response of JSON lines, until its end."""
        async with self._asked("GET", path) as reply:
            async for line in reply.content:
                yield json.loads(line)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def _asked(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=5.0))
        try:
            async with self._session.request(method, self._url + path, **options) as reply:
                if reply.status == 404:
                    raise NotFound("object of the engine", path)
                if reply.status == 400:
                    raise InvalidArgument("config.command", await reply.text())
                reply.raise_for_status()
                yield reply
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise Unavailable(f"the engine at {self._url} cannot be reached: {error}") from error


class RemoteBackend(Backend, SupportsExec, SupportsLogReopen, SupportsClose):
    def __init__(self, context: BackendContext) -> None:
        if unknown := context.options.keys() - {"url"}:
            raise InvalidArgument(f"options.{min(unknown)}", "is not known; known: url")
        self._engine = Remote(str(context.options.get("url", "http://127.0.0.1:7070")).rstrip("/"))
        self._clock = context.clock
        self._notes = context.state
        self._logs: dict[ContainerId, LogFollower] = {}
        self._following: dict[ContainerId, asyncio.Task[None]] = {}

    async def probe(self) -> BackendInfo:
        version = (await self._engine.call("GET", "/version"))["version"]
        return BackendInfo(name="remote", version=version, netns=NetnsSource.NONE, supported=frozenset())

    async def inventory(self) -> Inventory:
        listing = await self._engine.call("GET", "/machines")
        containers = [self._observe(task) for task in listing["tasks"] if "sandbox" in task]
        for container in containers:
            if container.state is not ContainerState.CREATED:
                self._follow(container.id)
        return Inventory(
            sandboxes=tuple(
                ObservedSandbox(id=SandboxId(machine["label"]), ready=machine["running"], ips=(machine["address"],))
                for machine in listing["machines"]
            ),
            containers=tuple(containers),
        )

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        machine = await self._engine.call("POST", "/machines", json={"label": spec.id})
        return SandboxStarted(ips=(machine["address"],))

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        await self._engine.call("POST", f"/machines/{(await self._find('machines', sandbox_id))['id']}/stop")

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        for machine in await self._all("machines", sandbox_id):  # a start whose response was lost may have created two
            await self._engine.call("DELETE", f"/machines/{machine['id']}")

    async def create_container(self, spec: ContainerSpec) -> None:
        if spec.log_path:
            (self._notes / f"{spec.id}.log").write_text(spec.log_path)
        request = {"label": spec.id, "sandbox": spec.sandbox.id, "argv": spec.argv, "env": dict(spec.env), "cwd": spec.cwd}
        await self._engine.call("POST", "/tasks", json=request)

    async def start_container(self, container_id: ContainerId) -> None:
        await self._engine.call("POST", f"/tasks/{(await self._find('tasks', container_id))['id']}/start")
        self._follow(container_id)

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        task = await self._find("tasks", container_id)
        await self._engine.call("POST", f"/tasks/{task['id']}/kill", json={"signal": signal})

    async def wait_container(self, container_id: ContainerId) -> Exit:
        task = await self._find("tasks", container_id)
        code = (await self._engine.call("GET", f"/tasks/{task['id']}/wait"))["code"]
        if (following := self._following.get(container_id)) is not None:
            await asyncio.shield(following)  # the log is complete before the exit is reported
        return Exit(code=code)

    async def remove_container(self, container_id: ContainerId) -> None:
        for task in await self._all("tasks", container_id):
            await self._engine.call("DELETE", f"/tasks/{task['id']}")
        if (following := self._following.pop(container_id, None)) is not None:
            following.cancel()
        (self._notes / f"{container_id}.log").unlink(missing_ok=True)

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        """One more task with the container's environment; it is removed, and so killed, however this ends."""
        beside = await self._find("tasks", container_id)
        request = {
            "label": "",
            "argv": spec.argv,
            "env": beside["env"],
            "cwd": beside["cwd"],
            "raw": True,
            "stdin": bool(io.stdin),
        }
        path = f"/tasks/{(await self._engine.call('POST', '/tasks', json=request))['id']}"
        feeding: asyncio.Task[None] | None = None
        try:
            await self._engine.call("POST", f"{path}/start")
            feeding = asyncio.create_task(self._feed(path, io))
            async for piece in self._engine.lines(f"{path}/output"):
                if (sink := io.stdout if piece["stream"] == "stdout" else io.stderr) is not None:
                    with contextlib.suppress(BrokenPipeError):
                        await sink.write(base64.b64decode(piece["data"]))
            return Exit(code=(await self._engine.call("GET", f"{path}/wait"))["code"])
        finally:
            if feeding is not None:
                feeding.cancel()
            await self._engine.call("DELETE", path)

    async def reopen_log(self, container_id: ContainerId) -> None:
        if container_id in self._logs:
            self._logs[container_id].reopen()

    async def close(self) -> None:
        """Close the connection; the engine's tasks keep running."""
        for following in self._following.values():
            following.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        await self._engine.close()

    def _follow(self, container_id: ContainerId) -> None:
        note = self._notes / f"{container_id}.log"
        if container_id not in self._following and note.exists():
            log = self._logs[container_id] = LogFollower(Path(note.read_text()))
            self._following[container_id] = asyncio.create_task(self._write_log(container_id, log))

    async def _write_log(self, container_id: ContainerId, log: LogFollower) -> None:
        """Write the engine's output to the log, from where the log ends; retried while the engine is unavailable."""
        try:
            while True:
                try:
                    task = await self._find("tasks", container_id)
                    async for piece in self._engine.lines(f"/tasks/{task['id']}/output?since={log.since}"):
                        log.write(piece["time"], piece["stream"], base64.b64decode(piece["data"]))
                    break
                except NotFound:
                    break
                except Unavailable:
                    await self._clock.sleep(0.2)
                    log.close()
                    log = self._logs[container_id] = LogFollower(Path((self._notes / f"{container_id}.log").read_text()))
        finally:
            log.close()
            self._logs.pop(container_id, None)

    async def _feed(self, path: str, io: ProcessIO) -> None:
        while io.stdin is not None:
            data = await io.stdin.read()
            await self._engine.call("POST", f"{path}/stdin", data=data)
            if not data:
                return

    async def _find(self, kind: str, label: str) -> Any:
        return (await self._all(kind, label))[0]

    async def _all(self, kind: str, label: str) -> Any:
        found = (await self._engine.call("GET", f"/machines?label={label}"))[kind]
        if not found:
            raise NotFound(kind, label)
        return found

    def _observe(self, task: dict[str, Any]) -> ObservedContainer:
        running = ContainerState.RUNNING if task["started"] else ContainerState.CREATED
        seen = ObservedContainer(id=ContainerId(task["label"]), sandbox_id=SandboxId(task["sandbox"]), state=running)
        if task["code"] is None:
            return seen
        return attrs.evolve(seen, state=ContainerState.EXITED, exit=Exit(code=task["code"]))


plugin = Plugin(build=RemoteBackend, ignores=IGNORES)
